"""What is said about runs that were broken on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from dreamer_lightning import cli
from dreamer_lightning.evaluation.gap import Start, value_metrics
from dreamer_lightning.evaluation.rollout import Episode
from dreamer_lightning.nets.heads import PolicyHead, TanhPolicyHead
from dreamer_lightning.types import Space, Specs
from dreamer_lightning.workshop.diagnose import closing, findings, report
from runfolders import write_run

NAMES = (
    "reward seen",
    "KL of posterior and prior",
    "action entropy",
    "scale of returns",
    "correlation of value and return",
    "train ratio",
    "dreamed minus real return",
    "loss of the world model",
)
HEALTHY = {
    "loss/dyn": 4.0,
    "loss/total": 9.0,
    "dream/entropy_norm": 0.5,
    "dream/return_scale": 20.0,
    "gap/value_corr": 0.9,
    "gap/return": 0.1,
    "gap/real_return": 1.0,
}


def write(folder: Path, rows: int = 20, score: float = 5.0, ratio: float = 512, **changes) -> Path:
    """A run whose metrics are constant but for ``changes``: numbers, or functions of the row."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"train_ratio": 512.0, "batch_size": 16, "batch_length": 64, "rssm": {"init_args": {"free_nats": 1.0}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | changes.pop("config", {})))
    columns = {**HEALTHY, "loss/recon/height": lambda i: 10.0 / (1 + i), **changes}
    lines = [",".join(["env_step", "agent_step", "update", "seconds", "episode/score", *columns])]
    for i in range(rows):
        agent_step = 1000 * (i + 2)
        update = int((agent_step - 1024) * ratio / 1024)
        clocks = f"{2 * agent_step},{agent_step},{update},{i}.0"
        values = [value(i) if callable(value) else value for value in columns.values()]
        lines += [f"{clocks},{score}" + "," * len(columns), f"{clocks},," + ",".join(map(str, values))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def wrong(folder: Path) -> list[str]:
    return [finding.name for finding in findings(folder) if finding.wrong]


def test_a_healthy_run_is_eight_lines_of_ok(tmp_path: Path):
    assert tuple(finding.name for finding in findings(write(tmp_path))) == NAMES
    lines = report(tmp_path).splitlines()
    assert len(lines) == 8
    assert all(line.startswith("ok ") for line in lines), lines
    assert "511.8" in lines[5] or "512" in lines[5]


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"score": 0.0}, "reward seen", "in 0 of 20 episodes"),
        ({"loss/dyn": 1.0}, "KL of posterior and prior", "rssm.free_nats"),
        ({"dream/entropy_norm": 0.99}, "action entropy", "a smaller actor_critic.actent"),
        ({"dream/entropy_norm": 0.001}, "action entropy", "a larger actor_critic.actent"),
        ({"dream/return_scale": 1.0}, "scale of returns", "larger rewards"),
        ({"gap/value_corr": -0.1}, "correlation of value and return", "repval"),
        ({"ratio": 300}, "train ratio", "updates are missing"),
        ({"gap/return": 0.7}, "dreamed minus real return", "a shorter imag_length"),
        ({"gap/return": -0.7}, "dreamed minus real return", "0.7 of 1"),
        ({"loss/recon/height": lambda i: 1.0 + i}, "loss of the world model", "a lower optimizer.lr"),
        ({"loss/reward": "nan"}, "loss of the world model", "not finite"),
    ],
)
def test_each_fault_is_found_alone(tmp_path: Path, changes, name: str, words: str):
    folder = write(tmp_path, **changes)
    assert wrong(folder) == [name]
    (line,) = [line for line in report(folder).splitlines() if line.startswith("!")]
    assert words in line


def test_other_settings_have_other_ranges(tmp_path: Path):
    config = {"rssm": {"init_args": {"free_nats": 3.0}}, "actor_critic": "dreamer_lightning.versions.ActorCriticV1"}
    folder = write(tmp_path, config=config, **{"loss/dyn": 3.0, "dream/return_scale": 1.0})
    assert wrong(folder) == ["KL of posterior and prior"]


def test_what_a_version_does_not_have_is_not_judged(tmp_path: Path):
    config = {"actor_critic": "dreamer_lightning.versions.ActorCriticV2"}
    assert wrong(write(tmp_path / "v2", config=config, **{"dream/return_scale": 1.0})) == []
    assert wrong(write(tmp_path / "repval", **{"loss/repval": lambda i: 10.0 * i})) == [], "no loss of the world model"
    assert wrong(write(tmp_path / "ratio", config={"train_ratio": 0}, ratio=0)) == []


def test_a_critic_is_not_judged_where_all_returns_are_alike(tmp_path: Path):
    """As at the end of a solved task: every state is worth about as much."""
    alike = write(tmp_path / "alike", **{"gap/value_corr": -0.56, "gap/value_spread": 0.02})
    assert wrong(alike) == []
    (line,) = [line for line in report(alike).splitlines() if line.startswith("?")]
    assert "-0.56, but the returns are alike: they spread by 2.0% of their size" in line
    assert "does not know" not in line
    apart = write(tmp_path / "apart", **{"gap/value_corr": -0.56, "gap/value_spread": 0.4})
    assert wrong(apart) == ["correlation of value and return"]


def test_what_was_not_measured_is_not_judged(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("train_ratio: 512.0\n")
    assert wrong(tmp_path) == []
    assert [line[0] for line in report(tmp_path).splitlines()].count("?") >= 7
    (tmp_path / "metrics.csv").write_text("env_step,agent_step,update,seconds\n8000,4000,0,1.0\n")
    assert wrong(tmp_path) == ["train ratio"]
    assert "no update in 4000 agent steps" in report(tmp_path)


def test_correlation_of_critic_and_real_return_by_hand():
    """Rewards 1, 0, 2 and a terminal end, without discount: the worth of the states is 3, 2, 2."""
    nothing = {"deter": np.zeros((4, 1))}
    episode = Episode({}, np.zeros((3, 1)), np.array([0.0, 1, 0, 2], np.float32), True, nothing, {})  # type: ignore[arg-type]
    starts = [Start(episode, time) for time in range(3)]
    last = np.full(3, 9.0)
    found = value_metrics(starts, np.array([6.0, 4, 4]), last, 1.0)
    spread = {"gap/value_spread": pytest.approx(2**0.5 / 7)}  # sqrt(2)/3 beside 7/3
    assert found == {"gap/value": pytest.approx(7 / 3), "gap/value_corr": pytest.approx(1.0), **spread}
    assert value_metrics(starts, np.array([3.0, 3, 3]), last, 1.0) == {"gap/value": pytest.approx(2 / 3), **spread}
    assert value_metrics(starts, np.array([0.0, 1, 1]), last, 1.0)["gap/value_corr"] == pytest.approx(-1.0)


def test_the_range_of_an_entropy():
    mixed = Specs({}, {"move": Space((2,)), "press": Space((), "int32", classes=4)})
    low, high = PolicyHead(3, mixed).entropy_range
    assert low == pytest.approx(2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.1)))
    assert high == pytest.approx(2 * 0.5 * np.log(2 * np.pi * np.e) + np.log(4))
    assert TanhPolicyHead(3, mixed).entropy_range is None


BARREN = """
import gymnasium, numpy as np

class Barren(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(2, self.t / 9, np.float32), 0.0, False, self.t >= 20, {}
"""


def test_a_run_without_reward_says_so_when_it_ends(tmp_path: Path, capsys):
    (tmp_path / "barren_task.py").write_text(BARREN)
    (tmp_path / "barren.yaml").write_text(
        'env: {class_path: dreamer_lightning.envs.Custom, init_args: {path: "barren_task:Barren"}}\n'
    )
    args = ["--config", str(tmp_path / "barren.yaml"), "--config", "debug.yaml", "--run_dir", str(tmp_path / "run")]
    quick = ["--updates", "24", "--evaluation.every", "100", "--evaluation.starts", "8", "--wandb.mode", "disabled"]
    assert cli.main(["fit", *args, *quick, "--learning_starts", "16", "--log_every", "40"]) == 0
    said = capsys.readouterr().out
    assert "diagnosis" in said
    assert "!  reward seen: in 0 of" in said
    assert "!  scale of returns: 1 (" in said
    assert cli.main(["diagnose", str(tmp_path / "run")]) == 0
    again = capsys.readouterr().out.strip().splitlines()
    assert len(again) == 8
    assert all(line in said for line in again)
    assert "action entropy: 0.9" in again[2], "measured: near the largest possible"


def test_the_line_to_copy_has_its_spaces_quoted(tmp_path: Path):
    folder = write(tmp_path / "a run")
    assert closing(folder).splitlines()[0] == f"diagnosis (diagnose '{folder}' repeats it)"


@pytest.mark.parametrize(
    ("args", "expected"), [([], "diagnose needs a run folder"), (["no"], "'no' is not a run folder")]
)
def test_mistakes_are_one_line(capsys, args, expected: str):
    assert cli.main(["diagnose", *args]) == 2
    assert expected in capsys.readouterr().err


def test_an_option_that_is_no_number_leaves_the_other_looks_be(tmp_path: Path):
    run = write_run(tmp_path / "run", [1.0, 2.0], rssm={"class_path": "mine.RSSM", "init_args": {"free_nats": [1, 2]}})
    lines = report(run).splitlines()
    assert len(lines) == 8
    assert "not measured (float() argument" in lines[1]

"""What `fit` promises when things go wrong, through `fit` itself."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import dreamer_lightning
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.types import BadNumbers, EnvFailure, UserError
from exact_compare import rows

OPTIONS = {
    "num_envs": 2,
    "train_ratio": 16,
    "batch_size": 2,
    "batch_length": 8,
    "learning_starts": 20,
    "imag_length": 3,
    "log_every": 20,
    "env_steps": 120,
    "evaluation": {"every": 0, "random_episodes": 0},
    "checkpoint": {"every": 1_000_000},
    "wandb": {"mode": "disabled"},
}


class Trouble(gymnasium.Env):
    """A random walk of 20 steps; makes trouble from its step ``at`` on, counted over episodes."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    dead = False

    def __init__(self, kind="", at=45):
        self.kind, self.at, self.time, self.total = kind, at, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.walk, self.time = self.np_random.normal(size=2).astype(np.float32), 0
        if Trouble.dead:
            raise OSError("the simulator's server is gone")
        return self.walk.copy(), {}

    def step(self, action):
        self.time, self.total = self.time + 1, self.total + 1
        self.walk = (self.walk + 0.1 * self.np_random.normal(size=2) + action).astype(np.float32)
        obs = self.walk.copy()
        if self.total >= self.at:
            if self.kind == "raise" and self.total == self.at:
                raise OSError("the simulator's server is gone")
            if self.kind == "broken":
                Trouble.dead = True
                raise OSError("the simulator's server is gone")
            obs = obs * np.nan if self.kind == "nan" else obs
        return obs, float(obs[0]), False, self.time == 20, {}


def fit(folder, kind="", env=None, **options):
    env = {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "test_trust:Trouble", **(env or {})}}
    env["init_args"]["kwargs"] = {"kind": kind}
    return dreamer_lightning.fit("gym.yaml", "debug.yaml", env=env, run_dir=str(folder), **{**OPTIONS, **options})


def saved_at(folder: Path) -> int:
    """Env step of the newest checkpoint, which is whole; its weights are finite."""
    found = runfolder.latest_complete(folder)
    weights = atomic.load_tensors(found / "model.pt")["loop"]["dreamer"].values()
    assert all(value.isfinite().all() for value in weights if value.is_floating_point())
    return runfolder.read_manifest(found)["env_step"]


def test_a_nan_observation_stops_the_run_with_its_state_saved(tmp_path):
    with pytest.raises(UserError, match=r"environment 0: env: observation is NaN .* \(update \d+, env step 88\)"):
        fit(tmp_path / "run", "nan")
    assert saved_at(tmp_path / "run") == 90


def test_a_nan_observation_can_be_masked_and_is_counted(tmp_path, capsys):
    run = fit(tmp_path / "run", "nan", faults={"numbers": "mask"}, env_steps=100)
    lines = [line for line in capsys.readouterr().err.splitlines() if "environment" in line]
    assert lines[0].startswith("warning: environment 0 observation was NaN or infinite at step 5 of an episode, now 0")
    assert max(run.series("health/masked")[1]) == 2 * 2 * 6  # observation and reward, two environments, steps 45 to 50


def test_an_environment_that_fails_once_costs_an_episode(tmp_path, capsys):
    run = fit(tmp_path / "run", "raise")
    assert run.series("health/env_failures")[1][-1] == 2
    err = capsys.readouterr().err
    assert "environment 1 raised OSError: the simulator's server is gone, the episode is cut" in err
    assert "Traceback" in err
    lengths = run.series("episode/length")[1]
    assert lengths.count(5) == 2  # cut in their fifth step
    assert saved_at(tmp_path / "run") == 120


def test_an_environment_that_fails_under_the_random_policy_is_made_anew(tmp_path, capsys):
    run = fit(tmp_path / "run", "raise", evaluation={"every": 0, "random_episodes": 3}, env_steps=40)
    assert "environment 0 raised OSError" in capsys.readouterr().err
    assert run.series("health/env_failures")[1][-1] == 1
    with pytest.raises(UserError, match="NaN"):
        fit(tmp_path / "bad", "nan", evaluation={"every": 0, "random_episodes": 3})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("log_every", 0, "too small; give 1"),
        ("num_envs", 0, "too small; give 1"),
        ("collector.steps", 0, "too small; give 1"),
        ("actor_critic.slow_every", 0, "too small; give 1"),
        ("discount.horizon", 0, "too small; give 1"),
        ("actor_critic.actent", -1, "too small; give 0"),
        ("actor_critic.lam", 1.5, "too large; give 1"),
        ("evaluation.num_envs", -1, "too small; give 0"),
        ("train_ratio", -1, "too small; give 0"),
        ("threads", 0, "too small; give 1"),
        ("seed", -1, "too small; give 0"),
        ("seed", 2**32, "too large"),
        ("fabric.precision", "64-true", "take 32-true, bf16-mixed or 16-mixed"),
    ],
)
def test_numbers_out_of_their_range_are_refused(tmp_path, name, value, says):
    group, _, option = name.rpartition(".")
    with pytest.raises(UserError, match=f"--{name}: .*{says}"):
        fit(tmp_path / "run", **({group: {option: value}} if group else {option: value}))
    assert not (tmp_path / "run").exists()


def test_evaluations_of_no_episode_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--evaluation.episodes: give 1 or more, or --evaluation.every 0"):
        fit(tmp_path / "run", evaluation={"every": 50, "episodes": 0})


def test_learning_that_can_never_start_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--learning_starts: 90 .* never holds more than 68; lower it, or raise"):
        fit(tmp_path / "run", learning_starts=90, replay={"capacity": 100}, batch_length=16)


def test_an_environment_that_fails_for_good_ends_the_run_with_its_state_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(Trouble, "dead", False)
    with pytest.raises(EnvFailure, match=r"(?s)failed 2 times in a row; the last time it raised OSError.*Traceback"):
        fit(tmp_path / "run", "broken", env={}, faults={"env_failures": 1 + 1})
    assert 88 <= saved_at(tmp_path / "run") <= 92


class Poison:
    """Makes the weights of the reward head not finite: what a broken update would leave."""

    def __init__(self, at: int = 3):
        self.at = at

    def on_train_batch_end(self, loop) -> None:
        if loop.clocks.update == self.at:
            with torch.no_grad():
                next(loop.dreamer.world_model.reward.parameters()).fill_(float("nan"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonargparse on classes where any object is allowed
def test_bad_weights_are_never_saved_over_good_ones(tmp_path, capsys):
    callbacks = [{"class_path": "test_trust.Poison", "init_args": {"at": 25}}]
    with pytest.raises(BadNumbers, match=r"loss/reward.*the gradient of reward.*\(update 25, env step"):
        fit(tmp_path / "run", fabric={"callbacks": callbacks}, checkpoint={"every": 40})
    assert "not written (the weights are not finite)" in capsys.readouterr().err
    assert saved_at(tmp_path / "run") == 40


def test_two_runs_of_a_seed_are_equal_and_deterministic_is_allowed(tmp_path):
    fit(tmp_path / "one", env_steps=80)
    try:
        fit(tmp_path / "two", env_steps=80, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    one, two = (rows(tmp_path / name) for name in ("one", "two"))
    assert len(one) > 4
    assert one["loss/total"].notna().any()
    assert one.equals(two)


DOC = (Path(__file__).parents[1] / "docs" / "from-trainer.md").read_text()
HOOKS = re.findall(r"`(on_\w+)`", DOC.split("## Hooks")[1].split("No other hook")[0])


class Record:
    """Notes every hook that the documentation lists."""

    seen: list[str] = []  # noqa: RUF012


def note(hook: str):
    return lambda self, loop, **given: Record.seen.append(hook)


for name in HOOKS:
    setattr(Record, name, note(name))


class Ask:
    def on_train_batch_end(self, loop):
        if loop.clocks.update == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def with_callback(name: str) -> dict:
    return {"callbacks": [{"class_path": f"test_trust.{name}"}]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fit_leaves_what_the_readme_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Record, "seen", [])
    env = {"class_path": "dreamer_lightning.envs.Custom"}
    env["init_args"] = {"path": "envs_samples:Sample", "kwargs": {"end": 20}}
    evaluation = {"every": 60, "episodes": 1, "starts": 2, "random_episodes": 1}
    options = {**OPTIONS, "evaluation": evaluation, "fabric": with_callback("Record")}
    run = dreamer_lightning.fit("gym.yaml", "debug.yaml", env=env, run_dir=str(tmp_path / "run"), **options)
    said = capsys.readouterr()
    assert said.out.count("updates to come") == 1
    assert all(text in said.out for text in ("random policy: score", "Summary", "run folder"))
    assert "video not written" not in said.err
    assert (run.dir / "plots" / "learning_curve.png").is_file()
    assert list(run.dir.glob("videos/*-episode.mp4"))
    assert run.series("fps/env")[1]
    assert set(HOOKS) - set(Record.seen) == {"on_exception", "on_load_checkpoint"}
    assert (Record.seen[0], Record.seen[-1]) == ("on_fit_start", "on_fit_end")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sigterm_saves_and_stops_a_run(tmp_path, capsys):
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody caught it"))
    try:
        fit(tmp_path / "run", env_steps=10**6, fabric=with_callback("Ask"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "SIGTERM" in capsys.readouterr().out
    manifest = runfolder.read_manifest(runfolder.latest_complete(tmp_path / "run"))
    assert manifest["update"] in (5, 6)


@pytest.mark.slow  # bfloat16 is a hundred times slower on a CPU
def test_a_run_in_bf16_mixed(tmp_path):
    evaluation = {"every": 60, "episodes": 1, "starts": 2}
    run = fit(tmp_path / "run", fabric={"precision": "bf16-mixed"}, env_steps=80, evaluation=evaluation)
    losses = run.series("loss/total")[1]
    assert losses
    assert all(map(math.isfinite, losses))
    assert run.series("eval/greedy_score")[1]


def test_collecting_in_the_background_saves_goes_on_and_ends(tmp_path, monkeypatch):
    """Environments are closed in the thread that made them; a batch in flight costs an episode, not the run."""
    closed: list[str] = []
    monkeypatch.setattr(Trouble, "close", lambda self: closed.append(threading.current_thread().name))
    fit(tmp_path / "run", collector={"overlap": True}, checkpoint={"every": 40})
    assert sum(name.startswith("collect") for name in closed) >= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("collect")]
    dreamer_lightning.fit(resume=str(tmp_path / "run"), env_steps=160)
    assert saved_at(tmp_path / "run") == 160


@pytest.mark.slow
def test_environments_in_worker_processes_change_no_number(tmp_path):
    for name, options in (("here", {}), ("there", {"collector": {"backend": "process"}}), ("other", {"seed": 1})):
        fit(tmp_path / name, env_steps=80, **options)
    here, there, other = (rows(tmp_path / name) for name in ("here", "there", "other"))
    assert here.equals(there)
    assert not here.equals(other)


def test_secrets_never_reach_the_run_folder(tmp_path, monkeypatch, capfd):
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    reference = "${oc.env:WANDB_API_KEY}"  # a config may refer to it, and the saved one refers to it too
    fit(tmp_path / "run", env={"hide": [reference]}, wandb={"mode": "offline"}, env_steps=60)
    assert reference in (tmp_path / "run" / "config.yaml").read_text()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    out = capfd.readouterr()
    assert secret not in out.out + out.err


def test_clocks_are_whole_numbers_of_any_size(tmp_path):
    """Env steps beyond 32 bits, through a checkpoint, a resume and the rows."""
    fit(tmp_path / "run", env_steps=60)
    folder = runfolder.latest_complete(tmp_path / "run")
    state = atomic.load_tensors(folder / "model.pt")
    far = 2**40
    state["loop"]["clocks"]["env_step"] += far
    state["loop"]["clocks"]["agent_step"] += far
    state["loop"]["log_every"]["last"] += far
    state["loop"]["evaluate_every"]["last"] += far
    manifest = runfolder.read_manifest(folder)
    manifest.pop("manifest_sha256")
    manifest["files"]["model.pt"] = atomic.save_tensors(folder / "model.pt", state)
    manifest["env_step"] += far
    runfolder.write_manifest(folder, manifest)
    dreamer_lightning.fit(resume=str(tmp_path / "run"), env_steps=far + 100)
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        steps = [int(row["env_step"]) for row in csv.DictReader(file)]
    assert steps[-1] == far + 100
    assert saved_at(tmp_path / "run") == far + 100


def test_a_config_runs_no_code_of_its_own(tmp_path):
    bait = tmp_path / "bait"
    for text in (
        f"seed: !!python/object/apply:os.system ['touch {bait}']",
        f"env: !!python/name:os.system 'touch {bait}'",
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError):
            dreamer_lightning.fit(str(tmp_path / "bad.yaml"), run_dir=str(tmp_path / "run"))
    assert not bait.exists()


def test_an_environment_that_fails_in_evaluation_costs_an_episode(tmp_path, capsys):
    run = fit(
        tmp_path / "run", "raise", env_steps=80, evaluation={"every": 60, "episodes": 3, "num_envs": 1, "starts": 0}
    )
    assert "environment 0 raised OSError" in capsys.readouterr().err
    assert run.series("eval/greedy_length")[1][0] == (20 + 20 + 5) / 3  # the third episode is cut in its fifth step

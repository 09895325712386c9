"""evaluate, dream and Agent.load on a run that fit has just made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dreamer_lightning import Agent
from dreamer_lightning.cli import fit, main
from dreamer_lightning.envs.base import specs_of
from dreamer_lightning.evaluation.evaluator import Evaluator


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A few updates on the counting environment, with vectors and images."""
    folder = tmp_path_factory.mktemp("runs") / "counting"
    env = {"class_path": "dreamer_lightning.envs.counting.Counting"}
    env["init_args"] = {"lengths": [20, 25], "truncate": True, "image_size": 48}
    options = {"env": env, "run_dir": str(folder), "updates": 3, "learning_starts": 40, "wandb": {"mode": "disabled"}}
    fit("dmc.yaml", "debug.yaml", **options)
    return folder


def test_evaluate_prints_a_table_and_writes_json(run, capsys):
    assert main(["evaluate", "--run", str(run), "--episodes", "2", "--starts", "16"]) == 0
    text = capsys.readouterr().out
    for word in ("greedy", "sampled", "gap/return", "openloop/echo_error", "evaluation.json", "no video"):
        assert word in text
    found = json.loads((run / "evaluation.json").read_text())
    assert found["episodes"] == 2
    for kind in ("greedy", "sampled"):
        assert len(found[kind]["returns"]) == 2
        assert found[kind]["mean"] == pytest.approx(np.mean(found[kind]["returns"]))
    assert found["greedy"]["returns"] == [210.0, 210.0]
    assert found["update"] == 3


def test_dream_writes_plots_and_videos_and_goes_on_past_the_end(run, capsys):
    assert main(["dream", "--run", str(run), "--samples", "3", "--length", "40", "--episodes", "2"]) == 0
    text = capsys.readouterr().out
    assert "openloop/image_error" in text
    names = (
        "plots/dream.png",
        "plots/dream_image.png",
        "videos/dream_image_futures.mp4",
        "videos/dream_image_episodes.mp4",
    )
    for name in names:
        assert str(run / name) in text
        assert (run / name).stat().st_size > 1000


def test_dream_draws_what_a_planner_considered(run, capsys):
    line = ["dream", str(run), "--planner", "CEM", "--planner.samples", "40", "--planner.elites", "8", "--start", "3"]
    assert main([*line, "--planner.horizon", "4"]) == 0
    text = capsys.readouterr().out
    for name in ("plots/plan-CEM.png", "plots/plan-CEM-image.png"):
        assert str(run / name) in text
        assert (run / name).stat().st_size > 5000
    assert main([*line[:-1], "300"]) == 2
    assert "--start: the episode ends after" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "dream"])
def test_files_go_elsewhere_or_nowhere(run, tmp_path, capsys, monkeypatch, command):
    """A run folder that takes no files does not cost the tables."""
    line = [command, str(run), "--episodes", "1"]
    assert main([*line, "--out", str(tmp_path / "made" / "here")]) == 0
    assert f"wrote {tmp_path / 'made' / 'here'}" in capsys.readouterr().out
    assert list((tmp_path / "made" / "here").rglob("*.*"))
    assert main([*line, "--out", "/proc/no"]) == 2
    assert "--out: /proc/no takes no files" in capsys.readouterr().err
    monkeypatch.setattr("dreamer_lightning.commands.outputs.agents.home", lambda name: Path("/proc/no"))
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "nothing was written: /proc/no takes no files" in text
    assert "openloop/" in text


def test_lengths_of_evaluate_are_env_steps(run, tmp_path, capsys, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr("dreamer_lightning.envs.counting.Counting.repeat", 3)
    assert main(["evaluate", "--run", str(tmp_path / "run"), "--episodes", "1", "--starts", "0"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["greedy"]["lengths"] == found["sampled"]["lengths"] == [60]
    head, row = (line for line in capsys.readouterr().out.splitlines() if "env steps" in line or "greedy  " in line)
    assert "length" not in head
    assert " 60.0 " in row


def test_agent_plays_in_the_runs_own_environment(run):
    agent = Agent.load(run)
    env = agent.env_factory.make(0)
    assert specs_of(env) == agent.specs
    td, state = env.reset(), agent.initial(1)
    obs = {name: td[name].numpy() for name in agent.specs.obs}
    action, state = agent.act(obs, state)
    assert action.shape == (2,)
    assert agent.imagine(obs, length=5, samples=2)["image"].shape == (2, 6, 48, 48, 3)
    same = Agent.load(run).act(obs, agent.initial(1))[0]
    assert np.array_equal(action, same)
    assert agent.clocks["update"] == 3


def test_a_reward_head_with_its_bias_raised_by_hand_raises_the_alarm(run, caplog):
    agent = Agent.load(run)
    evaluator = Evaluator(agent.env_factory, episodes=1, starts=8)
    before = evaluator.evaluate(agent.dreamer).metrics["gap/return"]
    bias = [p for name, p in agent.dreamer.world_model.reward.named_parameters() if name.endswith("bias")][-1]
    bias.data[bias.numel() * 5 // 8] += 20.0  # a bin of large positive rewards
    results = [evaluator.evaluate(agent.dreamer).metrics for _ in range(4)]
    assert results[0]["gap/return"] > before
    assert [metrics["gap/alarm"] for metrics in results] == [0, 0, 1, 0]
    assert len([record for record in caplog.records if record.message.startswith("gap/return")]) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["evaluate", "--run", "nowhere"], "not a run folder"),
        (["evaluate", "--run", "RUN", "--episodes", "0"], "--episodes"),
        (["dream", "--run", "RUN", "--samples", "0"], "--samples"),
        (["dream", "--run", "RUN", "--start", "999"], "--start"),
    ],
)
def test_mistakes_get_one_line(run, args, words, capsys):
    assert main([str(run) if arg == "RUN" else arg for arg in args]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_a_config_that_no_longer_fits_names_the_tensors(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text()
    assert "deter: 64" in text
    config.write_text(text.replace("deter: 64", "deter: 128"))
    assert main(["evaluate", "--run", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "linears.0.weight" in error
    assert "(16, 192) saved" in error
    assert "(16, 256) by its config" in error

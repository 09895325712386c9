"""The model-free yardstick: the same environments through gymnasium's eyes, the same files."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml

from dreamer_lightning import cli
from dreamer_lightning.envs import DMC, Gym
from dreamer_lightning.envs.counting import Counting
from dreamer_lightning.envs.view import GymView, action_space
from dreamer_lightning.types import Layout, Space, UserError
from dreamer_lightning.workshop.results.runs import read_run


def test_the_view_shows_every_step_and_both_ends():
    view = GymView(Counting(lengths=(3, 2), truncate=(True, False), action_dim=2).make(seed=7))
    assert view.observation_space.shape == (5,)
    assert view.action_space == gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    obs, info = view.reset()
    assert obs.tolist() == [0, 0, 7, 0, 0]
    assert info == {}
    steps = [view.step(np.array([0.5, -0.5])) for _ in range(3)]
    assert [step[0].tolist() for step in steps] == [[i, 0, 7, 0.5, -0.5] for i in (1, 2, 3)]
    assert [step[1:4] for step in steps] == [(1.0, False, False), (2.0, False, False), (3.0, False, True)]
    assert view.reset()[0].tolist() == [0, 1, 7, 0, 0]
    assert [view.step(np.zeros(2))[1:4] for _ in range(2)] == [(1.0, False, False), (2.0, True, False)]


def test_the_view_plays_what_the_wire_plays():
    """Repeat, scaled actions and rewards are the wire's: the same seed and actions give the same numbers."""
    factory = DMC("reacher_easy", repeat=4, time_limit=20)
    view, env = GymView(factory.make(3)), factory.make(3)
    td, (obs, _) = env.reset(), view.reset()
    rewards = []
    for i in range(5):
        action = np.array([0.3 * i - 0.6, 2.0], np.float32)
        stepped = env.step(td.set("action", torch.from_numpy(action)))
        td = stepped["next"].exclude("reward")
        obs, reward, terminated, truncated, _ = view.step(action)
        rewards.append((reward, float(stepped["next", "reward"])))
        assert np.array_equal(obs, np.concatenate([stepped["next", name].numpy().reshape(-1) for name in view.numbers]))
        assert (terminated, truncated) == (False, i == 4)
    assert all(mine == theirs for mine, theirs in rewards)


def test_pictures_and_classes():
    view = GymView(Counting(image_size=6).make(0))
    assert set(view.observation_space.spaces) == {"image", "vector"}
    obs, _ = view.reset()
    assert obs["image"].dtype == np.uint8
    cart = GymView(Gym("CartPole-v1").make(0))
    assert cart.action_space == gymnasium.spaces.Discrete(2)
    assert cart._flat(1).tolist() == [0, 1]
    lake = GymView(Gym("FrozenLake-v1").make(0))
    assert lake.reset()[0].sum() == 1, "a class is one-hot"
    assert action_space(Layout(a=Space((), "int32", 3), b=Space((), "int32", 2))) == gymnasium.spaces.MultiDiscrete(
        [3, 2]
    )
    with pytest.raises(UserError, match="continuous and discrete"):
        action_space(Layout(a=Space((2,)), b=Space((), "int32", 3)))


def train(folder: Path, *args: str) -> int:
    return cli.main(["yardstick", *args, "--run_dir", str(folder), "--threads", "1"])


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_discrete_actions(algo: str, tmp_path: Path, capsys):
    config = ["--config", "gym.yaml", "--env.task", "CartPole-v1", "--env_steps", "150", "--log_every", "50"]
    assert train(tmp_path / "run", "--algo", algo, "--seed", "3", *config) == 0
    assert f"{algo} on CartPole-v1: 150 env steps, mean return of the last" in capsys.readouterr().out
    run = read_run(tmp_path / "run")
    assert (run.task, run.seed, run.last) == ("CartPole-v1", "3", 150)
    assert run.setting.version.startswith(f"{algo} of stable-baselines3 2")
    assert len(run.training.scores) >= 1
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert "train_ratio" not in saved
    assert cli.main(["compare", str(tmp_path / "run")]) == 0
    assert "training, sampled" in capsys.readouterr().out


def test_repeat_and_time_limit_count_as_in_fit(tmp_path: Path):
    task = ["--config", "dmc.yaml", "--env.task", "reacher_easy", "--env.repeat", "4", "--env.time_limit", "80"]
    assert train(tmp_path / "run", "--algo", "sac", *task, "--env_steps", "480") == 0
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    episodes = [
        dict(zip(names, row.split(","), strict=True))
        for row in rows[1:]
        if row.split(",")[names.index("episode/score")]
    ]
    assert [(row["env_step"], row["agent_step"], row["episode/length"]) for row in episodes] == [
        (str(80 * i), str(20 * i), "80") for i in range(1, 7)
    ]
    assert int(episodes[-1]["update"]) > 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "--algo sac --config gym.yaml",
            "--algo: sac does not take the actions of CartPole-v1 (Discrete(2)); take ppo or dqn",
        ),
        ("--algo dqn --config dmc.yaml", "take ppo, sac or mbpo"),
        ("--algo td3 --config dmc.yaml", "--algo: expected one of ppo, sac, dqn, mbpo, got td3"),
        ("--algo mbpo --config gym.yaml", "--algo: mbpo does not take the actions of CartPole-v1"),
        (
            "--algo mbpo --config dmc.yaml --decoder.keys [] --threads 1",
            "--decoder.keys: mbpo shows SAC what is decoded",
        ),
        ("--algo ppo", "yardstick needs a config: --config NAME"),
        ("--config dmc.yaml --env_steps null", "or the run never ends"),
    ],
)
def test_a_mistake_is_one_line(line: str, expected: str, capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["yardstick", *line.split()]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_the_library(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["yardstick", "--config", "dmc.yaml"]) == 2
    assert "pip install 'dreamer-lightning[yardstick]'" in capsys.readouterr().err

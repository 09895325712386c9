"""Recorded episodes: Minari data sets read and written without a loss, training without an environment, prefill."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

import dreamer_lightning
from dreamer_lightning import cli
from dreamer_lightning.commands.run import Run
from dreamer_lightning.data.arrays import stacked
from dreamer_lightning.envs.actions import describe, listener, speaker
from dreamer_lightning.envs.base import specs_of
from dreamer_lightning.offline import Recorded
from dreamer_lightning.offline.command import record
from dreamer_lightning.offline.sets import open_set
from dreamer_lightning.offline.tables import spaces_of, table, write_episode
from dreamer_lightning.types import IS_FIRST, IS_LAST, IS_TERMINAL, OBS, PREV_ACTION, REWARD, Space, Specs, UserError

ACTIONS = spaces.Dict(
    {
        "arm": spaces.Box(np.array([-2.0, 0.0]), np.array([3.0, 0.1]), dtype=np.float64),
        "gear": spaces.Discrete(3, start=-1),
        "hand": spaces.Tuple([spaces.MultiDiscrete([2, 5]), spaces.MultiBinary(3), spaces.Box(0, 4, (2,), np.int32)]),
    }
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")  # it wants an author and an address
QUICK = {
    "evaluation.every": 0,
    "evaluation.random_episodes": 0,
    "wandb.mode": "disabled",
    "train_ratio": 64,
    "learning_starts": 16,
    "batch_size": 2,
    "batch_length": 8,
    "threads": 1,
}


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    """Minari's data sets in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        yield


@pytest.fixture(scope="module")
def cart(home) -> str:
    """Twelve episodes of a random policy in CartPole-v1, written as other people write them."""
    env, buffers = gymnasium.make("CartPole-v1"), []
    env.action_space.seed(3)
    for seed in range(12):
        obs, actions, rewards, done = [env.reset(seed=seed)[0]], [], [], False
        while not done:
            actions.append(env.action_space.sample())
            seen, reward, terminated, truncated, _ = env.step(actions[-1])
            obs.append(seen)
            rewards.append(reward)
            done = terminated or truncated
        ends = [*[False] * (len(actions) - 1), True]
        buffers.append(
            EpisodeBuffer(
                observations=obs,
                actions=actions,
                rewards=rewards,
                terminations=ends,
                truncations=[False] * len(actions),
                infos={},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("cart/random-v0", buffers, env="CartPole-v1")
    return "minari:cart/random-v0"


@pytest.fixture(scope="module")
def offline(cart, tmp_path_factory) -> Run:
    folder = str(tmp_path_factory.mktemp("runs") / "offline")
    return dreamer_lightning.fit(
        "gym.yaml", "debug.yaml", "offline.yaml", data=cart, run_dir=folder, updates=6, **QUICK
    )


def test_actions_of_a_space_are_read_as_they_are_spoken():
    write, read = speaker(ACTIONS), listener(ACTIONS)
    ACTIONS.seed(1)
    rows = [ACTIONS.sample() for _ in range(50)]
    numbers = read(stacked(rows))
    assert numbers["gear"].min() == 0
    assert np.abs(numbers["arm"]).max() <= 1
    again = [write({name: value[row] for name, value in numbers.items()}) for row in range(50)]
    for one, other in zip(rows, again, strict=True):
        np.testing.assert_allclose(one["arm"], other["arm"], atol=1e-6)
        assert one["gear"] == other["gear"]
        assert all(np.array_equal(a, b) for a, b in zip(one["hand"], other["hand"], strict=True))


def test_a_minari_data_set_gives_back_what_was_written():
    specs = Specs(
        {
            "eye": Space((32, 32, 3), "uint8"),
            "arm/angle": Space((2,)),
            "arm/mode": Space((), "int32", classes=4, start=2),
            "keys": Space((3,), "int32", classes=5),
        },
        {"action": Space((2,))},
        describe(spaces.Box(np.array([-0.3, 0.1], np.float32), np.array([0.7, 9.0], np.float32), dtype=np.float32)),
    )
    generator, tables = torch.Generator().manual_seed(0), []
    for count in (5, 9):
        obs = {
            "eye": torch.randint(256, (count, 32, 32, 3), generator=generator).to(torch.uint8),
            "arm/angle": torch.randn(count, 2, generator=generator),
            "arm/mode": torch.randint(4, (count,), generator=generator).int(),
            "keys": torch.randint(5, (count, 3), generator=generator).int(),
        }
        action = torch.rand(count, 2, generator=generator) * 2 - 1
        action[0] = 0
        reward = torch.randn(count, generator=generator)
        reward[0] = 0
        tables.append(table(obs, action, reward, terminal=count == 5))
    observed, acted = spaces_of(specs)
    buffers = [EpisodeBuffer(**write_episode(specs, rows)) for rows in tables]
    assert acted.contains(buffers[0].actions[0])
    minari.create_dataset_from_buffers(
        "odd-v0", buffers, observation_space=observed, action_space=acted, jpeg_encoding=False
    )
    found = list(open_set("minari:odd-v0").tables(specs))
    assert len(found) == 2
    for before, after in zip(tables, found, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    there = specs_of(Recorded("minari:odd-v0", image_size=0).make(0))
    assert there == Specs(dict(sorted(specs.obs.items())), specs.action)


def test_an_agent_learns_from_data_alone(cart, offline: Run, capsys):
    last = offline.metrics[-1]
    assert last["update"] == 6
    assert last["loss/total"] is not None
    steps = sum(len(episode) for episode in minari.load_dataset("cart/random-v0"))
    assert last["replay/steps"] == steps + 12  # each episode's last observation is a record, too
    further = dreamer_lightning.fit(resume=str(offline.dir), updates=20)
    assert further.metrics[-1]["update"] == 20
    assert "data: " not in capsys.readouterr().out  # the replay has it


def test_offline_goes_on_online(offline: Run, tmp_path: Path, capsys):
    options = {**QUICK, "env_steps": 12, "updates": None, "num_envs": 1}
    run = dreamer_lightning.fit(
        "gym.yaml",
        "debug.yaml",
        init_from=str(offline.dir),
        data=str(offline.dir),
        run_dir=str(tmp_path / "on"),
        **options,
    )
    said = capsys.readouterr().out
    assert "initialised " in said
    assert f"data: 12 episodes of {offline.dir}" in said
    assert run.metrics[-1]["replay/steps"] >= offline.metrics[-1]["replay/steps"] + 12
    assert run.metrics[-1]["env_step"] == 12


def test_a_replay_is_recorded_as_it_is(cart, offline: Run, capsys):
    assert cli.main(["record", str(offline.dir), "--out", "cart/again-v0"]) == 0
    assert "wrote minari:cart/again-v0: 12 episodes" in capsys.readouterr().out
    specs = open_set(str(offline.dir)).specs
    tables = [list(open_set(source).tables(specs)) for source in (cart, "minari:cart/again-v0", str(offline.dir))]
    for one, two, three in zip(*tables, strict=True):
        assert all(torch.equal(one[key], two[key]) and torch.equal(one[key], three[key]) for key in one)
        assert one[IS_FIRST].nonzero().flatten().tolist() == [0]
        assert one[IS_LAST].nonzero().flatten().tolist() == [len(one[REWARD]) - 1]
        assert one[IS_TERMINAL][-1]
        assert one[PREV_ACTION][0].abs().sum() == 0
        assert (one[PREV_ACTION][1:].sum(-1) == 1).all()
    first = next(iter(minari.load_dataset("cart/random-v0")))
    assert np.array_equal(tables[1][0][OBS, "observation"].numpy(), first.observations)
    again = next(iter(minari.load_dataset("cart/again-v0")))
    assert np.array_equal(again.actions, first.actions)
    with pytest.raises(UserError, match="--out: "):
        record(str(offline.dir), "cart/again-v0")


def test_what_an_agent_plays_is_recorded(capsys):
    assert cli.main(["record", "cartpole_balance", "--episodes", "1", "--out", "played-v0"]) == 0
    assert "1 episodes" in capsys.readouterr().out
    episode = next(iter(minari.load_dataset("played-v0")))
    assert len(episode) > 100
    assert episode.rewards.sum() > 100


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "--data: name the data to learn from: minari:NAME, or the folder of a run"),
        ({"data": "minari:cart/none-v0"}, "--data: no Minari data set 'cart/none-v0' on this machine"),
        ({"data": "nowhere"}, "--data: no folder 'nowhere'; name a run, or a Minari data set as minari:NAME"),
    ],
)
def test_mistakes(options: dict, line: str, tmp_path: Path):
    with pytest.raises(UserError, match=line):
        dreamer_lightning.fit("gym.yaml", "debug.yaml", "offline.yaml", run_dir=str(tmp_path / "x"), **QUICK, **options)


def test_data_of_another_task_is_refused(cart, tmp_path: Path):
    with pytest.raises(UserError, match="--data: minari:cart/random-v0: obs: observation has shape"):
        dreamer_lightning.fit(
            "gym.yaml", "debug.yaml", data=cart, run_dir=str(tmp_path / "x"), **QUICK, **{"env.task": "Acrobot-v1"}
        )

"""Wrappers by config, and observations of many kinds that work without code of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces

import dreamer_lightning
from dreamer_lightning import Agent
from dreamer_lightning.config import of_run
from dreamer_lightning.envs import Gym, specs_of
from dreamer_lightning.nets.encoders import LARGE, LEARNED, SymlogMLPEncoder
from dreamer_lightning.types import Space, UserError

W = "gymnasium.wrappers."
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "running.md").read_text()
MODULE, CARTPOLE = re.search(r"```python\n# my_rewards.py\n(.*?)```\n\n```yaml\n(.*?)```", PAGE, re.S).groups()


def no_environment(env):
    return env.observation_space


class Zoo(gymnasium.Env):
    """One observation of each kind that needs no code of one's own; 8 steps."""

    observation_space = spaces.Dict(
        {
            "front": spaces.Box(0, 255, (32, 48, 3), np.uint8),
            "wrist": spaces.Box(0, 255, (3, 90, 120), np.uint8),
            "depth": spaces.Box(0, 10, (20, 20, 1), np.float32),
            "film": spaces.Box(0, 255, (4, 40, 40, 3), np.uint8),
            "place": spaces.Discrete(10_000, start=5),
            "words": spaces.MultiDiscrete([5000] * 3),
            "bytes": spaces.Box(0, 255, (128,), np.uint8),
        }
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 1.0, False, self.t == 8, {}


@pytest.fixture
def from_config(tmp_path, monkeypatch):
    """The environment of a config, beside which my_rewards.py lies."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rewards.py").write_text(MODULE)

    def read(text: str) -> Gym:
        (tmp_path / "config.yaml").write_text(text)
        return of_run(tmp_path / "config.yaml", only=["env"])["env"]

    return read


def test_wrappers_of_a_config_are_gymnasiums_own(from_config):
    factory = from_config(CARTPOLE)
    want = gymnasium.wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 3)
    env, (first, _) = factory.make(7), want.reset(seed=7)
    assert specs_of(env).obs == {"observation": Space((3, 4))}
    state = env.reset()  # ``make`` has seeded it; this is its second episode
    first, _ = want.reset()
    assert np.array_equal(state["observation"].numpy(), first)
    for step in range(20):
        action = step % 2
        state = env.step(state.set("action", torch.eye(2)[action]))["next"]
        obs, reward, *_ = want.step(action)
        assert np.array_equal(state["observation"].numpy(), obs)
        assert float(state["reward"]) == np.float32(0.1 * reward)


def test_stacked_frames_go_on_after_a_resume(from_config):
    text = yaml.safe_load(CARTPOLE)
    del text["env"]["init_args"]["wrappers"][1]  # what a function of one's own remembers nobody knows
    factory = from_config(yaml.safe_dump(text))
    env, other = factory.make(1), factory.make(2)
    state = env.rollout(3)[-1]["next"].clone()
    factory.set_state(other, factory.get_state(env))
    for _ in range(6):
        action = torch.eye(2)[0]
        state, after = env.step(state.set("action", action))["next"], other.step(state.set("action", action))["next"]
        assert torch.equal(state["observation"], after["observation"])


def test_numbers_and_arrays_of_gymnasiums_types_come_from_yaml(from_config):
    text = CARTPOLE.replace("CartPole-v1", "Pendulum-v1").partition("      - class")[0]
    wrapper = {"class_path": W + "RescaleAction", "init_args": {"min_action": -0.5, "max_action": [0.25]}}
    env = from_config(text + f"      - {wrapper}\n").make(0)
    space = env.base_env._env.env.action_space
    assert (space.low[0], space.high[0]) == (-0.5, 0.25)


@pytest.mark.parametrize(
    ("wrappers", "words"),
    [
        ([gymnasium.wrappers.GrayscaleObservation], "env.wrappers: GrayscaleObservation does not fit CartPoleEnv: "),
        ([no_environment], "env.wrappers: no_environment makes a Box; it must be a gymnasium.Env"),
    ],
)
def test_a_wrapper_that_does_not_fit_is_named(wrappers, words):
    with pytest.raises(UserError, match=words):
        Gym("CartPole-v1", wrappers=wrappers).make(0)


def test_an_agent_trains_on_cameras_of_all_sizes_floats_films_large_classes_and_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "test_envs_wrappers:Zoo"}}
    options = {
        "env": env,
        "updates": 1,
        "wandb": {"mode": "disabled"},
        "num_envs": 1,
        "learning_starts": 1,
        "log_every": 1,
    }
    sizes = {"batch_size": 1, "batch_length": 4, "evaluation": {"every": 0, "random_episodes": 0}}
    run = dreamer_lightning.fit("gym.yaml", "debug.yaml", run_dir="run", **options, **sizes)
    losses = run.series("loss/recon/words")[1]
    assert losses
    assert np.isfinite(losses).all()
    agent, zoo = Agent.load(run), Zoo()
    assert {name: space.shape for name, space in agent.specs.obs.items() if space.image} == {
        "front": (64, 64, 3),
        "wrist": (64, 64, 3),
        "depth": (64, 64, 1),
        "film": (64, 64, 12),
    }
    obs, _ = zoo.reset(seed=3)
    action, _ = agent.act(obs, agent.initial(1))
    assert action in zoo.action_space


def test_the_agent_sees_floats_and_films_as_the_collector_did():
    from dreamer_lightning.data.arrays import to_tensors
    from dreamer_lightning.envs import Custom

    factory = Custom("test_envs_wrappers:Zoo")
    env = factory.make(0)
    seen = env.reset()
    raw = Zoo()
    raw.reset(seed=0)
    tensors, _ = to_tensors(specs_of(env), raw.reset()[0], 1, torch.device("cpu"))
    for name, value in tensors.items():
        assert torch.equal(value[0], seen[name]), name


def test_many_classes_have_a_learned_vector_each():
    spaces_ = {"few": Space((), "int32", LARGE), "many": Space((3,), "int32", 50_000), "x": Space((2,))}
    encoder = SymlogMLPEncoder(spaces_, units=8)
    assert encoder.mlp.linears[0].in_features == LEARNED * 3 + LARGE + 2
    obs = {"few": torch.tensor([1, 1]), "many": torch.tensor([[7, 0, 49_999], [7, -1, 3]]), "x": torch.zeros(2, 2)}
    encoder({name: value.int() if name != "x" else value for name, value in obs.items()}).sum().backward()
    touched = encoder.tables[0].weight.grad.abs().sum(-1).nonzero().flatten().tolist()
    assert touched == [0, 7, 49_999]  # an entry with a missing number counts for nothing

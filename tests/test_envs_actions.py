"""Actions of several kinds in one space: a flat vector for the agent, the environment's own nested action behind it."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import dreamer_lightning
from dreamer_lightning.envs.actions import action
from dreamer_lightning.envs.base import specs_of
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.envs.custom import Custom
from dreamer_lightning.types import Space

HYBRID = spaces.Dict(
    {
        "steer": spaces.Box(-2.0, 4.0, (2,), np.float32),
        "gear": spaces.Discrete(3, start=-1),
        "lights": spaces.MultiBinary(2),
        "arm": spaces.Tuple((spaces.Box(0, 10, (), np.float64), spaces.MultiDiscrete([2, 3]))),
    }
)


class Machine(gym.Env):
    """Rewards gear 1 and steering to the right; refuses every action outside of its space."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = HYBRID

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        reward = float(action["gear"] == 1) + float(action["steer"][0])
        return np.zeros(1, np.float32), reward, False, self.t == 8, {}


def test_one_vector_becomes_the_nested_action():
    """In sorted order: arm/0 (1 number), arm/1_00 (2 classes), arm/1_01 (3), gear (3), lights (2 x 2), steer (2)."""
    spoken = action(HYBRID)
    assert list(spoken.entries) == ["arm/0", "arm/1_00", "arm/1_01", "gear", "lights_00", "lights_01", "steer"]
    assert spoken.space.shape == (15,)
    flat = [0.5, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0.0, 7.0]
    made = spoken.write(np.array(flat, np.float32))
    assert HYBRID.contains(made)
    assert made["arm"][0] == pytest.approx(7.5)  # half of the way from the middle, 5, to 10
    assert made["arm"][1].tolist() == [1, 2]
    assert made["gear"] == -1
    assert made["lights"].tolist() == [1, 0]
    assert made["steer"].tolist() == [1.0, 4.0]  # the middle, and cut at the bound


@pytest.mark.parametrize("backend", ["serial", "process"])
def test_specs_name_the_entries_and_a_thousand_random_actions_are_legal(backend):
    env = make_batched(Custom(path="test_envs_actions:Machine"), 2, 0, backend)
    try:
        specs = specs_of(env)
        assert specs.action["gear"] == Space((), "int32", 3)
        assert specs.action["gear"].start == -1
        assert specs.action["steer"] == Space((2,), "float32")
        state, generator = env.reset(), torch.Generator().manual_seed(0)
        for _ in range(500 if backend == "serial" else 20):
            flat = specs.actions.random((2,), generator)
            after, state = env.step_and_maybe_reset(state.set("action", flat))
            gear, steer = specs.actions.numbers(flat)["gear"], specs.actions.split(flat)["steer"]
            torch.testing.assert_close(after["next", "reward"][:, 0], (gear == 2).float() + 1 + 3 * steer[:, 0])
    finally:
        env.close()


@pytest.mark.parametrize(
    "gradient", ["Mix", *(pytest.param(g, marks=pytest.mark.slow) for g in ("ScoreFunction", "Pathwise"))]
)
def test_an_agent_trains_on_them(gradient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "test_envs_actions:Machine"}}
    options = {"env": env, "updates": 3, "evaluation": {"every": 0}, "wandb": {"mode": "disabled"}}
    path = f"dreamer_lightning.nets.gradients.{gradient}"
    run = dreamer_lightning.fit("gym.yaml", "debug.yaml", actor_critic={"gradient": path}, run_dir="run", **options)
    assert np.isfinite(run.series("loss/policy")[1]).all()
    assert sorted(json.loads((run.dir / "specs.json").read_text())["action"]) == sorted(action(HYBRID).entries)

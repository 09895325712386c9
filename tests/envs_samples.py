"""Small environments of the tests' own, one class for each kind."""

from __future__ import annotations

from copy import deepcopy

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

ACTIONS = {
    "box": spaces.Box(np.array([-2.0, 0.0, -np.inf], np.float32), np.array([2.0, 10.0, np.inf], np.float32)),
    "discrete": spaces.Discrete(4, start=-1),
    "multi": spaces.MultiDiscrete([3, 4]),
    "same": spaces.MultiDiscrete([3, 3]),
    "binary": spaces.MultiBinary(3),
    "integers": spaces.Box(0, 5, (2,), np.int32),
    "half": spaces.Box(np.array([10.0, -np.inf], np.float32), np.array([np.inf, -5.0], np.float32)),
    "one": spaces.MultiDiscrete([3], start=[5]),
    "bit": spaces.MultiBinary(1),
    "many": spaces.MultiDiscrete([2 + i % 7 for i in range(120)]),
}
OBSERVATIONS = {
    "vector": spaces.Box(-1, 1, (3,), np.float64),
    "scalar": spaces.Box(-1, 1, ()),
    "image": spaces.Box(0, 255, (32, 48, 3), np.uint8),
    "gray": spaces.Box(0, 255, (20, 20), np.uint8),
    "bytes": spaces.Box(0, 255, (128,), np.uint8),
    "stacked": spaces.Box(0, 255, (20, 24, 6), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multi": spaces.MultiDiscrete([3, 4]),
    "dict": spaces.Dict(
        {"state": spaces.Box(-1, 1, (2,)), "in": spaces.Dict({"a": spaces.Discrete(3)}), "log/x": spaces.Box(0, 9, ())}
    ),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(3))),
    "text": spaces.Text(4),
    "taken": spaces.Dict({"prev_action": spaces.Box(-1, 1, (3,)), "state": spaces.Box(-1, 1, (2,))}),
    "init": spaces.Dict({"is_init": spaces.Box(-1, 1, (1,)), "state": spaces.Box(-1, 1, (2,))}),
    "own": spaces.Dict({"image": spaces.Box(0, 255, (9, 9, 3), np.uint8), "state": spaces.Box(-1, 1, (2,))}),
    "lone": spaces.Graph(spaces.Box(0, 1, (2,)), None),
    "odd": spaces.Dict(
        {
            "observation": spaces.Graph(spaces.Box(0, 1, (2,)), None),
            "list": spaces.Sequence(spaces.Dict({"a": spaces.Box(0, 1, (2,))}), stack=True),
            "in": spaces.Tuple((spaces.OneOf([spaces.Discrete(3), spaces.Box(0, 1, (2,))]), spaces.Discrete(2))),
            "state": spaces.Box(-1, 1, (2,)),
        }
    ),
    "private": spaces.Dict({"_x": spaces.Box(-1, 1, (3,)), "state": spaces.Box(-1, 1, (2,))}),
}


class Sample(gymnasium.Env):
    """Observes samples of its space; reward 1.5 a step; ends after ``end`` steps; ``bad`` breaks step 3."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, observation="vector", action="box", end=0, bad="", render_mode=None):
        self.observation_space, self.action_space = deepcopy((OBSERVATIONS[observation], ACTIONS[action]))
        self.end, self.bad, self.render_mode, self.actions, self.time = end, bad, render_mode, [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action):
        self.time += 1
        self.actions.append(action)
        reward = 1.5 if self.bad != "reward" or self.time < 3 else float("nan")
        info = {"speed": self.time, "parts": {"left": np.float64(2 * self.time), "up/down": 5}, "parts/right": 7}
        info |= {"why": "fell", "none": None, "empty": np.zeros(0), "nan": float("nan"), "huge": [np.inf, 1.0]}
        return self._observe(), reward, self.time == self.end, False, info

    def render(self):
        return np.full((30, 40, 3), self.time, np.uint8)

    def _observe(self):
        obs = self.observation_space.sample()
        if self.time >= 3 and self.bad:
            obs = {"nan": obs * np.nan, "shape": np.zeros(4), "kind": {"a": obs}}.get(self.bad, obs)
        return obs


class NoSeed(Sample):
    """``reset`` as it was before gymnasium."""

    def reset(self):
        return self._observe()


class NoInfo(Sample):
    """``reset`` returns two numbers, but no pair."""

    def reset(self, *, seed=None, options=None):
        return np.zeros(2)


class FourValues(Sample):
    """``step`` as it was before gymnasium."""

    def step(self, action):
        return super().step(action)[:4]


class Lib(EnvBase):
    """A TorchRL environment with names, depths and types of its own: observes its step, ends after seven."""

    def __init__(self, end=7):
        super().__init__()
        self.end = end
        self.observation_spec = Composite(
            robot=Composite(time=Unbounded((1,), dtype=torch.float64)), start=Unbounded((1,), dtype=torch.float32)
        )
        self.action_spec = Bounded(-3.0, 3.0, (2,), dtype=torch.float64)
        self.reward_spec = Unbounded((1,), dtype=torch.float64)

    def _observe(self):
        return {"robot": {"time": torch.tensor([self.time], dtype=torch.float64)}, "start": self.start}

    def _reset(self, tensordict=None, **kwargs):
        self.time, self.start = 0, torch.rand(1, generator=self.generator)
        return TensorDict(self._observe(), [])

    def _step(self, tensordict):
        self.time += 1
        reward, done = tensordict["action"].sum().reshape(1), torch.tensor([self.time == self.end])
        return TensorDict({**self._observe(), "reward": reward, "done": done, "terminated": done}, [])

    def _set_seed(self, seed):
        self.generator = torch.Generator().manual_seed(seed)


class OldApi:
    """An environment of the API before gymnasium, of no class that we know."""

    def reset(self):
        return np.zeros(2)

    def step(self, action):
        return np.zeros(2), 0.0, False, {}


class Team(Lib):
    """Two agents, each with a reward of its own."""

    def __init__(self):
        super().__init__()
        one = Unbounded((1,), dtype=torch.float32)
        self.reward_spec = Composite(left=Composite(reward=one), right=Composite(reward=one.clone()))


class Given(gymnasium.Env):
    """Observes what it is given, step by step, and echoes rewards; the last one again and again."""

    def __init__(self, space, values, action=None, rewards=(1.0,)):
        self.observation_space, self.values, self.rewards = space, values, rewards
        self.action_space, self.taken, self.time = action or spaces.Discrete(2), [], 0

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.values[0], {}

    def step(self, action):
        assert action in self.action_space, action
        self.time += 1
        self.taken.append(action)
        reward = self.rewards[min(self.time - 1, len(self.rewards) - 1)]
        info = {"speed": 1.0}
        return self.values[min(self.time, len(self.values) - 1)], reward, self.time % 4 == 0, False, info


gymnasium.register("Registered-v0", "envs_samples:Sample", max_episode_steps=9)  # for Gym("envs_samples:Registered-v0")

"""A wired environment seen through gymnasium's interface, for libraries that speak nothing else."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import step_mdp

from dreamer_lightning.envs.base import specs_of
from dreamer_lightning.types import Layout, UserError

VECTOR = "vector"  # all that is no picture, as one vector


class GymView(gymnasium.Env):
    """One environment of a factory: the same repeat, scaled actions, hidden observations and time limits.

    Observations are one vector (numbers as they are, classes one-hot), one picture, or a dict of pictures and
    ``vector``. Actions are one vector in [-1, 1], or the numbers of classes.

    Args:
        env: what ``EnvFactory.make`` gave; no batch dimension, seeded already.

    Raises:
        UserError: continuous and discrete actions at once, which the interface's libraries do not take.
    """

    def __init__(self, env: EnvBase):
        self.env, self.specs = env, specs_of(env)
        self.td: TensorDictBase | None = None
        self.pictures = [name for name, space in self.specs.obs.items() if space.image]
        self.numbers = Layout({name: space for name, space in self.specs.obs.items() if not space.image})
        parts: dict[str, spaces.Space] = {
            name: spaces.Box(0, 255, self.specs.obs[name].shape, np.uint8) for name in self.pictures
        }
        if self.numbers:
            parts[VECTOR] = spaces.Box(-np.inf, np.inf, (self.numbers.size,), np.float32)
        self.single = len(parts) == 1
        self.observation_space = next(iter(parts.values())) if self.single else spaces.Dict(parts)
        self.action_space = action_space(self.specs.actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """A new episode; the environment was seeded when it was made, and goes on with its own draws."""
        self.td = self.env.reset()
        return self._observe(self.td), {}

    def step(self, action):
        assert self.td is not None, "step before reset"
        self.td.set("action", self._flat(action))
        stepped = self.env.step(self.td)
        self.td, after = step_mdp(stepped), stepped["next"]
        flags = (bool(after[name]) for name in ("terminated", "truncated"))
        return self._observe(after), float(after["reward"]), *flags, {}

    def close(self) -> None:
        self.env.close()

    def _observe(self, td: TensorDictBase):
        parts: dict[str, np.ndarray] = {name: td[name].numpy().copy() for name in self.pictures}
        if self.numbers:
            parts[VECTOR] = self.numbers.one_hot(td).numpy()
        return next(iter(parts.values())) if self.single else parts

    def _flat(self, action) -> torch.Tensor:
        if isinstance(self.action_space, spaces.Box):
            return torch.as_tensor(np.asarray(action, np.float32))
        chosen = torch.as_tensor(np.asarray(action)).reshape(-1)
        return self.specs.actions.one_hot(dict(zip(self.specs.actions, chosen, strict=True)))


def action_space(actions: Layout) -> spaces.Space:
    """The flat wire action as gymnasium sees it."""
    discrete = [space.discrete for space in actions.values()]
    if all(discrete) and all(space.shape == () for space in actions.values()):
        classes = [space.classes for space in actions.values()]
        return spaces.Discrete(classes[0]) if len(classes) == 1 else spaces.MultiDiscrete(classes)
    if any(discrete):
        raise UserError("env: continuous and discrete actions at once have no gymnasium space that libraries take")
    return spaces.Box(-1.0, 1.0, (actions.size,), np.float32)

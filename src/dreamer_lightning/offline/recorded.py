"""The spaces of a data set in the place of an environment, and what stands in for the collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import torch
from torchrl.envs import EnvBase

from dreamer_lightning.envs.gym import GymSuite
from dreamer_lightning.offline.sets import open_set
from dreamer_lightning.types import UserError


class Unplayable(gymnasium.Env):
    """Spaces, and a first observation that is drawn from them."""

    def __init__(self, observation: gymnasium.Space, action: gymnasium.Space):
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        raise UserError("env: a data set cannot be played; name an environment, or set evaluation.every to 0")


class Recorded(GymSuite):
    """No environment: observations and actions are those of the data set that ``fit --data`` names.

    Args:
        data: minari:NAME, a folder that Minari wrote, or a run folder.
    """

    def __init__(self, data: str | None = None, **options: Any):
        super().__init__(**options)
        self.data, self.name = data, Path((data or "nothing").removeprefix("minari:")).name

    def make(self, seed: int, pixels_for_video: bool = False) -> EnvBase:
        if self.data is None:
            raise UserError("--data: name the data to learn from: minari:NAME, or the folder of a run")
        return self.wire(Unplayable(*open_set(self.data).spaces()), seed)


class Resting:
    """In a collector's place where nothing is played: it hands out no wires, and time passes as if it did.

    Args:
        steps: agent steps that count as played each time.
        generator: what a checkpoint keeps as the acting noise.
    """

    def __init__(self, steps: int, generator: torch.Generator):
        self.requested_frames_per_batch, self.env = steps, SimpleNamespace(batch_size=(0,))
        self.policy = SimpleNamespace(env_step=0, agent_step=0, explore=None, generator=generator)

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None

    def settle(self) -> None:
        """There is nothing to wait for, and nothing that a checkpoint could keep."""

    def shutdown(self) -> None:
        """Nothing runs."""

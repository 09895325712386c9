"""Environments: factories that make TorchRL environments which all speak the same wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamer_lightning import lazy

if TYPE_CHECKING:
    from dreamer_lightning.envs.atari import Atari
    from dreamer_lightning.envs.base import EnvFactory, random_score, specs_of, step
    from dreamer_lightning.envs.batched import make_batched
    from dreamer_lightning.envs.custom import Custom
    from dreamer_lightning.envs.dmc import DMC
    from dreamer_lightning.envs.gym import Gym
    from dreamer_lightning.envs.rendering import probe_gl, require_gl, working_gl
    from dreamer_lightning.envs.vector import Vector
    from dreamer_lightning.envs.view import GymView

__all__ = [
    "Atari",
    "Custom",
    "DMC",
    "EnvFactory",
    "Gym",
    "GymView",
    "Vector",
    "make_batched",
    "probe_gl",
    "random_score",
    "require_gl",
    "specs_of",
    "step",
    "working_gl",
]

_HOMES = {
    "Atari": "atari",
    "Custom": "custom",
    "DMC": "dmc",
    "EnvFactory": "base",
    "Gym": "gym",
    "GymView": "view",
    "Vector": "vector",
    "make_batched": "batched",
    "probe_gl": "rendering",
    "random_score": "base",
    "require_gl": "rendering",
    "specs_of": "base",
    "step": "base",
    "working_gl": "rendering",
}  # loaded when used: an agent that acts needs neither simulators nor TorchRL


__getattr__, __dir__ = lazy.names(__name__, _HOMES)

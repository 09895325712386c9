"""Environments: factories that make TorchRL environments which all speak the same wire."""

from dreamer_lightning.envs.atari import Atari
from dreamer_lightning.envs.base import EnvFactory, random_score, specs_of, step
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.envs.custom import Custom
from dreamer_lightning.envs.dmc import DMC
from dreamer_lightning.envs.gym import Gym
from dreamer_lightning.envs.rendering import probe_gl, require_gl, working_gl

__all__ = [
    "Atari",
    "Custom",
    "DMC",
    "EnvFactory",
    "Gym",
    "make_batched",
    "probe_gl",
    "random_score",
    "require_gl",
    "specs_of",
    "step",
    "working_gl",
]

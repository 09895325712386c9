"""Environments: factories that make TorchRL environments which all speak the same wire."""

from dreamer_lightning.envs.base import EnvFactory, random_action, random_score, specs_of
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.envs.dmc import DMC

__all__ = ["DMC", "EnvFactory", "make_batched", "random_action", "random_score", "specs_of"]

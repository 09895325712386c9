"""Dreamer (V1, V2, V3) on PyTorch, Lightning and TorchRL.

The names below are loaded when first used, so that ``import dreamer_lightning`` and ``--help`` are instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ActorCritic", "Agent", "Dreamer", "WorldModel", "__version__", "fit"]

if TYPE_CHECKING:
    from dreamer_lightning.actor_critic import ActorCritic
    from dreamer_lightning.agent import Agent
    from dreamer_lightning.cli import fit
    from dreamer_lightning.dreamer import Dreamer
    from dreamer_lightning.world_model import WorldModel

_HOMES = {
    "ActorCritic": "actor_critic",
    "Agent": "agent",
    "Dreamer": "dreamer",
    "WorldModel": "world_model",
    "fit": "cli",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dreamer_lightning' has no attribute '{name}'")
    return getattr(import_module(f"dreamer_lightning.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

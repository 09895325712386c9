"""Dreamer (V1, V2, V3) on PyTorch, Lightning and TorchRL.

The names below are loaded when first used, so that ``import dreamer_lightning`` and ``--help`` are instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamer_lightning import lazy

__version__ = "0.1.0"
__all__ = [
    "ActorCritic",
    "Agent",
    "Callback",
    "Decoder",
    "Dreamer",
    "Encoder",
    "EnvFactory",
    "Head",
    "RSSM",
    "Run",
    "Space",
    "Specs",
    "UserError",
    "WorldModel",
    "__version__",
    "dream",
    "evaluate",
    "fit",
    "gym_env",
]

if TYPE_CHECKING:
    from dreamer_lightning.actor_critic import ActorCritic
    from dreamer_lightning.agent import Agent
    from dreamer_lightning.callbacks.base import Callback
    from dreamer_lightning.cli import fit, gym_env
    from dreamer_lightning.commands.dream import dream
    from dreamer_lightning.commands.evaluate import evaluate
    from dreamer_lightning.commands.run import Run
    from dreamer_lightning.dreamer import Dreamer
    from dreamer_lightning.envs.base import EnvFactory
    from dreamer_lightning.errors import UserError
    from dreamer_lightning.nets.decoders import Decoder
    from dreamer_lightning.nets.encoders import Encoder
    from dreamer_lightning.nets.heads import Head
    from dreamer_lightning.nets.rssm import RSSM
    from dreamer_lightning.types import Space, Specs
    from dreamer_lightning.world_model import WorldModel

_HOMES = {
    "ActorCritic": "actor_critic",
    "Agent": "agent",
    "Callback": "callbacks.base",
    "Decoder": "nets.decoders",
    "Dreamer": "dreamer",
    "Encoder": "nets.encoders",
    "EnvFactory": "envs.base",
    "Head": "nets.heads",
    "RSSM": "nets.rssm",
    "Run": "commands.run",
    "Space": "types",
    "Specs": "types",
    "UserError": "errors",
    "WorldModel": "world_model",
    "dream": "commands.dream",
    "evaluate": "commands.evaluate",
    "fit": "cli",
    "gym_env": "cli",
}


__getattr__, __dir__ = lazy.names(__name__, _HOMES)

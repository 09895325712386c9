"""Agents with a part taken away, and a task with chance in it, for the queue of `benchmarks/campaign.py`."""

from __future__ import annotations

import gymnasium
import torch
import torch.nn.functional as F

from dreamer_lightning.nets.latents import Categorical
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.ops import onehot
from dreamer_lightning.types import Latent


class Memoryless(BlockRSSM):
    """``deter`` is reset at each step: all that passes from one step to the next is ``stoch`` and the action.

    Args: as ``BlockRSSM``.
    """

    def core(self, latent, action_in):
        return super().core(Latent(torch.zeros_like(latent.deter), latent.stoch), action_in)


class Deterministic(Categorical):
    """The most probable class instead of a draw, with straight-through gradients.

    Args: as ``Categorical``.
    """

    def draw(self, params, noise):
        probs = onehot.mixed_probs(params, self.unimix)
        hard = F.one_hot(probs.argmax(-1), self.classes).to(probs.dtype)
        return (hard + probs - probs.detach()).flatten(-2).to(params.dtype)


def sticky_cartpole() -> gymnasium.Env:
    """CartPole-v1 that repeats the action before with a probability of 0.25."""
    return gymnasium.wrappers.StickyAction(gymnasium.make("CartPole-v1"), 0.25)

"""What the versions before the current DreamerV3 share."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dreamer_lightning.actor_critic import ActorCritic, Dynamics
from dreamer_lightning.types import Latent, Losses, Metrics, UserError


class EarlyActorCritic(ActorCritic):
    """Learns in dreams alone, and knows of their first states, which were seen, whether life goes on there.

    There is no replay value loss: ``value_aware`` and ``start_grad`` have no effect.

    Args: as ``ActorCritic``.
    """

    shortest = 2  # dreams of fewer steps leave no state to learn at

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.imag_length < self.shortest:
            raise UserError(f"imag_length={self.imag_length} is too short for {type(self).__name__}: give 2 or more")

    def forward(
        self,
        latent: Latent,
        records: dict[str, Any],
        dynamics: Dynamics,
        noise: tuple[Shaped[Tensor, "n h ..."], Float[Tensor, "n h+1 a"]],
    ) -> tuple[Losses, Metrics]:
        """As ``ActorCritic.forward``, without ``repval``."""
        b, t = records["is_first"].shape
        k = min(self.imag_last or t, t)
        start = latent.map(lambda x: x[:, -k:].reshape(b * k, -1)).detach()
        alive = (~records["is_terminal"][:, -k:]).reshape(b * k, 1)
        dream = self.imagine(start, dynamics, *noise)
        cont = torch.cat([self.seen(alive), self.dreamed(dream.cont[:, 1:])], 1)
        losses, metrics, _ = self.dream_losses(dream._replace(cont=cont))
        return {key: value.mean(-1).view(b, k) for key, value in losses.items()}, metrics

    def seen(self, alive: Tensor) -> Float[Tensor, "n 1"]:
        """What the continue head should say at the first states."""
        return alive.float() * (self.discount / self.dream_discount)

    def dreamed(self, cont: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        """What is made of what it says at the dreamed ones."""
        return cont


def arriving(x: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Moves what belongs to each state to the state after it, where ``lambda_return`` looks for it.

    In V1 and V2 the value of a state holds the reward of that state itself:
    ``R_j = r_j + live_j [(1 - lam) v_{j+1} + lam R_{j+1}]``.
    """
    return torch.nn.functional.pad(x[:, :-1], (1, 0))


def shifted_weight(live: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Probability (times discount) that a dream lives to see each state: 1, live_0, live_0 live_1, ..."""
    return torch.cumprod(torch.cat([torch.ones_like(live[:, :1]), live[:, :-1]], 1), 1)

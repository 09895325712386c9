"""What the versions before the current DreamerV3 share.

They learn in dreams alone, and know of the first state of a dream, which was seen, whether life goes on there.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer_lightning.actor_critic import AbstractActorCritic, Dynamics, Noise
from dreamer_lightning.types import Carried, Losses, Metrics, UserError


class DreamsAlone(AbstractActorCritic):
    """Learns in dreams alone, at whose first state the true continuation is known."""

    def forward(
        self, latent: Carried, records: dict[str, Any], dynamics: Dynamics, noise: Noise
    ) -> tuple[Losses, Metrics]:
        """``policy`` and ``value`` [b, k], and metrics."""
        terminal = records["is_terminal"]
        dream = self.imagine(self.start(latent).detach(), dynamics, *noise[:2])
        cont = torch.cat([self.first_cont(terminal), self.later_cont(dream.cont[:, 1:])], 1)
        losses, metrics, _ = self.dream_losses(dream._replace(cont=cont))
        return {key: value.mean(-1).view(len(terminal), -1) for key, value in losses.items()}, metrics

    def first_cont(self, is_terminal: Bool[Tensor, "b t"]) -> Float[Tensor, "n 1"]:
        """What the continue head should say at the states where dreams begin."""
        alive = ~is_terminal[:, -self.last(is_terminal.shape[1]) :]
        return alive.reshape(-1, 1).float() * (self.discount / self.dream_discount)

    def later_cont(self, cont: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        """Whether dreams go on, from what the continue head says of each dreamed state."""
        return cont


def check_length(agent: AbstractActorCritic) -> None:
    """Whether dreams leave a state to learn at; in V1 and V2 their last one only bootstraps.

    Raises:
        UserError: they are too short.
    """
    if agent.imag_length < 2:
        raise UserError(f"imag_length={agent.imag_length} is too short for {type(agent).__name__}: give 2 or more")


def arriving(x: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Moves what belongs to each state to the state after it, where ``lambda_return`` looks for it.

    In V1 and V2 the value of a state holds the reward of that state itself:
    ``R_j = r_j + live_j [(1 - lam) v_{j+1} + lam R_{j+1}]``.
    """
    return torch.nn.functional.pad(x[:, :-1], (1, 0))


def shifted_weight(live: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Probability (times discount) that a dream lives to see each state: 1, live_0, live_0 live_1, ..."""
    return torch.cumprod(torch.cat([torch.ones_like(live[:, :1]), live[:, :-1]], 1), 1)

"""What the versions before the current DreamerV3 share.

They learn in dreams alone, and know of the first state of a dream, which was seen, whether life goes on there.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer_lightning.actor_critic import AbstractActorCritic
from dreamer_lightning.types import Losses, UserError


def first_cont(agent: AbstractActorCritic, is_terminal: Bool[Tensor, "b t"]) -> Float[Tensor, "n 1"]:
    """What the continue head should say at the states where dreams begin."""
    alive = ~is_terminal[:, -agent.last(is_terminal.shape[1]) :]
    return alive.reshape(-1, 1).float() * (agent.discount / agent.dream_discount)


def by_start(losses: Losses, is_terminal: Bool[Tensor, "b t"]) -> Losses:
    """Means over dreams [n, .], as [b, k]."""
    return {key: value.mean(-1).view(len(is_terminal), -1) for key, value in losses.items()}


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

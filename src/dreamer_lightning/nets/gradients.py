"""How the actor learns from its dreams: by the score function, along the path of the dream, or by both."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.nets.outputs import Output
from dreamer_lightning.types import ClosedUnitInterval


class ActorGradient(nn.Module, ABC):
    """What the actor climbs at each dreamed state.

    Attributes:
        needs_gradient: dreams must carry gradients from their returns to the actions that led there.
    """

    needs_gradient: bool

    @abstractmethod
    def forward(
        self, policy: Output, action: Float[Tensor, "n h a"], ret: Float[Tensor, "n h"], adv: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n h"]:
        """The gain whose mean the policy loss maximises.

        Args:
            policy: the policy at the states.
            action: what it did there.
            ret: normalised returns; with a gradient to the actions if the dream has one.
            adv: normalised advantages, without a gradient.
        """


class ScoreFunction(ActorGradient):
    """REINFORCE: ``ln pi(a) adv``. Needs no gradient through the dream (today's DreamerV3)."""

    needs_gradient = False

    def forward(
        self, policy: Output, action: Float[Tensor, "n h a"], ret: Float[Tensor, "n h"], adv: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n h"]:
        return policy.log_prob(action) * adv


class Pathwise(ActorGradient):
    """The return itself, differentiated through the dynamics that brought it about (V1; continuous actions of V2)."""

    needs_gradient = True

    def forward(
        self, policy: Output, action: Float[Tensor, "n h a"], ret: Float[Tensor, "n h"], adv: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n h"]:
        return ret


class Mix(ActorGradient):
    """Both: ``share ln pi(a) adv + (1 - share) ret``.

    Args:
        share: of the score function, 0 to 1 (V2's ``actor_grad_mix`` is the share of the other, so 0.1 there is 0.9).
    """

    needs_gradient = True

    def __init__(self, share: ClosedUnitInterval = 0.1):
        super().__init__()
        self.share = share

    def forward(
        self, policy: Output, action: Float[Tensor, "n h a"], ret: Float[Tensor, "n h"], adv: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n h"]:
        return torch.lerp(ret, policy.log_prob(action) * adv, self.share)

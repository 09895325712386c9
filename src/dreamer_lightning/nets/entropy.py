"""How much the policy's entropy counts in its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.nets.normalizers import everyone
from dreamer_lightning.ops.scalars import precise
from dreamer_lightning.types import Metrics, UserError


class EntropyWeight(nn.Module, ABC):
    """Gives the weight of the entropy at each update. What a controller learns lies in buffers, on the device, and so
    in checkpoints.

    Args:
        actent: the weight that was asked for, per nat; a controller's first.
    """

    def __init__(self, actent: float):
        super().__init__()
        self.actent = actent

    @abstractmethod
    def forward(self, entropy: Float[Tensor, ""] | None, update: bool = True) -> Float[Tensor, ""] | float:
        """The weight for this update.

        Args:
            entropy: mean entropy of the policy in dreams, 0-d, from 0 (as little choice as possible) to 1 (as much as
                possible), without a gradient; None where the policy has no such range.
            update: learn from it.
        """

    def metrics(self) -> Metrics:
        """0-d tensors to log."""
        return {}


class ConstantWeight(EntropyWeight):
    """Always ``actent``."""

    def forward(self, entropy: Float[Tensor, ""] | None, update: bool = True) -> float:
        return self.actent


class EntropyTarget(EntropyWeight):
    """Moves the weight w so that the entropy H stays near a target, which falls in the course of training::

        w <- min(w (1 + speed), largest)     where H < target_u / (1 + slack)
        w <- max(w / (1 + speed), smallest)  where H > target_u (1 + slack)
        target_u = target + clip((u - holds) / falls, 0, 1) (final - target)    at update u = 0, 1, ...

    Args:
        actent: the first weight.
        target: of the normalised entropy at first, 0 to 1.
        final: of it in the end.
        holds: updates before the target begins to fall.
        falls: updates that it falls for.
        speed: share by which an update moves the weight.
        slack: share of the target by which the entropy may differ from it.
        smallest: least weight.
        largest: greatest weight.
    Source: Wu et al. 2022, "DayDreamer" (danijar/daydreamer embodied/agents/dreamerv2plus/tfutils.py, AutoAdapt), whose
        target stays.
    """

    weight: Tensor
    updates: Tensor

    def __init__(
        self,
        actent: float,
        target: float = 0.45,
        final: float = 0.1,
        holds: int = 2000,
        falls: int = 8000,
        speed: float = 0.1,
        slack: float = 0.1,
        smallest: float = 1e-5,
        largest: float = 1.0,
    ):
        super().__init__(actent)
        if not 0 < smallest <= actent <= largest:
            raise UserError(f"entropy_weight: actent={actent} is not between smallest={smallest} and largest={largest}")
        if not (0 <= target <= 1 and 0 <= final <= 1):
            raise UserError(
                f"entropy_weight: target={target}, final={final}; give shares of the possible range, 0 to 1"
            )
        self.target, self.final, self.holds, self.falls = target, final, holds, max(1, falls)
        self.speed, self.slack, self.smallest, self.largest = speed, slack, smallest, largest
        self.register_buffer("weight", torch.tensor(actent))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, entropy: Float[Tensor, ""] | None, update: bool = True) -> Float[Tensor, ""]:
        if entropy is None:
            raise UserError("entropy_weight: the entropy of this policy has no bounds to aim between; take a constant")
        if update:
            entropy = everyone(precise(entropy).reshape(1)).mean()
            target, wide = self.aim(), 1 + self.slack
            more, less = self.weight * (1 + self.speed), self.weight / (1 + self.speed)
            moved = torch.where(entropy < target / wide, more, torch.where(entropy > target * wide, less, self.weight))
            self.weight.copy_(moved.clamp(self.smallest, self.largest))
            self.updates += 1
        return self.weight.clone()

    def aim(self) -> Float[Tensor, ""]:
        """The target at this update."""
        fallen = ((self.updates - self.holds) / self.falls).clamp(0, 1)
        return self.target + fallen * (self.final - self.target)

    def metrics(self) -> Metrics:
        return {"actent": self.weight.clone(), "entropy_target": self.aim()}

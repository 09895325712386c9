"""Where dreams begin beside the last states of each sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dreamer_lightning.types import NonNegativeFloat, PositiveInt

RARE = 0.1  # share of the states of a batch above which what they share is not rare


class ExtraStarts(nn.Module, ABC):
    """Chooses further start states among the earlier steps of a batch.

    Args:
        count: further start states for each sequence of the batch, on average.
    """

    def __init__(self, count: PositiveInt = 4):
        super().__init__()
        self.count = count

    def noise(self, n: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, " n"]:
        """Draws for a choice among ``n`` states: uniform from 0 to 1."""
        return torch.rand(n, generator=generator, device=device)

    @abstractmethod
    def forward(
        self, chosen: int, reward: Float[Tensor, "b t"], error: Float[Tensor, "b t"], noise: Float[Tensor, " n"]
    ) -> Int64[Tensor, " m"]:
        """Places of ``m`` start states among the ``n = b t`` states, counted sequence after sequence.

        Args:
            chosen: how many to choose, ``m``.
            reward: on arriving at each state.
            error: how wrong the critic was there: size of the temporal difference over the next real step.
            noise: draws from ``noise``.
        """


class PriorityStarts(ExtraStarts):
    """States with a rare reward first, then by the critic's error: without replacement, with chances that grow as
    ``(error / mean error + floor) ^ sharpness``.

    A reward is rare if at most one state of the batch in ten has one so far from the median reward: at least half
    as far as any.

    Args:
        count: further start states for each sequence of the batch, on average.
        sharpness: 0 is a uniform choice, 1 one in proportion to the error.
        floor: what a state without any error has, as a share of the mean error.
    Source: prioritised replay (Schaul et al. 2016, arXiv 1511.05952) for the starts of dreams; the draw without
        replacement is Gumbel's (Kool et al. 2019, arXiv 1903.06059).
    """

    def __init__(self, count: PositiveInt = 4, sharpness: NonNegativeFloat = 0.7, floor: NonNegativeFloat = 0.1):
        super().__init__(count)
        self.sharpness, self.floor = sharpness, floor

    @torch.no_grad()
    def forward(
        self, chosen: int, reward: Float[Tensor, "b t"], error: Float[Tensor, "b t"], noise: Float[Tensor, " n"]
    ) -> Int64[Tensor, " m"]:
        reward, error = reward.float().flatten(), error.float().flatten()
        gap = (reward - reward.median()).abs()
        rare = gap > 0.5 * gap.max().clamp(min=1e-8)
        rare &= rare.float().mean() <= RARE
        share = error / error.mean().clamp(min=1e-8) + self.floor
        gumbel = -torch.log(-torch.log(noise.clamp(1e-7, 1 - 1e-7)))
        key = self.sharpness * share.clamp(min=1e-8).log() + gumbel
        return (key + 100.0 * rare).topk(chosen).indices

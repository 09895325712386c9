"""Vectors of observations on one scale.

Not in the papers: DreamerV3 squashes vectors by symlog alone, which hardly changes what is small. A distance of 0.1
then weighs a hundredth of what a velocity of 1 weighs in the loss, and for thousands of updates no part of a nat is
spent on it (`docs/sample-efficiency.md`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamer_lightning.nets.normalizers import everyone
from dreamer_lightning.ops.scalars import precise, symexp, symlog
from dreamer_lightning.types import Specs


class Standardize(nn.Module):
    """Each number of the vectors minus its running mean, over its running standard deviation, both in symlog space.

    Images and discrete entries pass through. Missing numbers (-inf) stay what they are and count for nothing.

    Args:
        specs: the spaces of the observations.
        rate: weight of the newest batch, once ``1 / batches`` is smaller; until then all batches weigh the same.
        limit: smallest standard deviation, so that noise on a constant is not blown up.
    """

    def __init__(self, specs: Specs, rate: float = 1e-3, limit: float = 1e-2):
        super().__init__()
        self.rate, self.limit = rate, limit
        self.fixed = False  # statistics of a frozen agent stay what they are
        spaces = {name: space for name, space in specs.obs.items() if not (space.image or space.discrete)}
        self.shapes = {name: space.shape for name, space in spaces.items()}
        self.sizes = [space.size for space in spaces.values()]
        self.register_buffer("moments", torch.stack([torch.zeros(sum(self.sizes)), torch.ones(sum(self.sizes))]))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def update(self, obs: dict[str, Tensor]) -> None:
        """Learn from a batch of observations [*b, ...]."""
        if self.fixed or not self.shapes:
            return
        flat = [symlog(precise(obs[name])).reshape(-1, n) for name, n in zip(self.shapes, self.sizes, strict=True)]
        x = torch.cat(flat, -1)
        known = x.isfinite()
        x = torch.where(known, x, 0.0)
        sums = torch.stack([x.sum(0), x.square().sum(0), known.sum(0)])
        *sums, count = everyone(sums.flatten()).view(-1, *sums.shape).sum(0)
        found = torch.where(count > 0, torch.stack(sums) / count.clamp(min=1), self.moments)
        self.batches += 1
        self.moments.lerp_(found, (1 / self.batches).clamp(min=self.rate))

    def forward(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations as the networks see them."""
        stats = self.stats()
        scaled = {name: (symlog(precise(obs[name])) - mean) / std for name, (mean, std) in stats.items()}
        return {**obs, **scaled}

    def undo(self, name: str, x: Tensor) -> Tensor:
        """A prediction of one of them in the environment's units."""
        stats = self.stats()
        return symexp(x * stats[name][1] + stats[name][0]) if name in stats else x

    def stats(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation by name, in symlog space and in the shape of the space."""
        mean, square = self.moments
        std = (square - mean.square()).clamp(min=0).sqrt().clamp(min=self.limit)
        parts = zip(self.shapes.items(), mean.split(self.sizes), std.split(self.sizes), strict=True)
        return {name: (m.view(shape), s.view(shape)) for (name, shape), m, s in parts}

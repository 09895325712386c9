"""Running statistics that put returns, values and advantages on a common scale.

Source: DreamerV3, equation 12 (return normalisation by percentiles); danijar/dreamerv3@e3f0224 embodied/jax/utils.py.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dreamer_lightning.ops.scalars import precise

Stats = tuple[Tensor, Tensor]  # (offset, scale)


class Normalizer(nn.Module):
    """Interface: ``update`` with a batch, then ``stats()`` gives (offset, scale). This one leaves values alone."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, x: Tensor, update: bool = True) -> Stats:
        if update:
            self.update(x)
        return self.stats()

    def update(self, x: Tensor) -> None:
        pass

    def stats(self) -> Stats:
        return torch.zeros_like(self.one), self.one


class PercentileNorm(Normalizer):
    """Offset and range between two percentiles, as exponential moving averages over updates.

    Args:
        low: lower percentile, in percent.
        high: upper percentile, in percent.
        rate: weight of the newest batch.
        limit: smallest scale, so that small returns are not blown up.
        debias: divide by the weight collected so far (the reference does not).
    """

    def __init__(
        self, low: float = 5.0, high: float = 95.0, rate: float = 0.01, limit: float = 1.0, debias: bool = False
    ):
        super().__init__()
        self.rate, self.limit, self.debias = rate, limit, debias
        self.register_buffer("quantiles", torch.tensor([low, high]) / 100, persistent=False)
        self.register_buffer("range", torch.zeros(2))
        self.register_buffer("corr", torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        x = everyone(precise(x.detach()).flatten())
        self.range.lerp_(quantile(x, self.quantiles), self.rate)
        self.corr.lerp_(self.one, self.rate)

    def stats(self) -> Stats:
        low, high = self.range / self.corr.clamp(min=self.rate) if self.debias else self.range
        return low.clone(), (high - low).clamp(min=self.limit)


class MeanStdNorm(Normalizer):
    """Mean and standard deviation, as exponential moving averages over updates.

    Args:
        rate: weight of the newest batch.
        limit: smallest scale.
        debias: divide by the weight collected so far.
    """

    def __init__(self, rate: float = 0.01, limit: float = 1e-8, debias: bool = True):
        super().__init__()
        self.rate, self.limit, self.debias = rate, limit, debias
        self.register_buffer("moments", torch.zeros(2))  # mean, mean square
        self.register_buffer("corr", torch.zeros(()))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        x = everyone(precise(x.detach()).flatten())
        self.moments.lerp_(torch.stack([x.mean(), x.square().mean()]), self.rate)
        self.corr.lerp_(self.one, self.rate)

    def stats(self) -> Stats:
        mean, square = self.moments / self.corr.clamp(min=self.rate) if self.debias else self.moments
        return mean.clone(), (square - mean.square()).clamp(min=0).sqrt().clamp(min=self.limit)


def quantile(x: Tensor, q: Tensor) -> Tensor:
    """Quantiles of a flat tensor with linear interpolation (``torch.quantile`` stops at 16 million entries)."""
    x = x.sort().values
    place = q * (len(x) - 1)
    below = place.floor()
    index = below.long()
    return torch.lerp(x[index], x[(index + 1).clamp(max=len(x) - 1)], place - below)


def everyone(x: Tensor) -> Tensor:
    """The batches of all ranks, so that statistics are equal everywhere."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)

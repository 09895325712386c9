"""Distributions of actions, and the policy's output that joins one per action into a flat vector."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from dreamer_lightning.nets.outputs import LOG_SQRT_2PI, Distribution, Normal, sum_event
from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import precise
from dreamer_lightning.types import Layout

QUANTILES = 100  # points at which TanhNormal looks for its mode and integrates its entropy


class OneHot(Distribution):
    """One-hot vectors [*b, *event, classes]; a draw's gradient is that of the probabilities (straight-through).

    Args:
        logits: [*b, *event, classes].
        unimix: share of the uniform distribution mixed in.
        event_dims: dimensions of the event before the classes.
    """

    def __init__(self, logits: Float[Tensor, "*b c"], unimix: float = 0.0, event_dims: int = 0):
        self.logp, self.event_dims = onehot.log_probs(logits, unimix), event_dims

    def pred(self) -> Float[Tensor, "*b c"]:
        return self.one_hot(self.logp)

    def log_prob(self, event: Shaped[Tensor, "*b c"]) -> Tensor:
        return sum_event((self.logp * event).sum(-1), self.event_dims)

    def sample(self, noise: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        value = self.one_hot(self.logp + noise)
        if not self.logp.requires_grad:
            return value
        probs = self.logp.exp()
        return value + (probs - probs.detach())

    def entropy(self) -> Tensor:
        return sum_event(onehot.entropy(self.logp), self.event_dims)

    @staticmethod
    def one_hot(score: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        classes = torch.arange(score.shape[-1], device=score.device)
        return (score.argmax(-1, keepdim=True) == classes).to(score.dtype)


class BoundedNormal(Normal):
    """DreamerV3's continuous policy: mean ``tanh(raw)``, std between two bounds. Draws may leave [-1, 1].

    Args:
        mean: [*b, *event], raw.
        std: [*b, *event], raw.
        event_dims: dimensions of the event.
        minstd: smallest standard deviation.
        maxstd: largest standard deviation.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        event_dims: int = 1,
        minstd: float = 0.1,
        maxstd: float = 1.0,
    ):
        std = (maxstd - minstd) * torch.sigmoid(precise(std) + 2.0) + minstd
        super().__init__(torch.tanh(precise(mean)), std, event_dims)


class TanhNormal(Distribution):
    """DreamerV1's policy: the tanh of a normal, mean ``5 tanh(raw/5)``, std ``softplus(raw + softplus^-1(5)) + 1e-4``.

    Args:
        mean: [*b, *event], raw.
        std: [*b, *event], raw.
        event_dims: dimensions of the event.
    """

    def __init__(self, mean: Tensor, std: Tensor, event_dims: int = 1):
        mean = 5.0 * torch.tanh(precise(mean) / 5.0)
        std = F.softplus(precise(std) + math.log(math.expm1(5.0))) + 1e-4
        self.normal, self.event_dims = Normal(mean, std, 0), event_dims

    def pred(self) -> Tensor:
        """The mode of each entry, over 100 quantiles (the original takes the likeliest of 100 draws)."""
        best = self.base_log_prob(self.quantiles).argmax(0, keepdim=True)
        return torch.tanh(self.quantiles.gather(0, best).squeeze(0))

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(self.normal.sample(noise))

    def log_prob(self, event: Tensor) -> Tensor:
        limit = 1 - torch.finfo(event.dtype).eps
        return sum_event(self.base_log_prob(torch.atanh(event.clamp(-limit, limit))), self.event_dims)

    def entropy(self) -> Tensor:
        """By quadrature over 100 quantiles."""
        return sum_event(-self.base_log_prob(self.quantiles).mean(0), self.event_dims)

    def base_log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``tanh(x)``, entry by entry."""
        log_slope = 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))  # ln(1 - tanh(x)^2)
        return self.normal.log_prob(x) - log_slope

    @property
    def quantiles(self) -> Tensor:
        mean = self.normal.mean
        points = (torch.arange(QUANTILES, device=mean.device, dtype=mean.dtype) + 0.5) / QUANTILES
        return self.normal.sample(torch.special.ndtri(points).view(-1, *[1] * mean.ndim))


class TruncatedNormal(Distribution):
    """DreamerV2's continuous policy: a normal cut to [-1, 1], mean ``tanh(raw)``, std ``2 sigmoid(raw/2) + 0.1``.

    Args:
        mean: [*b, *event], raw.
        std: [*b, *event], raw.
        event_dims: dimensions of the event.
    """

    def __init__(self, mean: Tensor, std: Tensor, event_dims: int = 1):
        self.mean, self.event_dims = torch.tanh(precise(mean)), event_dims
        self.std = 2.0 * torch.sigmoid(precise(std) / 2.0) + 0.1
        self.low, self.high = (-1.0 - self.mean) / self.std, (1.0 - self.mean) / self.std
        self.below = torch.special.ndtr(self.low)
        self.mass = torch.special.ndtr(self.high) - self.below

    def pred(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """Through the inverse distribution function, so that the gradient reaches mean and std."""
        eps = torch.finfo(self.mean.dtype).eps
        share = (self.below + torch.special.ndtr(noise) * self.mass).clamp(eps, 1 - eps)
        return (self.mean + self.std * torch.special.ndtri(share)).clamp(-1.0, 1.0)

    def log_prob(self, event: Tensor) -> Tensor:
        error = (event - self.mean) / self.std
        logp = -0.5 * error.square() - (self.std * self.mass).log() - LOG_SQRT_2PI
        return sum_event(logp, self.event_dims)

    def entropy(self) -> Tensor:
        low, high = (x * torch.exp(-0.5 * x.square() - LOG_SQRT_2PI) for x in (self.low, self.high))
        entropy = (self.std * self.mass).log() + (LOG_SQRT_2PI + 0.5) + (low - high) / (2.0 * self.mass)
        return sum_event(entropy, self.event_dims)


class PolicyOutput(Distribution):
    """One distribution per action, over the flat action vector [*b, a] (entries in sorted order of their names).

    Args:
        by_key: distribution of each action by name, in the order of ``spaces``.
        spaces: the layout of the flat vector.
    """

    def __init__(self, by_key: dict[str, Distribution], spaces: Layout):
        self.by_key, self.spaces = by_key, spaces

    def pred(self) -> Float[Tensor, "*b a"]:
        """The greedy action."""
        return self.spaces.join({name: dist.pred() for name, dist in self.by_key.items()})

    def sample(self, noise: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        parts = self.spaces.split(noise)
        return self.spaces.join({name: dist.sample(parts[name]) for name, dist in self.by_key.items()})

    def log_prob(self, event: Float[Tensor, "*b a"]) -> Float[Tensor, "*b"]:
        parts = self.spaces.split(event)
        logps = [dist.log_prob(parts[name]) for name, dist in self.by_key.items()]
        return torch.stack(logps).sum(0) if len(logps) > 1 else logps[0]

    def entropy(self) -> Float[Tensor, "*b"]:
        entropies = [dist.entropy() for dist in self.by_key.values()]
        return torch.stack(entropies).sum(0) if len(entropies) > 1 else entropies[0]

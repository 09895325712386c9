"""What a network's last layer means: a point prediction, a loss against a target, and for some a distribution.

Everything here is float32. Losses keep the batch dimensions and sum over an event's own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import precise, symexp, symlog, twohot_decode, twohot_encode

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def sum_event(x: Tensor, dims: int) -> Tensor:
    """Sum over the last ``dims`` dimensions."""
    return x.flatten(-dims).sum(-1) if dims else x


class Output(ABC):
    """A prediction [*b, ...event]."""

    @abstractmethod
    def pred(self) -> Tensor:
        """The point prediction, in the units of the target."""

    @abstractmethod
    def loss(self, target: Tensor) -> Float[Tensor, "*b"]:
        """The loss against a target, which takes no gradient."""

    def losses(self, *targets: Tensor) -> Float[Tensor, " k *b"]:
        """The losses against several targets; cheaper together for some outputs."""
        return torch.stack([self.loss(target) for target in targets])


class Distribution(Output):
    """A prediction that can be sampled; its loss is the negative log-probability."""

    @abstractmethod
    def sample(self, noise: Tensor) -> Tensor:
        """A draw made from ``noise`` (standard normal, or Gumbel if discrete), differentiable in the parameters."""

    @abstractmethod
    def log_prob(self, event: Tensor) -> Float[Tensor, "*b"]: ...

    @abstractmethod
    def entropy(self) -> Float[Tensor, "*b"]: ...

    def loss(self, target: Tensor) -> Float[Tensor, "*b"]:
        return -self.log_prob(target.detach())


class TwoHot(Output):
    """A scalar as probabilities of exponentially spaced bins.

    Args:
        logits: [*b, bins].
        bins: bin centres in the units of the target, symmetric and increasing.
    """

    def __init__(self, logits: Float[Tensor, "*b bins"], bins: Float[Tensor, " bins"]):
        self.logits, self.bins = precise(logits), bins

    def pred(self) -> Float[Tensor, "*b"]:
        return twohot_decode(torch.softmax(self.logits, -1), self.bins)

    def loss(self, target: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.losses(target)[0]

    def losses(self, *targets: Float[Tensor, "*b"]) -> Float[Tensor, " k *b"]:
        index, weight = twohot_encode(torch.stack(targets), self.bins)
        logp = torch.log_softmax(self.logits, -1).expand(len(index), *self.logits.shape)
        return -(logp.gather(-1, index) * weight).sum(-1)


class SymlogTwoHot(TwoHot):
    """A scalar as probabilities of bins that lie in symlog space.

    Args:
        logits: [*b, bins].
        bins: bin centres, in symlog of the units of the target, symmetric and increasing.
    """

    def pred(self) -> Float[Tensor, "*b"]:
        return symexp(super().pred())

    def losses(self, *targets: Float[Tensor, "*b"]) -> Float[Tensor, " k *b"]:
        return super().losses(*(symlog(target) for target in targets))


class Certain(Output):
    """A number that is known, whatever is seen.

    Args:
        value: [*b].
    """

    def __init__(self, value: Float[Tensor, "*b"]):
        self.value = value

    def pred(self) -> Float[Tensor, "*b"]:
        return self.value

    def loss(self, target: Shaped[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.zeros_like(self.value)


class Binary(Output):
    """The probability of an event.

    Args:
        logit: [*b].
    """

    def __init__(self, logit: Float[Tensor, "*b"]):
        self.logit = precise(logit)

    def pred(self) -> Float[Tensor, "*b"]:
        """The probability."""
        return torch.sigmoid(self.logit)

    def loss(self, target: Shaped[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Cross-entropy with a target in [0, 1], which may be soft."""
        return F.binary_cross_entropy_with_logits(self.logit, target.detach().to(self.logit.dtype), reduction="none")


class Categorical(Distribution):
    """Class indices [*b, *event].

    Args:
        logits: [*b, *event, classes].
        unimix: share of the uniform distribution mixed in.
        event_dims: dimensions of the event.
    """

    def __init__(self, logits: Float[Tensor, "*b c"], unimix: float = 0.0, event_dims: int = 0):
        self.logp, self.event_dims = onehot.log_probs(logits, unimix), event_dims

    def pred(self) -> Tensor:
        return self.logp.argmax(-1)

    def log_prob(self, event: Tensor) -> Tensor:
        """Log-probability; a missing entry (-1) counts 0."""
        event = event.long()
        logp = self.logp.gather(-1, event.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return sum_event(torch.where(event >= 0, logp, 0.0), self.event_dims)

    def sample(self, noise: Float[Tensor, "*b c"]) -> Tensor:
        return (self.logp + noise).argmax(-1)

    def entropy(self) -> Tensor:
        return sum_event(onehot.entropy(self.logp), self.event_dims)


class SymlogMSE(Output):
    """Squared error against the symlog of the target; missing numbers (-inf) count 0.

    Args:
        mean: [*b, *event], in symlog space.
        event_dims: dimensions of the event.
    """

    def __init__(self, mean: Tensor, event_dims: int = 0):
        self.mean, self.event_dims = precise(mean), event_dims

    def pred(self) -> Tensor:
        return symexp(self.mean)

    def loss(self, target: Tensor) -> Tensor:
        target = target.detach()
        error = torch.where(torch.isneginf(target), 0.0, self.mean - symlog(target))
        return sum_event(error.square(), self.event_dims)


class ImageMSE(Output):
    """Pixels as a sigmoid; squared error against pixels/255, summed over height, width and channels.

    Args:
        logits: [*b, h, w, c].
    """

    def __init__(self, logits: Float[Tensor, "*b h w c"]):
        self.mean = torch.sigmoid(precise(logits))

    def pred(self) -> Float[Tensor, "*b h w c"]:
        """Pixels in [0, 1]."""
        return self.mean

    def loss(self, target: Shaped[Tensor, "*b h w c"]) -> Float[Tensor, "*b"]:
        return sum_event((self.mean - target.detach() / 255.0).square(), 3)


class ImageNormal(Output):
    """Pixels as the mean of a unit normal over pixels/255 - 0.5 (DreamerV1, DreamerV2).

    Args:
        mean: [*b, h, w, c].
    """

    def __init__(self, mean: Float[Tensor, "*b h w c"]):
        self.mean = precise(mean)

    def pred(self) -> Float[Tensor, "*b h w c"]:
        """Pixels in [0, 1]."""
        return (self.mean + 0.5).clamp(0.0, 1.0)

    def loss(self, target: Shaped[Tensor, "*b h w c"]) -> Float[Tensor, "*b"]:
        return Normal(self.mean, 1.0, 3).loss(target / 255.0 - 0.5)


class Normal(Distribution):
    """Independent normals.

    Args:
        mean: [*b, *event].
        std: [*b, *event], or one number for all.
        event_dims: dimensions of the event.
    """

    def __init__(self, mean: Tensor, std: Tensor | float = 1.0, event_dims: int = 1):
        self.mean, self.event_dims = precise(mean), event_dims
        self.std = precise(std) if isinstance(std, Tensor) else torch.full((), std, device=mean.device)

    def pred(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.std * noise

    def log_prob(self, event: Tensor) -> Tensor:
        error = (event - self.mean) / self.std
        return sum_event(-0.5 * error.square() - self.std.log() - LOG_SQRT_2PI, self.event_dims)

    def entropy(self) -> Tensor:
        return sum_event((self.std.log() + (LOG_SQRT_2PI + 0.5)).expand_as(self.mean), self.event_dims)


class TanhTarget(Normal):
    """A normal over the tanh of the target; it predicts in that unit."""

    def loss(self, target: Tensor) -> Tensor:
        return super().loss(torch.tanh(target))

"""What kind of variable ``stoch`` is: how a network's numbers become draws, divergences and stored records.

An RSSM holds one of these. They have no parameters, so that any recurrence goes with any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import precise
from dreamer_lightning.types import UserError


class Divergence(NamedTuple):
    """KL(post || prior) with one side held in turn, and both entropies; each [*b], in nats."""

    dyn: Tensor
    rep: Tensor
    post_entropy: Tensor
    prior_entropy: Tensor


class Latents(ABC):
    """Interface. ``stoch_dim`` is the flat size z of a draw, ``param_dim`` how many numbers a network gives for it."""

    stoch_dim: int
    param_dim: int

    @abstractmethod
    def params(self, raw: Float[Tensor, "*b p"]) -> Tensor:
        """A network's flat numbers in the shape that everything below takes."""

    @abstractmethod
    def draw(self, params: Tensor, noise: Tensor) -> Float[Tensor, "*b z"]:
        """A draw made from ``noise``, with a gradient in the parameters."""

    @abstractmethod
    def mode(self, params: Tensor) -> Float[Tensor, "*b z"]:
        """The likeliest value."""

    @abstractmethod
    def noise_of(self, params: Tensor, stoch: Float[Tensor, "*b z"]) -> Tensor:
        """The noise with which ``draw`` gives this value, without a gradient."""

    @abstractmethod
    def noise(self, *batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """What ``draw`` asks for."""

    @abstractmethod
    def divergence(self, post: Tensor, prior: Tensor) -> Divergence:
        """Between two of these, from their parameters, summed over the dimensions of ``stoch``."""

    @abstractmethod
    def pack(self, stoch: Float[Tensor, "*b z"]) -> Tensor:
        """The form in which replay keeps it."""

    @abstractmethod
    def unpack(self, packed: Tensor) -> Tensor:
        """The inverse of ``pack``."""


class Categorical(Latents):
    """A vector of one-hot categoricals with straight-through gradients (DreamerV2, DreamerV3).

    Args:
        groups: number of categoricals.
        classes: classes of each.
        unimix: share of the uniform distribution in every probability (V3 0.01, V2 none).
    """

    def __init__(self, groups: int = 32, classes: int = 32, unimix: float = 0.0):
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.stoch_dim = self.param_dim = groups * classes

    def params(self, raw: Float[Tensor, "*b p"]) -> Float[Tensor, "*b s c"]:
        return raw.unflatten(-1, (self.groups, self.classes))

    def draw(self, params: Float[Tensor, "*b s c"], noise: Shaped[Tensor, "*b s"]) -> Float[Tensor, "*b z"]:
        """``noise``: uniform draws, or class indices."""
        return onehot.sample(onehot.mixed_probs(params, self.unimix), noise).flatten(-2).to(params.dtype)

    def mode(self, params: Float[Tensor, "*b s c"]) -> Float[Tensor, "*b z"]:
        """Without a gradient."""
        return F.one_hot(params.argmax(-1), self.classes).flatten(-2).to(params.dtype)

    def noise_of(self, params: Tensor, stoch: Float[Tensor, "*b z"]) -> Shaped[Tensor, "*b s"]:
        return self.params(stoch).argmax(-1)

    def noise(self, *batch: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "*b s"]:
        return torch.rand(*batch, self.groups, generator=generator, device=device)

    def divergence(self, post: Float[Tensor, "*b s c"], prior: Float[Tensor, "*b s c"]) -> Divergence:
        post, prior = onehot.log_probs(post, self.unimix), onehot.log_probs(prior, self.unimix)
        dyn, rep = onehot.kl(post.detach(), prior).sum(-1), onehot.kl(post, prior.detach()).sum(-1)
        with torch.no_grad():
            return Divergence(dyn, rep, onehot.entropy(post).sum(-1), onehot.entropy(prior).sum(-1))

    def pack(self, stoch: Float[Tensor, "*b z"]) -> Tensor:
        """Class indices (all zero stays the zero vector)."""
        numbers = torch.arange(1, self.classes + 1, dtype=torch.float32, device=stoch.device)
        index = self.params(stoch.detach().float()) @ numbers  # 0 says: no class, the state at a reset
        return index.round_().to(torch.uint8 if self.classes < 256 else torch.int16)

    def unpack(self, packed: Tensor) -> Tensor:
        classes = torch.arange(1, self.classes + 1, device=packed.device)
        return (packed.long().unsqueeze(-1) == classes).flatten(-2)


class Gaussian(Latents):
    """Independent normals, drawn by reparameterisation (DreamerV1): mean and std side by side in the parameters.

    Args:
        dims: number of normals.
        minstd: added to the standard deviation.
        std: of raw numbers x: ``softplus`` (V1) is ``softplus(x)``, ``sigmoid2`` (V2 and V3-2023) ``2 sigmoid(x/2)``.
    Source: danijar/dreamer@56d4d44 models.py; danijar/dreamerv2@07d906e common/nets.py.
    """

    def __init__(self, dims: int = 30, minstd: float = 0.1, std: str = "softplus"):
        if std not in ("softplus", "sigmoid2"):
            raise UserError(f"rssm.latents.std: unknown '{std}', choose softplus or sigmoid2")
        self.minstd, self.shape = minstd, std
        self.stoch_dim, self.param_dim = dims, 2 * dims

    def params(self, raw: Float[Tensor, "*b p"]) -> Float[Tensor, "*b p"]:
        mean, std = precise(raw).chunk(2, -1)
        std = F.softplus(std) if self.shape == "softplus" else 2.0 * torch.sigmoid(std / 2.0)
        return torch.cat([mean, std + self.minstd], -1)

    def draw(self, params: Float[Tensor, "*b p"], noise: Float[Tensor, "*b z"]) -> Float[Tensor, "*b z"]:
        mean, std = params.chunk(2, -1)
        return mean + std * noise

    def mode(self, params: Float[Tensor, "*b p"]) -> Float[Tensor, "*b z"]:
        return params.chunk(2, -1)[0]

    def noise_of(self, params: Float[Tensor, "*b p"], stoch: Float[Tensor, "*b z"]) -> Float[Tensor, "*b z"]:
        mean, std = params.detach().chunk(2, -1)
        return (stoch - mean) / std

    def noise(self, *batch: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "*b z"]:
        return torch.randn(*batch, self.stoch_dim, generator=generator, device=device)

    def divergence(self, post: Float[Tensor, "*b p"], prior: Float[Tensor, "*b p"]) -> Divergence:
        with torch.no_grad():
            post_entropy, prior_entropy = (normal_entropy(x.chunk(2, -1)[1]) for x in (post, prior))
        return Divergence(normal_kl(post.detach(), prior), normal_kl(post, prior.detach()), post_entropy, prior_entropy)

    def pack(self, stoch: Float[Tensor, "*b z"]) -> Tensor:
        return stoch.detach().float()

    def unpack(self, packed: Tensor) -> Tensor:
        return packed


def normal_kl(p: Float[Tensor, "*b p"], q: Float[Tensor, "*b p"]) -> Float[Tensor, "*b"]:
    """KL(p || q) of independent normals, ``sum ln(sq/sp) + (sp^2 + (mp-mq)^2) / (2 sq^2) - 1/2``, in nats."""
    (mean_p, std_p), (mean_q, std_q) = p.chunk(2, -1), q.chunk(2, -1)
    ratio, shift = std_p / std_q, (mean_p - mean_q) / std_q
    return (0.5 * (ratio.square() + shift.square() - 1.0) - ratio.log()).sum(-1)


def normal_entropy(std: Float[Tensor, "*b z"]) -> Float[Tensor, "*b"]:
    """``sum ln(std sqrt(2 pi e))``, in nats."""
    return (std.log() + 1.4189385332046727).sum(-1)


# Where free nats apply.

FreeNats = Literal["per_step", "batch_mean"]


def per_step(kl: Float[Tensor, "*b"], free: float) -> Float[Tensor, "*b"]:
    """``max(free, KL)`` at each time step of each sequence (DreamerV3)."""
    return kl.clamp(min=free)


def batch_mean(kl: Float[Tensor, "*b"], free: float) -> Float[Tensor, "*b"]:
    """``max(free, mean KL)`` over the whole batch of this process, at every step the same (DreamerV1, DreamerV2)."""
    return kl.mean().clamp(min=free).expand_as(kl)


FREE: dict[FreeNats, Callable[[Tensor, float], Tensor]] = {"per_step": per_step, "batch_mean": batch_mean}

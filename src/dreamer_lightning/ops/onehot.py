"""One-hot categorical variables: mixed probabilities, straight-through samples, KL and entropy. All in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

WIDE = 16  # classes from which softmax over the last axis is as fast as over the first


def mixed_probs(logits: Float[Tensor, "*b c"], unimix: float) -> Float[Tensor, "*b c"]:
    """Softmax mixed with a uniform distribution, ``(1-u) softmax(logits) + u/c`` (DreamerV3, "Robust predictions").

    Args:
        logits: unnormalised log-probabilities of ``c`` classes.
        unimix: share ``u`` of the uniform distribution, 0 for none.
    """
    probs = softmax(logits.float())
    return torch.lerp(probs, torch.full_like(probs, 1 / probs.shape[-1]), unimix) if unimix else probs


def softmax(logits: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """Softmax over the last axis; on a CPU few classes go first in memory: its kernel is slow on a short last axis."""
    if logits.is_cuda or logits.shape[-1] >= WIDE:
        return torch.softmax(logits, -1)
    return torch.softmax(logits.movedim(-1, 0).contiguous(), 0).movedim(0, -1)


def log_probs(logits: Float[Tensor, "*b c"], unimix: float) -> Float[Tensor, "*b c"]:
    """Logarithm of ``mixed_probs``, finite also without mixing."""
    return mixed_probs(logits, unimix).log() if unimix else torch.log_softmax(logits.float(), -1)


def sample(probs: Float[Tensor, "*b c"], noise: Shaped[Tensor, "*b"]) -> Float[Tensor, "*b c"]:
    """One-hot draw whose gradient is that of ``probs`` (straight-through).

    Args:
        probs: class probabilities.
        noise: either uniform draws in [0, 1), through which the inverse distribution function picks the class,
            or integer class indices: a draw that was made elsewhere.
    """
    onehot = draw(probs.detach(), noise)
    return onehot + (probs - probs.detach()) if probs.requires_grad else onehot


def draw(probs: Float[Tensor, "*b c"], noise: Shaped[Tensor, "*b"]) -> Float[Tensor, "*b c"]:
    """The value of ``sample`` without a gradient."""
    classes = torch.arange(probs.shape[-1], device=probs.device)
    if (
        noise.is_floating_point()
    ):  # dropping the last edge keeps the index in range when rounding leaves the sum below 1
        noise = (probs.cumsum(-1)[..., :-1] <= noise.unsqueeze(-1)).sum(-1)
    return (noise.unsqueeze(-1) == classes).to(probs.dtype)


def kl(p: Float[Tensor, "*b c"], q: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    """KL(p || q) of two categoricals given as log-probabilities, in nats."""
    return (p.exp() * (p - q)).sum(-1)


def entropy(logp: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    """Entropy of a categorical given as log-probabilities, in nats."""
    return -(logp.exp() * logp).sum(-1)

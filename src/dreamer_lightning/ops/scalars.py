"""Scalars of any size: symlog, symexp, and the two-hot code over exponentially spaced bins."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def precise(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """float32 at least: where softmax, log-probabilities and norms are computed."""
    return x if x.dtype == torch.float32 else x.to(torch.promote_types(x.dtype, torch.float32))


def tanh(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """``torch.tanh`` within 1.2e-7; on a CPU by way of the sigmoid, whose kernel there is faster."""
    return torch.tanh(x) if x.is_cuda else torch.sigmoid(2 * x) * 2 - 1


def symlog(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """``sign(x) ln(1 + |x|)`` (DreamerV3, equation 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """``sign(x) (exp|x| - 1)``, the inverse of ``symlog``."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(bins: int) -> Float[Tensor, " bins"]:
    """``symexp`` of points evenly spread over [-20, 20], exactly symmetric; an even number holds 0 twice.

    Source: danijar/dreamerv3 `embodied/jax/heads.py@e3f0224` (symexp_twohot).
    """
    if bins % 2:
        half = symexp(torch.linspace(-20, 0, bins // 2 + 1, dtype=torch.float64)).float()
        return torch.cat([half, -half[:-1].flip(0)])
    half = symexp(torch.linspace(-20, 0, bins // 2, dtype=torch.float64)).float()
    return torch.cat([half, -half.flip(0)])


def twohot_encode(
    x: Float[Tensor, "*b"], bins: Float[Tensor, " bins"]
) -> tuple[Int[Tensor, "*b 2"], Float[Tensor, "*b 2"]]:
    """The two bins around each number and their weights: linear in the bins' own units, so that the mean is ``x``.

    Args:
        x: numbers; those beyond the last bin go to it, a NaN gives NaN weights.
        bins: increasing bin centres.

    Returns:
        Indices of the lower and upper bin (equal beyond the ends), and their weights, which sum to 1.
    """
    x = x.detach().to(bins.dtype)
    upper = torch.searchsorted(bins, x.contiguous(), right=True)
    index = torch.stack([upper - 1, upper], -1).clamp(0, len(bins) - 1)
    low, high = bins[index].unbind(-1)
    above = (x.clamp(low, high) - low) / (high - low).clamp_min(torch.finfo(bins.dtype).tiny)
    return index, torch.stack([1 - above, above], -1)


def twohot_decode(probs: Float[Tensor, "*b bins"], bins: Float[Tensor, " bins"]) -> Float[Tensor, "*b"]:
    """``sum(probs * bins)``, taken over mirrored pairs so that symmetric probabilities give exactly 0.

    The difference of each pair comes before the product: a compiler that contracts multiply-adds keeps the zero.
    """
    half = bins.shape[0] // 2
    whole = torch.compiler.is_compiling()  # TorchInductor 2.13 gets the gradient of a flipped slice wrong on a CPU
    mirrored = probs.flip(-1)[..., -half:] if whole else probs[..., :half].flip(-1)
    return ((probs[..., -half:] - mirrored) * bins[-half:]).sum(-1)

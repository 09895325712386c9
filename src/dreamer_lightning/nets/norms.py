"""Normalisations over the last axis, by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer_lightning.ops.scalars import precise
from dreamer_lightning.types import UserError


class RMSNorm(nn.Module):
    """``x * rsqrt(mean(x^2) + eps) * weight`` over the last axis, in float32, cast back to the input's type.

    Args:
        features: size of the last axis.
        eps: added to the mean square.
    """

    def __init__(self, features: int, eps: float = 1e-4):
        super().__init__()
        self.features, self.eps = features, eps
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(precise(x), (self.features,), self.weight, self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.features}, eps={self.eps}"


class LayerNorm(nn.LayerNorm):
    """Mean 0 and variance 1 over the last axis (1e-3 is added), then scale and shift; in float32 (V2, V3-2023)."""

    def __init__(self, features: int):
        super().__init__(features, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(precise(x)).to(x.dtype)


NORMS = {"rms": RMSNorm, "layer": LayerNorm, "none": lambda features: nn.Identity()}


def norm_layer(name: str, features: int) -> nn.Module:
    """``rms``, ``layer`` or ``none``."""
    if name not in NORMS:
        raise UserError(f"norm: unknown normalisation '{name}', choose one of {', '.join(NORMS)}")
    return NORMS[name](features)

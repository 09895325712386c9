"""Heads: an MLP on ``feat`` and an output with a meaning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.nets.actions import BoundedNormal, OneHot, PolicyOutput, TanhNormal, TruncatedNormal
from dreamer_lightning.nets.blocks import MLP, Linear
from dreamer_lightning.nets.outputs import (
    Binary,
    Certain,
    Distribution,
    Normal,
    Output,
    SymlogTwoHot,
    TanhTarget,
    TwoHot,
)
from dreamer_lightning.ops.scalars import symexp_bins
from dreamer_lightning.types import Specs, UserError


class Head(nn.Module, ABC):
    """From features [*b, f] to an output."""

    @abstractmethod
    def forward(self, feat: Float[Tensor, "*b f"]) -> Output: ...


class TwoHotHead(Head):
    """A scalar of any size (reward, value) as probabilities of exponentially spaced bins.

    Args:
        in_dim: features.
        units: width of the hidden layers.
        layers: number of hidden layers.
        bins: number of bins.
        outscale: factor on the output layer's initial kernel; 0 starts with the prediction 0.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        init: initialiser of the kernels.
    Source: danijar/dreamerv3 `embodied/jax/heads.py@e3f0224` (symexp_twohot).
    """

    def __init__(
        self,
        in_dim: int,
        *,
        units: int = 64,
        layers: int = 3,
        bins: int = 255,
        outscale: float = 0.0,
        act: str = "silu",
        norm: str = "rms",
        init: str = "trunc_normal_in",
    ):
        super().__init__()
        if bins < 2:
            raise UserError(f"bins={bins} cannot code a number: give 2 or more (255 in the paper)")
        self.mlp = MLP(in_dim, units, layers, act, norm, init)
        self.out = Linear(self.mlp.out_dim, bins, outscale, init)
        self.bins: Tensor
        self.register_buffer("bins", symexp_bins(bins), persistent=False)

    def forward(self, feat: Float[Tensor, "*b f"]) -> TwoHot:
        return TwoHot(self.out(self.mlp(feat)), self.bins)


class SymlogTwoHotHead(TwoHotHead):
    """A scalar as probabilities of bins evenly spaced in symlog space, between which it is linear there (V3-2023).

    Args: as ``TwoHotHead``.
    Source: danijar/dreamerv3 `dreamerv3/jaxutils.py@8fa35f8` (DiscDist).
    """

    def __init__(self, in_dim: int, *, bins: int = 255, **options):
        super().__init__(in_dim, bins=bins, **options)
        self.bins.copy_(torch.linspace(-20, 20, bins))

    def forward(self, feat: Float[Tensor, "*b f"]) -> SymlogTwoHot:
        return SymlogTwoHot(self.out(self.mlp(feat)), self.bins)


class BinaryHead(Head):
    """A probability (of going on).

    Args:
        in_dim: features.
        units: width of the hidden layers.
        layers: number of hidden layers.
        outscale: factor on the output layer's initial kernel.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        init: initialiser of the kernels (V1, V2: ``glorot``).
    """

    def __init__(
        self,
        in_dim: int,
        *,
        units: int = 64,
        layers: int = 1,
        outscale: float = 1.0,
        act: str = "silu",
        norm: str = "rms",
        init: str = "trunc_normal_in",
    ):
        super().__init__()
        self.mlp = MLP(in_dim, units, layers, act, norm, init)
        self.out = Linear(self.mlp.out_dim, 1, outscale, init)

    def forward(self, feat: Float[Tensor, "*b f"]) -> Binary:
        return Binary(self.out(self.mlp(feat)).squeeze(-1))


class EndlessHead(Head):
    """Says that the episode always goes on, and learns nothing (V1 and V2 where time alone ends episodes).

    Args:
        in_dim: features.
    """

    def __init__(self, in_dim: int):
        super().__init__()

    def forward(self, feat: Float[Tensor, "*b f"]) -> Certain:
        return Certain(feat.new_ones(feat.shape[:-1], dtype=torch.float32))


class MSEHead(Head):
    """A scalar as the mean of a unit normal: half the squared error, up to a constant (V1 and V2's reward and value).

    Args:
        in_dim: features.
        units: width of the hidden layers.
        layers: number of hidden layers.
        outscale: factor on the output layer's initial kernel.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        init: initialiser of the kernels; V1 and V2 have ``glorot``.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        units: int = 400,
        layers: int = 4,
        outscale: float = 1.0,
        act: str = "elu",
        norm: str = "none",
        init: str = "glorot",
    ):
        super().__init__()
        self.mlp = MLP(in_dim, units, layers, act, norm, init)
        self.out = Linear(self.mlp.out_dim, 1, outscale, init)

    def forward(self, feat: Float[Tensor, "*b f"]) -> Normal:
        return Normal(self.out(self.mlp(feat)).squeeze(-1), 1.0, 0)


class TanhMSEHead(MSEHead):
    """As ``MSEHead``, for the tanh of the target, in which it also predicts (V2's rewards on Atari).

    Args: as ``MSEHead``.
    """

    def forward(self, feat: Float[Tensor, "*b f"]) -> TanhTarget:
        return TanhTarget(self.out(self.mlp(feat)).squeeze(-1), 1.0, 0)


class PolicyHead(Head):
    """Actions: normals of bounded mean and std for continuous ones, one-hot categoricals for discrete ones (V3).

    Args:
        in_dim: features.
        specs: observations and actions.
        units: width of the hidden layers.
        layers: number of hidden layers.
        minstd: smallest standard deviation of a continuous action.
        maxstd: largest standard deviation of a continuous action.
        outscale: factor on the output layers' initial kernels.
        unimix: share of random choice in discrete actions (the reference's policy ignores its own option: 0).
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        init: initialiser of the kernels (V1, V2: ``glorot``).
    Source: danijar/dreamerv3 `embodied/jax/heads.py@e3f0224` (bounded_normal, categorical).
    """

    def __init__(
        self,
        in_dim: int,
        specs: Specs,
        *,
        units: int = 64,
        layers: int = 3,
        minstd: float = 0.1,
        maxstd: float = 1.0,
        outscale: float = 0.01,
        unimix: float = 0.0,
        act: str = "silu",
        norm: str = "rms",
        init: str = "trunc_normal_in",
    ):
        super().__init__()
        if not 0 < minstd < maxstd:
            raise UserError(f"minstd={minstd} and maxstd={maxstd} must be positive, the first below the second")
        self.spaces = specs.actions
        self.minstd, self.maxstd, self.unimix = minstd, maxstd, unimix
        self.mlp = MLP(in_dim, units, layers, act, norm, init)
        outs = []  # of each action, in the order of ``spaces``: [logits], or [mean, std]
        for space in self.spaces.values():
            sizes = [space.size] if space.discrete else [space.size, space.size]
            outs.append(nn.ModuleList(Linear(self.mlp.out_dim, size, outscale, init) for size in sizes))
        self.outs = nn.ModuleList(outs)

    def forward(self, feat: Float[Tensor, "*b f"]) -> PolicyOutput:
        x = self.mlp(feat)
        by_key: dict[str, Distribution] = {}
        for (name, space), outs in zip(self.spaces.items(), self.outs, strict=True):
            shape, dims = (*x.shape[:-1], *space.shape), len(space.shape)
            raw = [out(x) for out in outs]  # type: ignore[attr-defined]
            if space.discrete:
                by_key[name] = OneHot(raw[0].reshape(*shape, space.classes), self.unimix, dims)
            else:
                by_key[name] = self.continuous(raw[0].reshape(shape), raw[1].reshape(shape), dims)
        return PolicyOutput(by_key, self.spaces)

    def continuous(self, mean: Tensor, std: Tensor, event_dims: int) -> Distribution:
        """The distribution of a continuous action, from its raw parameters."""
        return BoundedNormal(mean, std, event_dims, self.minstd, self.maxstd)

    @property
    def entropy_range(self) -> tuple[float, float] | None:
        """Smallest and largest entropy of a whole action, in nats; None where a distribution has no such bounds."""
        low, high = 0.0, 0.0
        unit = 0.5 * math.log(2 * math.pi * math.e)  # of a normal with std 1
        for space in self.spaces.values():
            least, most = 0.0, math.log(max(1, space.classes))
            if not space.discrete:
                least, most = math.log(self.minstd) + unit, math.log(self.maxstd) + unit
            low, high = low + math.prod(space.shape) * least, high + math.prod(space.shape) * most
        return low, high

    def noise(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Float[Tensor, "*shape a"]:
        """What ``PolicyOutput.sample`` asks for: standard normal, or Gumbel for discrete actions."""
        parts = []
        for space in self.spaces.values():
            part = torch.empty(*shape, space.size, device=device)
            if space.discrete:
                parts.append(part.exponential_(generator=generator).log_().neg_())
            else:
                parts.append(part.normal_(generator=generator))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


class TanhPolicyHead(PolicyHead):
    """DreamerV1's policy: the tanh of a normal; ``minstd`` and ``maxstd`` have no effect.

    Args: as ``PolicyHead``; the original has 4 layers of 400 units, ``elu``, ``norm: none``, ``outscale: 1``.
    """

    def continuous(self, mean: Tensor, std: Tensor, event_dims: int) -> Distribution:
        return TanhNormal(mean, std, event_dims)

    entropy_range = None  # type: ignore[assignment]


class TruncatedPolicyHead(PolicyHead):
    """DreamerV2's policy: a normal truncated to [-1, 1]; ``minstd`` and ``maxstd`` have no effect.

    Args: as ``PolicyHead``; the original has 4 layers of 400 units, ``elu``, ``norm: none``, ``outscale: 1``.
    """

    def continuous(self, mean: Tensor, std: Tensor, event_dims: int) -> Distribution:
        return TruncatedNormal(mean, std, event_dims)

    entropy_range = None  # type: ignore[assignment]

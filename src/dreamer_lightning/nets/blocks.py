"""The layers every network is made of: linear, block-linear, convolution, MLP, and their initialiser.

Source: danijar/dreamerv3 `embodied/jax/nets.py@e3f0224` (defaults and initialisers).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer_lightning.nets.norms import RMSNorm as RMSNorm
from dreamer_lightning.nets.norms import norm_layer as norm_layer
from dreamer_lightning.types import UserError

TRUNC_SCALE = 1.1368  # a unit normal truncated at two standard deviations has a standard deviation of 1/1.1368

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "mish": F.mish,
    "relu2": lambda x: F.relu(x).square(),
    "elu": F.elu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of this name."""
    if name not in ACTIVATIONS:
        raise UserError(f"act: unknown activation '{name}', choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


@torch.no_grad()
def init_kernel(weight: Tensor, fan_in: int, fan_out: int, outscale: float, init: str) -> None:
    """Fill a kernel in place.

    Args:
        weight: the kernel, any layout.
        fan_in: inputs that reach one output.
        fan_out: outputs that one input reaches.
        outscale: factor on the drawn kernel; 0 gives zeros.
        init: ``trunc_normal_in`` (V3: a unit normal cut at +-2, times 1.1368/sqrt(fan_in)), ``glorot`` (V1, V2), or
            another of ``trunc_normal``, ``normal``, ``uniform`` with ``_in``, ``_out`` or ``_avg`` for the fan;
            ``normed_in`` makes the weights of each output (first axis) a vector of length 1.
    """
    kind, _, mode = init.rpartition("_") if init != "glorot" else ("glorot", "", "avg")
    fans = {"in": fan_in, "out": fan_out, "avg": (fan_in + fan_out) / 2}
    if mode not in fans or kind not in ("trunc_normal", "normal", "uniform", "normed", "glorot"):
        raise UserError(f"init: unknown initialiser '{init}', choose for example trunc_normal_in or glorot")
    std = outscale / sqrt(fans[mode])
    if outscale == 0.0:
        weight.zero_()
    elif kind == "trunc_normal":
        nn.init.trunc_normal_(weight, std=1.0, a=-2.0, b=2.0).mul_(TRUNC_SCALE * std)
    elif kind == "normal":
        weight.normal_(0.0, std)
    elif kind == "normed":
        weight.uniform_(-1.0, 1.0)
        weight.mul_(outscale / weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1)))
    else:
        limit = sqrt(3.0) * std if kind == "glorot" else std
        weight.uniform_(-limit, limit)


class Linear(nn.Linear):
    """A dense layer with the reference's initialiser: truncated normal kernel, zero bias.

    Args:
        in_features: inputs.
        out_features: outputs.
        outscale: factor on the initial kernel (0 for outputs that must start at zero).
        init: initialiser, see ``init_kernel``.
        bias: whether there is one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        outscale: float = 1.0,
        init: str = "trunc_normal_in",
        bias: bool = True,
    ):
        self.outscale, self.init = outscale, init
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        init_kernel(self.weight, self.in_features, self.out_features, self.outscale, self.init)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BlockLinear(nn.Module):
    """A block-diagonal dense layer; inputs and outputs are block-major.

    The initialiser uses the whole input size as fan-in, not the block's, as the reference does.

    Args:
        in_features: inputs over all blocks.
        out_features: outputs over all blocks.
        blocks: number of blocks; divides both.
        outscale: factor on the initial kernel.
    """

    def __init__(self, in_features: int, out_features: int, blocks: int, outscale: float = 1.0):
        super().__init__()
        if in_features % blocks or out_features % blocks:
            raise UserError(f"blocks={blocks} must divide the layer sizes {in_features} and {out_features}")
        self.in_features, self.out_features, self.blocks, self.outscale = in_features, out_features, blocks, outscale
        self.weight = nn.Parameter(torch.empty(blocks, in_features // blocks, out_features // blocks))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_kernel(self.weight, self.in_features, self.out_features, self.outscale, "trunc_normal_in")
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """Each block sees its part of ``x`` [*b, own] and, if given, all of ``shared`` [*b, rest]."""
        y = self.blocked(x, shared).transpose(0, 1)
        return y.reshape(*x.shape[:-1], self.out_features)

    def blocked(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """The output before its blocks are joined, [blocks, *b flattened, out/blocks]: saves a copy where that does."""
        own = x.shape[-1] // self.blocks
        parts = x.reshape(-1, self.blocks, own).transpose(0, 1)  # [g n i], a view
        if shared is None:
            return torch.bmm(parts, self.weight).add_(self.bias.view(self.blocks, 1, -1))  # faster than baddbmm
        # one wide product, instead of as many copies of the shared input as there are blocks
        kernel = self.weight[:, own:].transpose(0, 1).reshape(shared.shape[-1], self.out_features)
        rows = shared.reshape(-1, shared.shape[-1])
        y = torch.addmm(self.bias, rows, kernel).view(-1, self.blocks, self.weight.shape[-1])
        return torch.baddbmm(y.transpose(0, 1), parts, self.weight[:, :own])

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, blocks={self.blocks}"


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis so that a convolution gives ceil(size/stride) outputs (XLA's SAME)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Conv2d(nn.Conv2d):
    """A convolution over [n, c, h, w] (channels_last in memory) with SAME or VALID padding and our initialiser.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel: side of the square kernel.
        stride: step between outputs.
        same: SAME padding as XLA does it (odd remainders go to the end); otherwise no padding.
        outscale: factor on the initial kernel.
        init: initialiser, see ``init_kernel``.
    """

    bias: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 5,
        stride: int = 1,
        same: bool = True,
        outscale: float = 1.0,
        init: str = "trunc_normal_in",
    ):
        self.outscale, self.init, self.same = outscale, init, same
        super().__init__(in_channels, out_channels, kernel, stride)

    def reset_parameters(self) -> None:
        area = prod(self.kernel_size)
        init_kernel(self.weight, self.in_channels * area, self.out_channels * area, self.outscale, self.init)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            return F.conv2d(x, self.weight, self.bias, self.stride)
        pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)]
        (top, bottom), (left, right) = pads
        if top != bottom or left != right:
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left))


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 over [n, c, h, w].

    Input pixel i lands on 2i+1 of a zero grid of twice the size, which is then convolved with SAME padding
    (``same=True``: exactly twice the size), or the full 2(n-1)+kernel outputs are kept (V1 and V2).

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel: side of the square kernel (5 if ``same``).
        same: see above.
        outscale: factor on the initial kernel.
        init: initialiser, see ``init_kernel``.
    """

    bias: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 5,
        same: bool = True,
        outscale: float = 1.0,
        init: str = "trunc_normal_in",
    ):
        self.outscale, self.init, self.same = outscale, init, same
        self.crop = kernel // 2 - 1 if same else 0
        super().__init__(in_channels, out_channels, kernel, stride=2, padding=self.crop)

    def reset_parameters(self) -> None:
        area = prod(self.kernel_size)
        init_kernel(self.weight, self.in_channels * area, self.out_channels * area, self.outscale, self.init)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.crop)
        return y[..., : 2 * x.shape[-2], : 2 * x.shape[-1]] if self.same else y


class MLP(nn.Module):
    """``layers`` times (Linear, norm, activation).

    Args:
        in_dim: inputs.
        units: width of every layer.
        layers: number of layers; 0 passes the input through.
        act: activation, see ``activation``.
        norm: ``rms``, ``layer`` (whose shift is the layer's bias, as in the V3 of 2023) or ``none``.
        init: initialiser, see ``init_kernel``.
    """

    def __init__(
        self,
        in_dim: int,
        units: int,
        layers: int,
        act: str = "silu",
        norm: str = "rms",
        init: str = "trunc_normal_in",
    ):
        super().__init__()
        widths = [in_dim] + [units] * (layers - 1)
        self.linears = nn.ModuleList(Linear(width, units, init=init, bias=norm != "layer") for width in widths[:layers])
        self.norms = nn.ModuleList(norm_layer(norm, units) for _ in range(layers))
        self.act = activation(act)
        self.out_dim = units if layers else in_dim

    def forward(self, x: Tensor) -> Tensor:
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = self.act(norm(linear(x)))
        return x

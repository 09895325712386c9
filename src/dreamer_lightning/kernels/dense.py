"""Dense layers on many rows and MLPs by `dense.c`, on a CPU; `nets/blocks.py` holds what they compute."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer_lightning.kernels import fused, native

MOST = 8  # hidden layers that a loop can have
FEW, ENOUGH = 16, 64  # rows up to which a kernel is read where it lies, and from which it is worth laying out anew
MANY = 4096  # rows from which a lone layer is faster here
usable = fused.usable


class DenseRequest(ctypes.Structure):
    """``dense`` in dense.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "w", "bias", "out", "room")),
        *((name, ctypes.c_long) for name in ("n", "k", "o", "by_k", "by_o", "parts")),
    ]


class MLPRequest(ctypes.Structure):
    """``mlp`` in dense.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p * MOST) for name in ("sums", "outs")),
        ("weights", ctypes.c_void_p * (3 * MOST)),
        ("room", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("n", "inputs", "u", "layers", "parts", "packed")),
        ("eps", ctypes.c_float),
    ]


def compiled() -> ctypes.CDLL:
    """The library, which there is where tensors are ``usable``."""
    library = native.library()
    assert library is not None
    return library


def division(rows: int, work: int) -> dict[str, int]:
    """Into how many parts, one a thread, the rows are cut, and whether their work is worth laying kernels out anew."""
    packed = work > FEW
    return {"parts": min(torch.get_num_threads(), rows) if packed else 1, "packed": packed}


def linear(x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> Tensor:
    """``x @ weight.T + bias``."""
    if bias is None or not dense_pays(x, weight, bias):
        return F.linear(x, weight, bias)
    if fused.time_first(x):
        return linear(x.transpose(0, 1), weight, bias).transpose(0, 1)
    return Dense.apply(x, weight, bias)


def dense_pays(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether there are rows enough, in float32 on a CPU."""
    fits = x.ndim > 1 and x.shape[-1] == weight.shape[1] and x.numel() >= MANY * x.shape[-1]
    return fits and usable(x, weight, bias) and not torch.is_autocast_enabled("cpu")


class Dense(torch.autograd.Function):
    """Blocks of rows, which stay in the cache with their output; the bias is not copied to every row before."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        out = dense(x.reshape(-1, x.shape[-1]), weight, bias)
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.reshape(-1, len(weight))
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            dense_input(grad, weight).view(x.shape) if by_x else None,
            grad.t() @ x.reshape(-1, x.shape[-1]) if by_weight else None,
            grad.sum(0) if by_bias else None,
        )


def dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` of rows [n k]."""
    return run_dense(x, weight, bias, by_k=1, by_o=weight.shape[1], wide=weight.shape[0])


def dense_input(grad: Tensor, weight: Tensor) -> Tensor:
    """``grad @ weight`` of rows [n o]: the gradient by ``x``."""
    return run_dense(grad, weight, None, by_k=weight.shape[1], by_o=1, wide=weight.shape[1])


def run_dense(x: Tensor, weight: Tensor, bias: Tensor | None, by_k: int, by_o: int, wide: int) -> Tensor:
    (n, k), out, library = x.shape, x.new_empty(len(x), wide), compiled()
    x, weight, bias = x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous()
    asked = DenseRequest(n=n, k=k, o=wide, by_k=by_k, by_o=by_o, parts=division(n, n)["parts"])
    room = x.new_empty(library.dense_room(ctypes.byref(asked)))
    asked.x, asked.w, asked.bias = x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr()
    asked.out, asked.room = out.data_ptr(), room.data_ptr()
    library.dense_forward(ctypes.byref(asked))
    return out


def mlp_pays(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether ``mlp`` can take these, and is faster: few rows or enough of them."""
    rows, layers = x.numel() // x.shape[-1], len(weights) // 3
    fits = not FEW < rows < ENOUGH and 0 < layers <= MOST and x.shape[-1] == weights[0].shape[1]
    fits = fits and all(kernel.shape == (len(weights[0]),) * 2 for kernel in weights[3::3])  # torch says what does not
    return fits and usable(x, *weights) and not torch.is_autocast_enabled("cpu")


def mlp(x: Tensor, weights: Sequence[Tensor], eps: float) -> Tensor:
    """Layers of a product, an RMS norm and SiLU each.

    Args:
        x: [*b, i].
        weights: kernel [u, .], bias and norm of each layer.
        eps: of the norms.
    """
    if fused.time_first(x):
        return mlp(x.transpose(0, 1), weights, eps).transpose(0, 1)
    rows, weights = x.reshape(-1, x.shape[-1]), [w.contiguous() for w in weights]
    out = Layers.apply(rows, eps, *weights) if fused.differentiated(x, *weights) else run_mlp(rows, eps, weights)[1][-1]
    return out.view(*x.shape[:-1], out.shape[-1])


def run_mlp(x: Tensor, eps: float, weights: Sequence[Tensor], keep: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """Each layer before and after norm and SiLU, or the last one after them alone."""
    (n, inputs), u, layers, library = x.shape, len(weights[0]), len(weights) // 3, compiled()
    x, parts = x.contiguous(), division(n, n)
    sums = [x.new_empty(n, u) for _ in range(layers if keep else 0)]
    outs = [x.new_empty(n, u) for _ in range(layers if keep else 1)]
    asked = mlp_request(tuple(w.data_ptr() for w in weights), n, inputs, u, eps, *parts.values())
    asked.x = x.data_ptr()
    if keep:
        asked.sums[:layers] = [y.data_ptr() for y in sums]
        asked.outs[:layers] = [y.data_ptr() for y in outs]
    else:
        asked.outs[layers - 1] = outs[0].data_ptr()
    room = x.new_empty(library.mlp_room(ctypes.byref(asked)))
    asked.room = room.data_ptr()
    library.mlp_forward(ctypes.byref(asked))
    return sums, outs


def mlp_request(weights: tuple[int, ...], *numbers: float) -> MLPRequest:
    """What the library is asked, but for the tensors of this call: a copy, for several threads may ask."""
    return MLPRequest.from_buffer_copy(known_mlp(weights, *numbers))


@functools.lru_cache(256)
def known_mlp(
    weights: tuple[int, ...], n: int, inputs: int, u: int, eps: float, parts: int, packed: bool
) -> MLPRequest:
    """Made of plain numbers alone (addresses of weights too), so that it holds for whoever has the same."""
    asked = MLPRequest(n=n, inputs=inputs, u=u, layers=len(weights) // 3, eps=eps, parts=parts, packed=packed)
    asked.weights[: len(weights)] = weights
    return asked


class Layers(torch.autograd.Function):
    """``mlp`` with a gradient."""

    @staticmethod
    def forward(ctx, x, eps, *weights):
        sums, outs = run_mlp(x, eps, weights, keep=True)
        ctx.eps, ctx.layers = eps, len(sums)
        ctx.save_for_backward(x, *sums, *outs[:-1], *weights)
        return outs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        layers, saved = ctx.layers, ctx.saved_tensors
        sums, inputs, weights = saved[1 : 1 + layers], (saved[0], *saved[1 + layers : 2 * layers]), saved[2 * layers :]
        grads: list[Tensor | None] = []
        for i in reversed(range(layers)):
            kernel, _, norm = weights[3 * i : 3 * i + 3]
            by_kernel, by_bias = ctx.needs_input_grad[2 + 3 * i : 4 + 3 * i]
            below, of_norm = fused.norm_silu_gradients(grad.contiguous(), sums[i], norm, ctx.eps)
            of_layer = below.t() @ inputs[i] if by_kernel else None, below.sum(0) if by_bias else None
            grads = [*of_layer, of_norm, *grads]
            grad = below @ kernel if i or ctx.needs_input_grad[0] else None
        return grad, None, *grads

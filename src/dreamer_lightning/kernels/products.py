"""A dense layer on very many rows: on a CPU a stretch of rows at a time, which stays in the cache with its output.

By the compiled loops, else by torch: 16384 dreamed states through the 255 bins of a two-hot head take 0.6 of the time
of the whole product (`benchmarks/kernels.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer_lightning.kernels import fused, layers

MANY, STRETCH = 4096, 1024  # rows from which it pays; rows of a stretch


def linear(x: Float[Tensor, "*b i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> Tensor:
    """``x @ weight.T + bias``."""
    if bias is None or not stretches_pay(x, weight):
        return F.linear(x, weight, bias)
    if fused.time_first(x):
        return linear(x.transpose(0, 1), weight, bias).transpose(0, 1)
    return (Dense if layers.usable(x, weight, bias) else Stretches).apply(x, weight, bias)


def stretches_pay(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a float32 product of many rows on a CPU, and nobody watches or changes it."""
    return (
        x.ndim > 1
        and x.shape[-1] == weight.shape[1]
        and x.numel() >= MANY * x.shape[-1]
        and not torch.compiler.is_compiling()
        and not fused.is_off()
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def stretches(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of ``x`` [*b i], a stretch at a time: their place among all rows, and themselves [rows i]."""
    each = math.prod(x.shape[1:-1])
    step = max(1, STRETCH // each)
    for i in range(0, len(x), step):
        part = x[i : i + step].reshape(-1, x.shape[-1])
        yield slice(i * each, i * each + len(part)), part


class Dense(torch.autograd.Function):
    """Many rows by the compiled loops, which also spare the copy of the bias to every row before the product."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        out = layers.dense(x.reshape(-1, x.shape[-1]), weight, bias)
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.reshape(-1, len(weight))
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            layers.dense_input(grad, weight).view(x.shape) if by_x else None,
            grad.t() @ x.reshape(-1, x.shape[-1]) if by_weight else None,
            grad.sum(0) if by_bias else None,
        )


class Stretches(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        out, kernel = x.new_empty(*x.shape[:-1], len(weight)), weight.t()
        rows = out.view(-1, len(weight))
        for place, part in stretches(x):
            torch.addmm(bias, part, kernel, out=rows[place])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        grad = grad.reshape(-1, len(weight))
        if ctx.needs_input_grad[0]:
            by_x = torch.empty_like(x, memory_format=torch.contiguous_format)
            rows = by_x.view(-1, x.shape[-1])
            for place, part in stretches(grad):
                torch.mm(part, weight, out=rows[place])
        if ctx.needs_input_grad[1]:
            by_weight = torch.zeros_like(weight)
            for place, part in [(slice(None), x.view(-1, x.shape[-1]))] if x.is_contiguous() else stretches(x):
                by_weight.addmm_(grad[place].t(), part)
        if ctx.needs_input_grad[2]:
            by_bias = grad.sum(0)
        return by_x, by_weight, by_bias

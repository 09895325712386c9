"""Chains of element-wise operations as one each: on a CPU by `kernels.c`, elsewhere by their twins in torch.

An update from 1024 states spends as long in such chains as in matrix products if each link passes through memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer_lightning.kernels import native, slopes
from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import twohot_decode

PLAIN = (Tensor, torch.nn.Parameter)  # not a fake one, whose memory is elsewhere
wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # nor one of torch.func's
PARTS = 16  # sums into which a reduction over rows is cut: fixed, so that the result does not depend on threads


def heard() -> bool:
    """Whether somebody listens to every module of the process, as some profilers do."""
    return bool(torch.nn.modules.module._has_any_global_hook())


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can take these: float32 in a CPU's memory, no compiler and no tracer at work."""
    if native.library() is None or torch.compiler.is_compiling() or torch.jit.is_tracing() or heard():
        return False
    return all(x.dtype is torch.float32 and x.is_cpu and type(x) in PLAIN and not wrapped(x) for x in tensors)


def call(name: str, *args: Tensor | int | float) -> None:
    """A kernel on contiguous tensors and numbers."""
    assert all(x.is_contiguous() for x in args if isinstance(x, Tensor)), name
    getattr(native.library(), name)(*(x.data_ptr() if isinstance(x, Tensor) else x for x in args))


def time_first(x: Tensor) -> bool:
    """Whether ``x`` [n t .] lies in memory as [t n .], as dreams do: what works by rows takes it so, without a copy."""
    return x.ndim == 3 and not x.is_contiguous() and x.transpose(0, 1).is_contiguous()


def differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


# RMS norm and SiLU.


def norm_silu(x: Float[Tensor, "*b d"], weight: Float[Tensor, "*m d"], eps: float) -> Float[Tensor, "*b d"]:
    """``silu(x / sqrt(mean(x^2) + eps) * weight)``; the weight may have more dimensions of x than the last."""
    if not usable(x, weight) or x.shape[-weight.ndim :] != weight.shape:  # torch says what does not fit
        return slopes.norm_silu(x, weight, eps)
    if time_first(x) and weight.ndim == 1:
        return norm_silu(x.transpose(0, 1), weight, eps).transpose(0, 1)
    x, weight = x.contiguous(), weight.contiguous()
    return NormSilu.apply(x, weight, eps) if differentiated(x, weight) else NormSilu.run(x, weight, eps)


class NormSilu(torch.autograd.Function):
    @staticmethod
    def run(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, (rows, d) = torch.empty_like(x), NormSilu.sizes(x, weight)
        call("norm_silu", out, x, weight, rows, weight.numel() // d, d, eps)
        return out

    @staticmethod
    def sizes(x: Tensor, weight: Tensor) -> tuple[int, int]:
        return x.numel() // weight.numel(), x.shape[-1]

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.eps = eps
        ctx.save_for_backward(x, weight)
        return NormSilu.run(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x, weight), grad = ctx.saved_tensors, grad.contiguous()
        return *norm_silu_gradients(grad, x, weight, ctx.eps), None


def norm_silu_gradients(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradients by ``x`` and by the weight, of contiguous tensors."""
    out, sums, (rows, d) = torch.empty_like(x), x.new_empty(PARTS, *weight.shape), NormSilu.sizes(x, weight)
    call("norm_silu_gradients", out, sums, grad, x, weight, rows, weight.numel() // d, d, eps, PARTS)
    return out, sums.sum(0)


class Norm:
    """``slopes.Norm`` by the kernels, for after a compiled scan.

    Args: as there.
    """

    def __init__(self, pre: Tensor, weight: Tensor, eps: float):
        self.pre, self.weight, self.eps = pre, weight.contiguous(), eps

    def weight_grad(self, grad: Tensor) -> Tensor:
        return norm_silu_gradients(grad.contiguous(), self.pre, self.weight, self.eps)[1]

    def output(self) -> Tensor:
        return norm_silu(self.pre, self.weight, self.eps)


# One-hot draws.


def draw(logits: Float[Tensor, "*b c"], noise: Shaped[Tensor, "*b"], unimix: float) -> Float[Tensor, "*b c"]:
    """A one-hot draw without a gradient: ``onehot.draw`` of ``onehot.mixed_probs``."""
    if not usable(logits, noise) or noise.shape != logits.shape[:-1]:  # class indices instead of noise go this way too
        return onehot.draw(onehot.mixed_probs(logits, unimix), noise)
    logits, noise = logits.contiguous(), noise.contiguous()
    out = torch.empty_like(logits)
    call("draw", out, logits, noise, noise.numel(), logits.shape[-1], unimix)
    return out


# Two-hot predictions.


def twohot_mean(logits: Float[Tensor, "*b c"], bins: Float[Tensor, " c"]) -> Float[Tensor, "*b"]:
    """The expectation of symmetric bins under ``softmax(logits)``."""
    if not usable(logits, bins) or len(bins) != logits.shape[-1]:
        return twohot_decode(torch.softmax(logits, -1), bins)
    if time_first(logits):
        return twohot_mean(logits.transpose(0, 1), bins).transpose(0, 1)
    logits = logits.contiguous()
    return TwoHotMean.apply(logits, bins) if differentiated(logits) else TwoHotMean.run(logits, bins)


class TwoHotMean(torch.autograd.Function):
    @staticmethod
    def run(logits: Tensor, bins: Tensor) -> Tensor:
        out = logits.new_empty(logits.shape[:-1])
        call("twohot_mean", out, logits, bins, out.numel(), logits.shape[-1])
        return out

    @staticmethod
    def forward(ctx, logits, bins):
        out = TwoHotMean.run(logits, bins)
        ctx.save_for_backward(logits, bins, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits, bins, mean = ctx.saved_tensors
        by_logits = torch.empty_like(logits)
        call("twohot_mean_backward", by_logits, grad.contiguous(), logits, bins, mean, mean.numel(), logits.shape[-1])
        return by_logits, None


def twohot_loss(
    logits: Float[Tensor, "*b c"], index: Int[Tensor, "k *b 2"], weight: Float[Tensor, "k *b 2"]
) -> Float[Tensor, " k *b"]:
    """Cross-entropies of ``softmax(logits)`` with ``k`` two-hot targets."""
    if not usable(logits, weight) or not index.shape[1:] == weight.shape[1:] == (*logits.shape[:-1], 2):
        logp = torch.log_softmax(logits, -1).expand(len(index), *logits.shape)
        return -(logp.gather(-1, index) * weight).sum(-1)
    if time_first(logits):
        return twohot_loss(logits.transpose(0, 1), index.transpose(1, 2), weight.transpose(1, 2)).transpose(1, 2)
    logits = logits.contiguous()
    return TwoHotLoss.apply(logits, index.contiguous(), weight.contiguous())


class TwoHotLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, index, weight):
        ctx.save_for_backward(logits, index, weight)
        out = weight.new_empty(weight.shape[:-1])
        call("twohot_loss", out, logits, index, weight, len(index), out[0].numel(), logits.shape[-1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits, index, weight = ctx.saved_tensors
        by_logits, sizes = torch.empty_like(logits), (len(index), logits.shape[:-1].numel(), logits.shape[-1])
        call("twohot_loss_backward", by_logits, grad.contiguous(), logits, index, weight, *sizes)
        return by_logits, None, None

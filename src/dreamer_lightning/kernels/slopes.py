"""Backward of the element-wise parts of a scan in torch: derivatives of all steps before, in wide operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import tanh


def norm_silu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``silu(x / sqrt(mean(x^2) + eps) * weight)``; the weight may have more dimensions of x than the last."""
    if weight.ndim == 1:
        return F.silu(F.rms_norm(x, weight.shape, weight, eps))
    return F.silu(F.rms_norm(x, x.shape[-1:], None, eps) * weight)


class Norm:
    """RMS norm and SiLU.

    Args:
        pre: inputs of the norm, [t, ..., features].
        weight: the norm's scale, [..., features].
        eps: of the norm.
    """

    def __init__(self, pre: Tensor, weight: Tensor, eps: float):
        self.pre, self.weight, self.eps = pre, weight, eps
        self.inverse = pre.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        self.normed = pre * self.inverse
        before_silu = self.normed * weight
        sigmoid = torch.sigmoid(before_silu)
        self.slope = sigmoid * (1 + before_silu * (1 - sigmoid))
        self.to_normed = self.slope * weight
        self.mean_normed = self.normed / pre.shape[-1]

    def backward(self, t: int, grad: Tensor, out: Tensor) -> None:
        """From the gradient of step ``t``'s output to that of the norm's input."""
        grad = grad * self.to_normed[t]
        along = (grad * self.mean_normed[t]).sum(-1, keepdim=True)
        torch.mul(torch.addcmul(grad, self.normed[t], along, value=-1), self.inverse[t], out=out)

    def weight_grad(self, grad: Tensor) -> Tensor:
        """Gradient of the scale, from the gradients of all outputs."""
        return (grad * self.slope * self.normed).sum((0, 1))

    def output(self) -> Tensor:
        return norm_silu(self.pre, self.weight, self.eps)


class Gates:
    """The gates of the recurrence.

    Args:
        gates: before their bias [t g b 3d/g].
        bias: [3d].
        old: ``deter`` that enters each step [t b d].
    """

    def __init__(self, gates: Tensor, bias: Tensor, old: Tensor):
        steps, g, b, _ = gates.shape
        reset, cand, update = (gates + bias.view(g, 1, -1)).chunk(3, -1)
        reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1)
        new = tanh(reset * cand)
        before = old.view(steps, b, g, -1).transpose(1, 2)
        by_new = update * (1 - new.square())
        slopes = [by_new * cand * reset * (1 - reset), by_new * reset, (new - before) * update * (1 - update)]
        self.to_gates = torch.stack(slopes, -2)  # [t g b 3 d/g]
        self.to_old = (1 - update).transpose(1, 2).reshape(steps, b, -1)

    def backward(self, t: int, grad: Tensor, out: Tensor) -> Tensor:
        """From the gradient of the next ``deter`` [b d] to the gates', into ``out``, and the old ``deter``'s."""
        g, b, _ = out.shape
        blocks = grad.view(b, g, 1, -1).transpose(0, 1)
        torch.mul(blocks, self.to_gates[t], out=out.view(g, b, 3, -1))
        return grad * self.to_old[t]


class Draw:
    """A straight-through draw of one-hot categoricals.

    Args:
        logits: [t b s c].
        unimix: share of the uniform distribution mixed in.
    """

    def __init__(self, logits: Tensor, unimix: float):
        self.probs, self.unimix = onehot.softmax(logits), unimix

    def backward(self, t: int, grad: Tensor) -> Tensor:
        """From the gradient of a step's draw [b z] to that of its logits [b z]."""
        probs = self.probs[t]
        both = grad.view_as(probs)
        along = (both * probs).sum(-1, keepdim=True)
        return ((both - along) * probs).mul_(1 - self.unimix).flatten(1)

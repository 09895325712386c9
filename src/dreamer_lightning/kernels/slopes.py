"""Backward of the element-wise parts of a scan, step by step.

With the kernels of `ops.fused` a step computes its derivatives when it needs them; without, those of all steps are
computed before, in wide operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamer_lightning.kernels import fused
from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import tanh


class Norm:
    """RMS norm and SiLU.

    Args:
        pre: inputs of the norm, [t, ..., features].
        weight: the norm's scale, [..., features].
        eps: of the norm.
    """

    def __init__(self, pre: Tensor, weight: Tensor, eps: float):
        self.pre, self.weight, self.eps = pre, weight.contiguous(), eps
        self.fused = fused.usable(pre, weight)
        if self.fused:
            return
        self.inverse = pre.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        self.normed = pre * self.inverse
        before_silu = self.normed * weight
        sigmoid = torch.sigmoid(before_silu)
        self.slope = sigmoid * (1 + before_silu * (1 - sigmoid))
        self.to_normed = self.slope * weight
        self.mean_normed = self.normed / pre.shape[-1]

    def backward(self, t: int, grad: Tensor, out: Tensor) -> None:
        """From the gradient of step ``t``'s output to that of the norm's input."""
        if self.fused:
            fused.norm_silu_input(out, grad, self.pre[t], self.weight, self.eps)
            return
        grad = grad * self.to_normed[t]
        along = (grad * self.mean_normed[t]).sum(-1, keepdim=True)
        torch.mul(torch.addcmul(grad, self.normed[t], along, value=-1), self.inverse[t], out=out)

    def weight_grad(self, grad: Tensor) -> Tensor:
        """Gradient of the scale, from the gradients of all outputs."""
        if self.fused:
            return fused.norm_silu_weight(grad.contiguous(), self.pre, self.weight, self.eps)
        return (grad * self.slope * self.normed).sum((0, 1))

    def output(self) -> Tensor:
        return fused.norm_silu(self.pre, self.weight, self.eps)


class Gates:
    """The gates of the recurrence.

    Args:
        gates: before their bias [t g b 3d/g].
        bias: [3d].
        old: ``deter`` that enters each step [t b d].
    """

    def __init__(self, gates: Tensor, bias: Tensor, old: Tensor):
        self.gates, self.bias, self.old = gates, bias, old
        self.fused = fused.usable(gates, bias, old)
        if self.fused:
            return
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
        if self.fused:
            by_old = torch.empty_like(grad)
            fused.gru_input(out, by_old, grad, self.gates[t], self.bias, self.old[t])
            return by_old
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
        self.logits, self.unimix, self.fused = logits, unimix, fused.usable(logits)
        self.probs = None if self.fused else onehot.softmax(logits)

    def backward(self, t: int, grad: Tensor, more: Tensor, out: Tensor) -> None:
        """Add to ``out`` [b z] the gradient of the logits, from that of the draw, which is ``grad + more`` [b z]."""
        if self.fused:
            fused.straight_through(out, grad, more, self.logits[t], self.unimix)
            return
        probs = self.probs[t]  # type: ignore[index]
        both = (grad + more).view_as(probs)
        along = (both * probs).sum(-1, keepdim=True)
        out += ((both - along) * probs).mul_(1 - self.unimix).flatten(1)

"""The observe scan of ``BlockRSSM`` with its own backward: same numbers as the step-by-step loop, a third of the time.

Stepping through 64 records under autograd costs more in bookkeeping than in arithmetic. The loop forward keeps only
pre-activations; the loop backward does only what depends on the step after it; everything else, the derivatives of
activations before that loop and the gradients of weights after it, is done once for all steps in wide products.
`BlockRSSM.observe_step` and `imagine_step` are the readable twins; the tests hold them together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dreamer_lightning.kernels import fused, loops
from dreamer_lightning.kernels.loops import Weights as Weights
from dreamer_lightning.kernels.precision import precise_backward
from dreamer_lightning.kernels.slopes import Draw, Gates, Norm


class Shape(NamedTuple):
    """Plain numbers: blocks, groups and classes of ``stoch``, unimix, and the norms' eps."""

    blocks: int
    stoch: int
    classes: int
    unimix: float
    eps: float


class ObserveScan(torch.autograd.Function):
    """(deter, stoch, action_in [t b u], embed_in [t b v], keep [t b 1], noise [t b s]) -> deter, stoch, logits [t b .].

    ``action_in`` is the projected action, ``embed_in`` what the posterior's first layer makes of the embedding (bias
    included), ``keep`` is 0 where an episode begins.
    """

    @staticmethod
    def forward(ctx, deter, stoch, action_in, embed_in, keep, noise, shape: Shape, *weights):
        w, (steps, b, u) = Weights(*weights), action_in.shape
        d, z, g = deter.shape[-1], stoch.shape[-1], shape.blocks
        new = deter.new_empty
        hm, zm = new(steps, b, d), new(steps, b, z)  # what enters each step, after the reset
        pre_in, x = new(steps, b, 2, u), torch.cat([new(steps, b, 2 * u), action_in], -1)
        pre_hid, gates, pre_post = new(steps, b, d), new(steps, g, b, 3 * d // g), new(steps, b, w.post.shape[0])
        deters, stochs, logits = new(steps, b, d), new(steps, b, z), new(steps, b, z)
        ctx.shape = shape
        ctx.save_for_backward(hm, zm, pre_in, x, pre_hid, gates, pre_post, deters, logits, keep, *weights)
        if loops.usable(deter, stoch, embed_in, noise, *weights):
            given = (deter.contiguous(), stoch.contiguous(), embed_in.contiguous(), keep, noise)
            kept = (hm, zm, pre_in, x, pre_hid, gates, pre_post, deters, stochs, logits)
            loops.Loop(weights, sizes(w, shape, steps, b)).run("observe_forward", *given, *kept)
            return deters, stochs, logits
        own, shared = split_kernel(w.hidden, d // g)
        in_kernels = w.deter_in.t(), w.stoch_in.t()
        post, logit = w.post.t(), w.logits.t()
        for t in range(steps):
            h = torch.mul(deter, keep[t], out=hm[t])
            s = torch.mul(stoch, keep[t], out=zm[t])
            pre_in[t, :, 0] = torch.addmm(w.deter_bias, h, in_kernels[0])
            pre_in[t, :, 1] = torch.addmm(w.stoch_bias, s, in_kernels[1])
            x[t, :, : 2 * u] = fused.norm_silu(pre_in[t], w.in_norm, shape.eps).view(b, 2 * u)
            wide = torch.addmm(w.hidden_bias, x[t], shared, out=pre_hid[t]).view(b, g, -1)
            wide += torch.bmm(h.view(b, g, -1).transpose(0, 1), own).transpose(0, 1)
            y = fused.norm_silu(pre_hid[t], w.hidden_norm, shape.eps)
            torch.bmm(y.view(b, g, -1).transpose(0, 1), w.gates, out=gates[t])
            deter = fused.gru(gates[t], w.gates_bias, h)
            deters[t] = deter
            torch.addmm(embed_in[t], deter, post, out=pre_post[t])
            torch.addmm(w.logits_bias, fused.norm_silu(pre_post[t], w.post_norm, shape.eps), logit, out=logits[t])
            stoch = fused.draw(logits[t].view(b, shape.stoch, shape.classes), noise[t], shape.unimix).view(b, z)
            stochs[t] = stoch
        return deters, stochs, logits

    @staticmethod
    @precise_backward
    def backward(ctx, grad_deter, grad_stoch, grad_logits):
        hm, zm, pre_in, x, pre_hid, gates, pre_post, deters, logits, keep, *weights = ctx.saved_tensors
        w, shape = Weights(*weights), ctx.shape
        steps, b, d = hm.shape
        g, u = shape.blocks, pre_in.shape[-1]
        core = CoreBackward(w, shape, hm, pre_in, pre_hid, gates)
        of_post = Norm(pre_post, w.post_norm, shape.eps)
        grad_stoch, d_logits = grad_stoch.contiguous(), grad_logits.clone(memory_format=torch.contiguous_format)
        d_out, d_post = torch.empty_like(pre_post), torch.empty_like(pre_post)
        of_draw = Draw(logits.view(steps, b, shape.stoch, shape.classes), shape.unimix)
        d_deter, d_stoch = torch.zeros_like(hm[0]), torch.zeros_like(zm[0])
        if compiled := loops.usable(deters, *weights):
            core.d_gates = core.d_gates.view(g, steps, b, -1)  # whose blocks its products then take as they lie
            known = (hm, pre_in, pre_hid, gates, pre_post, logits, keep, grad_deter.contiguous(), grad_stoch)
            found = (d_logits, d_out, d_post, core.d_gates, core.d_y, core.d_hid, core.d_x, core.d_in, d_deter, d_stoch)
            loops.Loop(weights, sizes(w, shape, steps, b)).run("observe_backward", *known, *found)
        for t in () if compiled else range(steps - 1, -1, -1):
            of_draw.backward(t, grad_stoch[t], d_stoch, d_logits[t])
            torch.mm(d_logits[t], w.logits, out=d_out[t])
            of_post.backward(t, d_out[t], d_post[t])
            d_deter, d_stoch = core.step(t, torch.addmm(grad_deter[t], d_post[t], w.post).add_(d_deter))
            d_deter.mul_(keep[t])
            d_stoch.mul_(keep[t])

        flat = lambda tensor: tensor.flatten(0, 1)  # noqa: E731
        y_blocks = flat(core.of_hid.output()).view(-1, g, d // g).transpose(0, 1)
        d_gates = (core.d_gates if compiled else core.d_gates.transpose(0, 1)).reshape(g, steps * b, -1)
        d_hid, hm_blocks = flat(core.d_hid), flat(hm).view(-1, g, d // g).transpose(0, 1)
        d_own = torch.bmm(hm_blocks.transpose(1, 2), d_hid.view(-1, g, d // g).transpose(0, 1))
        d_shared = (flat(x).t() @ d_hid).view(-1, g, d // g).transpose(0, 1)
        d_in_deter, d_in_stoch = flat(core.d_in).unbind(1)
        grads = Weights(
            deter_in=d_in_deter.t() @ flat(hm),
            deter_bias=d_in_deter.sum(0),
            stoch_in=d_in_stoch.t() @ flat(zm),
            stoch_bias=d_in_stoch.sum(0),
            in_norm=core.of_in.weight_grad(core.d_x[:, :, : 2 * u].reshape(steps, b, 2, u)),
            hidden=torch.cat([d_own, d_shared], 1),
            hidden_bias=d_hid.sum(0),
            hidden_norm=core.of_hid.weight_grad(core.d_y),
            gates=torch.bmm(y_blocks.transpose(1, 2), d_gates),
            gates_bias=d_gates.sum(1).flatten(),
            post=flat(d_post).t() @ flat(deters),
            post_norm=of_post.weight_grad(d_out),
            logits=flat(d_logits).t() @ flat(of_post.output()),
            logits_bias=d_logits.sum((0, 1)),
        )
        return d_deter, d_stoch, core.d_x[:, :, 2 * u :], d_post, None, None, None, *grads


class CoreBackward:
    """The backward of ``BlockRSSM.core``: what it needs of all steps at once, and one step.

    Args:
        w: weights.
        shape: plain numbers.
        old: ``deter`` that enters each step [t b d].
        pre_in: projections of deter and stoch before their norms [t b 2 u].
        pre_hid: hidden layer before its norm [t b d].
        gates: before their bias [t g b 3d/g].
    """

    def __init__(self, w: Weights, shape: Shape, old: Tensor, pre_in: Tensor, pre_hid: Tensor, gates: Tensor):
        self.w, self.blocks, self.units = w, shape.blocks, pre_in.shape[-1]
        self.of_in, self.of_hid = Norm(pre_in, w.in_norm, shape.eps), Norm(pre_hid, w.hidden_norm, shape.eps)
        own, shared = split_kernel(w.hidden, old.shape[-1] // shape.blocks)
        self.own, self.shared, self.gate_kernel = own.transpose(1, 2), shared.t(), w.gates.transpose(1, 2)
        self.of_gates = Gates(gates, w.gates_bias, old)
        self.d_gates, self.d_y, self.d_hid = torch.empty_like(gates), torch.empty_like(old), torch.empty_like(old)
        self.d_x, self.d_in = old.new_empty(*old.shape[:2], shared.shape[0]), torch.empty_like(pre_in)

    def step(self, t: int, dh: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradient of the next ``deter`` [b d] to those of ``deter`` and ``stoch`` before step ``t``."""
        b, g, u = dh.shape[0], self.blocks, self.units
        d_hid, d_in = self.d_hid[t], self.d_in[t]
        d_old = self.of_gates.backward(t, dh, self.d_gates[t])
        self.d_y[t].view(b, g, -1).transpose(0, 1).copy_(torch.bmm(self.d_gates[t], self.gate_kernel))
        self.of_hid.backward(t, self.d_y[t], d_hid)
        torch.mm(d_hid, self.shared, out=self.d_x[t])
        self.of_in.backward(t, self.d_x[t, :, : 2 * u].reshape(b, 2, u).contiguous(), d_in)
        d_own = torch.bmm(d_hid.view(b, g, -1).transpose(0, 1), self.own)
        d_old.view(b, g, -1).transpose(0, 1).add_(d_own)
        return d_old.addmm_(d_in[:, 0], self.w.deter_in), torch.mm(d_in[:, 1], self.w.stoch_in)


class Retrace(torch.autograd.Function):
    """A dream that was dreamed without autograd, with its gradient by the actions alone.

    (feat [t+1 n d+z], action_in [t n u]) -> feat as it came. All states are known, so that what the backward needs of
    the steps is computed for all of them at once; only the backward goes step by step.
    """

    @staticmethod
    def forward(ctx, feat, action_in, shape: Shape, layers: int, *weights):
        ctx.shape, ctx.layers = shape, layers
        ctx.save_for_backward(feat, action_in, *weights)
        return feat.view_as(feat)

    @staticmethod
    @precise_backward
    def backward(ctx, grad):
        feat, action_in, *weights = ctx.saved_tensors
        w, prior = Weights(*weights[: -3 * ctx.layers - 2]), weights[-3 * ctx.layers - 2 :]
        shape, (steps, n, _), d = ctx.shape, action_in.shape, w.deter_in.shape[1]
        if ctx.layers <= loops.MOST and loops.usable(feat, action_in, grad, *weights):
            found = loops.retrace(w, prior, sizes(w, shape, steps, n), feat, action_in, grad)
            return None, found, None, None, *(None for _ in weights)
        (deters, stochs), (grad_deter, grad_stoch) = feat.tensor_split([d], -1), grad.tensor_split([d], -1)
        old, g = deters[:-1].contiguous(), shape.blocks
        projected = (old @ w.deter_in.t() + w.deter_bias, stochs[:-1] @ w.stoch_in.t() + w.stoch_bias)
        pre_in = torch.stack(projected, 2)
        x = torch.cat([fused.norm_silu(pre_in, w.in_norm, shape.eps).flatten(2), action_in], -1)
        own, shared = split_kernel(w.hidden, d // g)
        own_part = torch.bmm(old.view(steps * n, g, -1).transpose(0, 1), own).transpose(0, 1).reshape(steps, n, -1)
        pre_hid = x @ shared + w.hidden_bias + own_part
        y = fused.norm_silu(pre_hid, w.hidden_norm, shape.eps).view(steps * n, g, -1).transpose(0, 1)
        gates = torch.bmm(y, w.gates).view(g, steps, n, -1).transpose(0, 1)
        core = CoreBackward(w, shape, old, pre_in, pre_hid, gates.contiguous())
        hidden, kernels, norms = deters[1:], [], []
        for i in range(ctx.layers):
            kernel, bias, scale = prior[3 * i : 3 * i + 3]
            norms.append(Norm(hidden @ kernel.t() + bias, scale, shape.eps))
            kernels.append(kernel)
            hidden = norms[-1].output()
        logits = (hidden @ prior[-2].t() + prior[-1]).view(steps, n, shape.stoch, shape.classes)
        of_draw = Draw(logits, shape.unimix)
        d_deter, d_stoch = torch.zeros_like(old[0]), torch.zeros_like(stochs[0], memory_format=torch.contiguous_format)
        grad_stoch = grad_stoch.contiguous()
        for t in range(steps - 1, -1, -1):
            grad = torch.zeros_like(d_stoch)
            of_draw.backward(t, grad_stoch[t + 1], d_stoch, grad)
            grad = grad @ prior[-2]
            for kernel, norm in zip(reversed(kernels), reversed(norms), strict=True):
                below = torch.empty_like(grad)
                norm.backward(t, grad, below)
                grad = below @ kernel
            d_deter, d_stoch = core.step(t, grad.add_(grad_deter[t + 1]).add_(d_deter))
        return None, core.d_x[:, :, 2 * core.units :], None, None, *(None for _ in weights)


def sizes(w: Weights, shape: Shape, steps: int, b: int) -> loops.Sizes:
    """What the compiled loops need to know."""
    (v, d), (u, z) = w.post.shape, w.stoch_in.shape
    return loops.Sizes(steps, b, d, z, u, shape.blocks, v, shape.classes, shape.unimix, shape.eps)


def split_kernel(hidden: Tensor, own: int) -> tuple[Tensor, Tensor]:
    """The hidden layer's kernel as the blocks' own part [g, own, out] and the shared part [rest, g*out]."""
    shared = hidden[:, own:].transpose(0, 1).reshape(hidden.shape[1] - own, -1)
    return hidden[:, :own].contiguous(), shared

"""``BlockRSSM.observe`` and ``retrace`` with a backward of their own: same numbers as the step-by-step equations.

Stepping through 64 records under autograd costs more in bookkeeping than in arithmetic. The loop forward keeps only
pre-activations; the loop backward does only what depends on the step after it; everything else, the derivatives of
activations before that loop and the gradients of weights after it, is done once for all steps in wide products.
Both loops are compiled ones on a CPU (`loops`), else torch's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dreamer_lightning.kernels import fused, loops
from dreamer_lightning.kernels.loops import Weights as Weights
from dreamer_lightning.kernels.precision import precise_backward
from dreamer_lightning.kernels.slopes import Draw, Gates, Norm, norm_silu
from dreamer_lightning.nets.rssm import gru
from dreamer_lightning.ops import onehot


class Shape(NamedTuple):
    """Plain numbers: blocks, groups and classes of ``stoch``, unimix, and the norms' eps."""

    blocks: int
    stoch: int
    classes: int
    unimix: float
    eps: float


class Kept(NamedTuple):
    """What the forward loop leaves for the backward one."""

    hm: Tensor  # [t b d]: deter that enters each step, after the reset
    zm: Tensor  # [t b z]: stoch that does
    pre_in: Tensor  # [t b 2 u]: projections of both, before their norms
    x: Tensor  # [t b 3u]: what every block sees
    pre_hid: Tensor  # [t b d]: the hidden layer before its norm
    gates: Tensor  # [t g b 3d/g]: before their bias
    pre_post: Tensor  # [t b v]: the posterior's layer before its norm
    deters: Tensor  # [t b d]
    stochs: Tensor  # [t b z]
    logits: Tensor  # [t b z]


class Slopes(NamedTuple):
    """What the backward loop leaves for the gradients of weights."""

    d_logits: Tensor  # [t b z]
    d_out: Tensor  # [t b v]: of the posterior's layer after its norm
    d_post: Tensor  # [t b v]: before it
    d_gates: Tensor  # [g t b 3d/g]
    d_y: Tensor  # [t b d]: of the hidden layer after its norm
    d_hid: Tensor  # [t b d]: before it
    d_x: Tensor  # [t b 3u]
    d_in: Tensor  # [t b 2 u]
    d_deter: Tensor  # [b d]: of what came before the first step
    d_stoch: Tensor  # [b z]


class Norms(NamedTuple):
    """The norms of a step: of its inputs, of the hidden layer, of the posterior's layer."""

    inputs: Norm | fused.Norm
    hidden: Norm | fused.Norm
    post: Norm | fused.Norm


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
        kept = Kept(
            hm=new(steps, b, d),
            zm=new(steps, b, z),
            pre_in=new(steps, b, 2, u),
            x=torch.cat([new(steps, b, 2 * u), action_in], -1),
            pre_hid=new(steps, b, d),
            gates=new(steps, g, b, 3 * d // g),
            pre_post=new(steps, b, w.post.shape[0]),
            deters=new(steps, b, d),
            stochs=new(steps, b, z),
            logits=new(steps, b, z),
        )
        ctx.shape = shape
        ctx.save_for_backward(*kept, keep, *weights)
        if loops.usable(deter, stoch, embed_in, noise, *weights):
            given = (deter.contiguous(), stoch.contiguous(), embed_in.contiguous(), keep, noise)
            loops.ScanLoop(weights, sizes(w, shape, steps, b)).run("observe_forward", *given, *kept)
        else:
            forward_in_torch(w, shape, deter, stoch, embed_in, keep, noise, kept)
        return kept.deters, kept.stochs, kept.logits

    @staticmethod
    @precise_backward
    def backward(ctx, grad_deter, grad_stoch, grad_logits):
        n = len(Kept._fields)
        kept, keep, weights = Kept(*ctx.saved_tensors[:n]), ctx.saved_tensors[n], ctx.saved_tensors[n + 1 :]
        w, shape, (steps, b, d) = Weights(*weights), ctx.shape, kept.hm.shape
        grad_stoch, d_logits = grad_stoch.contiguous(), grad_logits.clone(memory_format=torch.contiguous_format)
        norms: Norms
        if loops.usable(kept.deters, *weights):
            like, eps = torch.empty_like, shape.eps
            norms = Norms(
                fused.Norm(kept.pre_in, w.in_norm, eps),
                fused.Norm(kept.pre_hid, w.hidden_norm, eps),
                fused.Norm(kept.pre_post, w.post_norm, eps),
            )
            gates = kept.gates.new_empty(shape.blocks, steps, b, 3 * d // shape.blocks)
            found = Slopes(
                *(d_logits, like(kept.pre_post), like(kept.pre_post), gates, like(kept.hm), like(kept.hm)),
                *(like(kept.x), like(kept.pre_in), like(kept.hm[0]), like(kept.zm[0])),
            )
            known = (kept.hm, kept.pre_in, kept.pre_hid, kept.gates, kept.pre_post, kept.logits, keep)
            loop = loops.ScanLoop(weights, sizes(w, shape, steps, b))
            loop.run("observe_backward", *known, grad_deter.contiguous(), grad_stoch, *found)
        else:
            found, norms = backward_in_torch(w, shape, kept, keep, grad_deter, grad_stoch, d_logits)
        grads = weight_gradients(w, shape, kept, found, norms)
        d_action = found.d_x[:, :, 2 * len(w.stoch_in) :]
        return found.d_deter, found.d_stoch, d_action, found.d_post, None, None, None, *grads


def forward_in_torch(
    w: Weights, shape: Shape, deter: Tensor, stoch: Tensor, embed_in: Tensor, keep: Tensor, noise: Tensor, kept: Kept
) -> None:
    """The forward loop, into ``kept``."""
    b, d, g, u, eps = *deter.shape, shape.blocks, w.stoch_in.shape[0], shape.eps
    own, shared = split_kernel(w.hidden, d // g)
    in_kernels, post, logit = (w.deter_in.t(), w.stoch_in.t()), w.post.t(), w.logits.t()
    gates_bias = w.gates_bias.view(g, 1, -1)
    hm, zm, pre_in, x, pre_hid, gates, pre_post, deters, stochs, logits = kept
    for t in range(len(hm)):
        h = torch.mul(deter, keep[t], out=hm[t])
        s = torch.mul(stoch, keep[t], out=zm[t])
        pre_in[t, :, 0] = torch.addmm(w.deter_bias, h, in_kernels[0])
        pre_in[t, :, 1] = torch.addmm(w.stoch_bias, s, in_kernels[1])
        x[t, :, : 2 * u] = norm_silu(pre_in[t], w.in_norm, eps).view(b, 2 * u)
        wide = torch.addmm(w.hidden_bias, x[t], shared, out=pre_hid[t]).view(b, g, -1)
        wide += torch.bmm(h.view(b, g, -1).transpose(0, 1), own).transpose(0, 1)
        y = norm_silu(pre_hid[t], w.hidden_norm, eps)
        torch.bmm(y.view(b, g, -1).transpose(0, 1), w.gates, out=gates[t])
        deter = gru(gates[t] + gates_bias, h)
        deters[t] = deter
        torch.addmm(embed_in[t], deter, post, out=pre_post[t])
        torch.addmm(w.logits_bias, norm_silu(pre_post[t], w.post_norm, eps), logit, out=logits[t])
        probs = onehot.mixed_probs(logits[t].view(b, shape.stoch, shape.classes), shape.unimix)
        stoch = onehot.draw(probs, noise[t]).view(b, -1)
        stochs[t] = stoch


def backward_in_torch(
    w: Weights, shape: Shape, kept: Kept, keep: Tensor, grad_deter: Tensor, grad_stoch: Tensor, d_logits: Tensor
) -> tuple[Slopes, Norms]:
    """The backward loop; adds to ``d_logits`` the gradient of the draws."""
    core = CoreBackward(w, shape, kept.hm, kept.pre_in, kept.pre_hid, kept.gates)
    of_post = Norm(kept.pre_post, w.post_norm, shape.eps)
    d_out, d_post = torch.empty_like(kept.pre_post), torch.empty_like(kept.pre_post)
    of_draw = Draw(kept.logits.unflatten(-1, (shape.stoch, shape.classes)), shape.unimix)
    d_deter, d_stoch = torch.zeros_like(kept.hm[0]), torch.zeros_like(kept.zm[0])
    for t in range(len(keep) - 1, -1, -1):
        d_logits[t] += of_draw.backward(t, grad_stoch[t] + d_stoch)
        torch.mm(d_logits[t], w.logits, out=d_out[t])
        of_post.backward(t, d_out[t], d_post[t])
        d_deter, d_stoch = core.step(t, torch.addmm(grad_deter[t], d_post[t], w.post).add_(d_deter))
        d_deter.mul_(keep[t])
        d_stoch.mul_(keep[t])
    d_gates = core.d_gates.transpose(0, 1)
    found = Slopes(d_logits, d_out, d_post, d_gates, core.d_y, core.d_hid, core.d_x, core.d_in, d_deter, d_stoch)
    return found, Norms(core.of_in, core.of_hid, of_post)


def weight_gradients(w: Weights, shape: Shape, kept: Kept, found: Slopes, norms: Norms) -> Weights:
    """Gradients of all weights, each in one product over all steps."""
    steps, b, d = kept.hm.shape
    g, u, flat = shape.blocks, w.stoch_in.shape[0], lambda tensor: tensor.flatten(0, 1)
    y_blocks = flat(norms.hidden.output()).view(-1, g, d // g).transpose(0, 1)
    d_gates = found.d_gates.reshape(g, steps * b, -1)
    d_hid, hm_blocks = flat(found.d_hid), flat(kept.hm).view(-1, g, d // g).transpose(0, 1)
    d_own = torch.bmm(hm_blocks.transpose(1, 2), d_hid.view(-1, g, d // g).transpose(0, 1))
    d_shared = (flat(kept.x).t() @ d_hid).view(-1, g, d // g).transpose(0, 1)
    d_in_deter, d_in_stoch = flat(found.d_in).unbind(1)
    return Weights(
        deter_in=d_in_deter.t() @ flat(kept.hm),
        deter_bias=d_in_deter.sum(0),
        stoch_in=d_in_stoch.t() @ flat(kept.zm),
        stoch_bias=d_in_stoch.sum(0),
        in_norm=norms.inputs.weight_grad(found.d_x[:, :, : 2 * u].reshape(steps, b, 2, u)),
        hidden=torch.cat([d_own, d_shared], 1),
        hidden_bias=d_hid.sum(0),
        hidden_norm=norms.hidden.weight_grad(found.d_y),
        gates=torch.bmm(y_blocks.transpose(1, 2), d_gates),
        gates_bias=d_gates.sum(1).flatten(),
        post=flat(found.d_post).t() @ flat(kept.deters),
        post_norm=norms.post.weight_grad(found.d_out),
        logits=flat(found.d_logits).t() @ flat(norms.post.output()),
        logits_bias=found.d_logits.sum((0, 1)),
    )


class CoreBackward:
    """The backward of ``BlockRSSM.core`` in torch: what it needs of all steps at once, and one step.

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


class RetraceScan(torch.autograd.Function):
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
        if ctx.layers <= loops.MOST and loops.usable(feat, action_in, grad, *weights):
            steps, n, _ = action_in.shape
            found = loops.retrace(w, prior, sizes(w, ctx.shape, steps, n), feat, action_in, grad)
        else:
            found = retrace_in_torch(w, prior, ctx.shape, feat, action_in, grad)
        return None, found, None, None, *(None for _ in weights)


def retrace_in_torch(
    w: Weights, prior: list[Tensor], shape: Shape, feat: Tensor, action_in: Tensor, grad: Tensor
) -> Tensor:
    """The gradient of a finished dream by its projected actions [t n u]."""
    (steps, n, _), d = action_in.shape, w.deter_in.shape[1]
    (deters, stochs), (grad_deter, grad_stoch) = feat.tensor_split([d], -1), grad.tensor_split([d], -1)
    old, g = deters[:-1].contiguous(), shape.blocks
    projected = (old @ w.deter_in.t() + w.deter_bias, stochs[:-1] @ w.stoch_in.t() + w.stoch_bias)
    pre_in = torch.stack(projected, 2)
    x = torch.cat([norm_silu(pre_in, w.in_norm, shape.eps).flatten(2), action_in], -1)
    own, shared = split_kernel(w.hidden, d // g)
    own_part = torch.bmm(old.view(steps * n, g, -1).transpose(0, 1), own).transpose(0, 1).reshape(steps, n, -1)
    pre_hid = x @ shared + w.hidden_bias + own_part
    y = norm_silu(pre_hid, w.hidden_norm, shape.eps).view(steps * n, g, -1).transpose(0, 1)
    gates = torch.bmm(y, w.gates).view(g, steps, n, -1).transpose(0, 1)
    core = CoreBackward(w, shape, old, pre_in, pre_hid, gates.contiguous())
    hidden, kernels, norms = deters[1:], [], []
    for i in range(0, len(prior) - 2, 3):
        kernel, bias, scale = prior[i : i + 3]
        norms.append(Norm(hidden @ kernel.t() + bias, scale, shape.eps))
        kernels.append(kernel)
        hidden = norms[-1].output()
    logits = (hidden @ prior[-2].t() + prior[-1]).view(steps, n, shape.stoch, shape.classes)
    of_draw = Draw(logits, shape.unimix)
    d_deter, d_stoch = torch.zeros_like(old[0]), torch.zeros_like(stochs[0], memory_format=torch.contiguous_format)
    grad_stoch = grad_stoch.contiguous()
    for t in range(steps - 1, -1, -1):
        grad = of_draw.backward(t, grad_stoch[t + 1] + d_stoch) @ prior[-2]
        for kernel, norm in zip(reversed(kernels), reversed(norms), strict=True):
            below = torch.empty_like(grad)
            norm.backward(t, grad, below)
            grad = below @ kernel
        d_deter, d_stoch = core.step(t, grad.add_(grad_deter[t + 1]).add_(d_deter))
    return core.d_x[:, :, 2 * core.units :]


def sizes(w: Weights, shape: Shape, steps: int, b: int) -> loops.Sizes:
    """What the compiled loops need to know."""
    (v, d), (u, z) = w.post.shape, w.stoch_in.shape
    return loops.Sizes(steps, b, d, z, u, shape.blocks, v, shape.classes, shape.unimix, shape.eps)


def split_kernel(hidden: Tensor, own: int) -> tuple[Tensor, Tensor]:
    """The hidden layer's kernel as the blocks' own part [g, own, out] and the shared part [rest, g*out]."""
    shared = hidden[:, own:].transpose(0, 1).reshape(hidden.shape[1] - own, -1)
    return hidden[:, :own].contiguous(), shared

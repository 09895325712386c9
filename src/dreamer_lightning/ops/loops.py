"""The loops over an RSSM's steps in `scan.c` and `dream.c`, on a CPU. `nets/scan.py` and `nets/rssm.py` hold their twins in torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer_lightning.ops import fused, native

MOST = 8  # hidden layers that a loop can have
FEW, ENOUGH = 16, 64  # rows up to which a kernel is read where it lies, and from which it is worth laying out anew


class Weights(NamedTuple):
    """Everything that recurs. Kernels as the layers keep them ([out, in], block-linear [g, in/g, out/g])."""

    deter_in: Tensor  # [u d]
    deter_bias: Tensor
    stoch_in: Tensor  # [u z]
    stoch_bias: Tensor
    in_norm: Tensor  # [2 u]: of both
    hidden: Tensor  # [g d/g+3u d/g]
    hidden_bias: Tensor
    hidden_norm: Tensor  # [d]
    gates: Tensor  # [g d/g 3d/g]
    gates_bias: Tensor
    post: Tensor  # [v d]: the part of the posterior's first layer that sees deter
    post_norm: Tensor  # [v]
    logits: Tensor  # [z v]
    logits_bias: Tensor


class Sizes(NamedTuple):
    """Plain numbers of a model and a batch."""

    steps: int
    b: int  # sequences, or dreams
    d: int  # of deter
    z: int  # of stoch
    u: int  # hidden units
    g: int  # blocks
    v: int  # units of the posterior
    c: int  # classes of a categorical
    unimix: float
    eps: float


class Model(ctypes.Structure):
    """``model`` in scan.c."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("steps", "b", "d", "z", "u", "g", "v", "c", "parts", "packed")),
        *((name, ctypes.c_float) for name in ("unimix", "eps")),
        *((name, ctypes.c_void_p) for name in Weights._fields),
        ("by_post", ctypes.c_long),
    ]


class Dream(ctypes.Structure):
    """``dream`` in dream.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("feat", "next", "action_in", "noise")),
        ("prior", ctypes.c_void_p * (3 * MOST + 2)),
        *((name, ctypes.c_void_p) for name in ("packed", "room")),
        ("layers", ctypes.c_long),
    ]


class Retrace(ctypes.Structure):
    """``retrace`` in dream.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("feat", "action_in", "grad", "d_action")),
        ("prior", ctypes.c_void_p * (3 * MOST + 2)),
        ("room", ctypes.c_void_p),
        ("layers", ctypes.c_long),
    ]


class MLP(ctypes.Structure):
    """``mlp`` in scan.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p * MOST) for name in ("sums", "outs")),
        ("weights", ctypes.c_void_p * (3 * MOST)),
        ("room", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("n", "inputs", "u", "layers", "parts", "packed")),
        ("eps", ctypes.c_float),
    ]


usable = fused.usable


def compiled() -> ctypes.CDLL:
    """The library, which there is where tensors are ``usable``."""
    library = native.library()
    assert library is not None
    return library


def mlp_pays(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether ``mlp`` can take these, and is faster: few rows or enough of them."""
    rows, layers = x.numel() // x.shape[-1], len(weights) // 3
    fits = not FEW < rows < ENOUGH and 0 < layers <= MOST
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
    x = x.contiguous()
    sums = [x.new_empty(n, u) for _ in range(layers if keep else 0)]
    outs = [x.new_empty(n, u) for _ in range(layers if keep else 1)]
    asked = MLP(x=x.data_ptr(), n=n, inputs=inputs, u=u, layers=layers, eps=eps, **division(n, n))
    asked.weights[: len(weights)] = [w.data_ptr() for w in weights]
    asked.sums[: len(sums)] = [y.data_ptr() for y in sums]
    asked.outs[layers - len(outs) : layers] = [y.data_ptr() for y in outs]
    room = x.new_empty(library.mlp_room(ctypes.byref(asked)))
    asked.room = room.data_ptr()
    library.mlp_forward(ctypes.byref(asked))
    return sums, outs


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
            (kernel, _, norm), grad = weights[3 * i : 3 * i + 3], grad.contiguous()
            below = torch.empty_like(grad)
            fused.norm_silu_input(below, grad, sums[i], norm, ctx.eps)
            by_kernel, by_bias, by_norm = ctx.needs_input_grad[2 + 3 * i : 5 + 3 * i]
            grads.insert(0, fused.norm_silu_weight(grad, sums[i], norm, ctx.eps) if by_norm else None)
            grads.insert(0, below.sum(0) if by_bias else None)
            grads.insert(0, below.t() @ inputs[i] if by_kernel else None)
            grad = below @ kernel if i or ctx.needs_input_grad[0] else None
        return grad, None, *grads


def division(rows: int, work: int) -> dict[str, int]:
    """Into how many parts, one a thread, the rows are cut, and whether their work is worth laying kernels out anew."""
    packed = work > FEW
    return {"parts": min(torch.get_num_threads(), rows) if packed else 1, "packed": packed}


class Loop:
    """A model's weights as the compiled loops take them.

    Args:
        weights: in the order of ``Weights``, float32; that of the posterior may be part of a wider kernel.
        sizes: plain numbers.
    """

    def __init__(self, weights: Sequence[Tensor], sizes: Sizes):
        named = dict(zip(Weights._fields, weights, strict=True))
        self.held = {name: w if name == "post" and w.stride(1) == 1 else w.contiguous() for name, w in named.items()}
        pointers = {name: w.data_ptr() for name, w in self.held.items()}
        numbers = {**sizes._asdict(), **division(sizes.b, sizes.b * sizes.steps)}
        self.model = Model(**numbers, **pointers, by_post=self.held["post"].stride(0))
        self.library = compiled()

    def run(self, name: str, *tensors: Tensor) -> None:
        """``observe_forward`` or ``observe_backward`` on contiguous tensors in the order of its structure in scan.c."""
        assert all(x.is_contiguous() for x in tensors), name
        room = tensors[0].new_empty(self.library.scan_room(ctypes.byref(self.model)))
        pointers = (ctypes.c_void_p * (len(tensors) + 1))(*(x.data_ptr() for x in tensors), room.data_ptr())
        getattr(self.library, name)(ctypes.byref(self.model), pointers)


class DreamLoop(Loop):
    """Steps of a dream.

    Args:
        weights: as for ``Loop``.
        prior: kernel, bias and norm of each hidden layer of the prior, kernel and bias of its logits.
        sizes: plain numbers.
    """

    def __init__(self, weights: Sequence[Tensor], prior: Sequence[Tensor], sizes: Sizes):
        super().__init__(weights, sizes)
        self.prior = [w.contiguous() for w in prior]
        self.dream = Dream(layers=len(prior) // 3)
        self.dream.prior[: len(prior)] = [w.data_ptr() for w in self.prior]
        self.asked = ctypes.byref(self.model), ctypes.byref(self.dream)
        self.packed = prior[0].new_empty(self.library.dream_packed(*self.asked))
        self.room = prior[0].new_empty(self.library.dream_room(self.asked[0]))
        self.dream.packed, self.dream.room = self.packed.data_ptr(), self.room.data_ptr()
        self.library.dream_pack(*self.asked)

    def step(self, feat: Tensor, action_in: Tensor, noise: Tensor, out: Tensor) -> None:
        """From ``feat`` [n d+z], projected action [n u] and uniform noise [n s] to the next ``feat``, into ``out``."""
        assert all(x.is_contiguous() for x in (feat, action_in, noise, out))
        dream = self.dream
        dream.feat, dream.next = feat.data_ptr(), out.data_ptr()
        dream.action_in, dream.noise = action_in.data_ptr(), noise.data_ptr()
        self.library.dream_step(*self.asked)


def retrace(weights: Sequence[Tensor], prior: Sequence[Tensor], sizes: Sizes, *tensors: Tensor) -> Tensor:
    """The gradient of a finished dream by its projected actions [t n u].

    Args:
        weights: as for ``Loop``.
        prior: as for ``DreamLoop``.
        sizes: plain numbers.
        tensors: the dream's ``feat`` [t+1 n d+z], its projected actions [t n u], the gradient of ``feat``.
    """
    feat, action_in, grad = (x.contiguous() for x in tensors)
    loop, held, found = Loop(weights, sizes), [w.contiguous() for w in prior], torch.empty_like(action_in)
    asked = Retrace(*(x.data_ptr() for x in (feat, action_in, grad, found)), layers=len(prior) // 3)
    asked.prior[: len(held)] = [w.data_ptr() for w in held]
    both = ctypes.byref(loop.model), ctypes.byref(asked)
    room = feat.new_empty(loop.library.retrace_room(*both))
    asked.room = room.data_ptr()
    loop.library.retrace_backward(*both)
    return found

"""The loops of `scan.c` and `dream.c` over an RSSM's steps, on a CPU; `nets/scan.py` and `nets/rssm.py` have twins."""

from __future__ import annotations

import ctypes
import functools
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


class Step(NamedTuple):
    """What acting knows before a decision."""

    deter: Tensor  # [b d]
    stoch: Tensor  # [b s], uint8
    prev_action: Tensor  # [b a]
    is_first: Tensor  # [b], bool
    embed: Tensor  # [b e]
    noise: Tensor  # [b s], uniform


class Acting(ctypes.Structure):
    """``acting`` in scan.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in Step._fields),
        *((name, ctypes.c_void_p) for name in ("action_in", "action_bias", "action_norm", "post_embed", "post_bias")),
        *((name, ctypes.c_void_p) for name in ("feat", "next", "drawn", "room")),
        *((name, ctypes.c_long) for name in ("a", "e")),
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


class Dense(ctypes.Structure):
    """``dense`` in dense.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "w", "bias", "out", "room")),
        *((name, ctypes.c_long) for name in ("n", "k", "o", "by_k", "by_o", "parts")),
    ]


class MLP(ctypes.Structure):
    """``mlp`` in dense.c."""

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


def dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` of rows [n k]."""
    return run_dense(x, weight, bias, by_k=1, by_o=weight.shape[1], wide=weight.shape[0])


def dense_input(grad: Tensor, weight: Tensor) -> Tensor:
    """``grad @ weight`` of rows [n o]: the gradient by ``x``."""
    return run_dense(grad, weight, None, by_k=weight.shape[1], by_o=1, wide=weight.shape[1])


def run_dense(x: Tensor, weight: Tensor, bias: Tensor | None, by_k: int, by_o: int, wide: int) -> Tensor:
    (n, k), out, library = x.shape, x.new_empty(len(x), wide), compiled()
    x, weight, bias = x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous()
    asked = Dense(n=n, k=k, o=wide, by_k=by_k, by_o=by_o, parts=division(n, n)["parts"])
    room = x.new_empty(library.dense_room(ctypes.byref(asked)))
    asked.x, asked.w, asked.bias = x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr()
    asked.out, asked.room = out.data_ptr(), room.data_ptr()
    library.dense_forward(ctypes.byref(asked))
    return out


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


def mlp_request(weights: tuple[int, ...], *numbers: float) -> MLP:
    """What the library is asked, but for the tensors of this call: a copy, for several threads may ask."""
    return MLP.from_buffer_copy(known_mlp(weights, *numbers))


@functools.lru_cache(256)
def known_mlp(weights: tuple[int, ...], n: int, inputs: int, u: int, eps: float, parts: int, packed: bool) -> MLP:
    """Made of plain numbers alone (addresses of weights too), so that it holds for whoever has the same."""
    asked = MLP(n=n, inputs=inputs, u=u, layers=len(weights) // 3, eps=eps, parts=parts, packed=packed)
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
            by_kernel, by_bias, by_norm = ctx.needs_input_grad[2 + 3 * i : 5 + 3 * i]
            below, of_norm = fused.norm_silu_gradients(grad.contiguous(), sums[i], norm, ctx.eps, True, by_norm)
            of_layer = below.t() @ inputs[i] if by_kernel else None, below.sum(0) if by_bias else None
            grads = [*of_layer, of_norm, *grads]
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
        self.held = [w if i == POST and w.stride(1) == 1 else w.contiguous() for i, w in enumerate(weights)]
        pointers, by_post = tuple(w.data_ptr() for w in self.held), self.held[POST].stride(0)
        known = known_model(pointers, by_post, sizes, *division(sizes.b, sizes.b * sizes.steps).values())
        self.sizes, self.model, self.library = sizes, Model.from_buffer_copy(known), compiled()

    def run(self, name: str, *tensors: Tensor) -> None:
        """``observe_forward`` or ``observe_backward`` on contiguous tensors in the order of its structure in scan.c."""
        assert all(x.is_contiguous() for x in tensors), name
        room = tensors[0].new_empty(self.library.scan_room(ctypes.byref(self.model)))
        pointers = (ctypes.c_void_p * (len(tensors) + 1))(*(x.data_ptr() for x in tensors), room.data_ptr())
        getattr(self.library, name)(ctypes.byref(self.model), pointers)

    def act(self, step: Step, around: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """One step on real data, as acting carries its latent: ``stoch`` is packed, see ``Categorical.pack``.

        Args:
            step: what is given.
            around: kernel, bias and norm of the action's layer; the columns of the posterior's first kernel that see
                the embedding, and that layer's bias.

        Returns:
            feat [b d+z], deter [b d], stoch [b s].
        """
        given = [x.contiguous() for x in step]
        deter, stoch = torch.empty_like(given[0]), torch.empty_like(given[1])
        feat = deter.new_empty(len(deter), self.sizes.d + self.sizes.z)
        widths = step.prev_action.shape[1], step.embed.shape[1]
        asked = Acting(*(x.data_ptr() for x in (*given, *around, feat, deter, stoch)), None, *widths)
        both = ctypes.byref(self.model), ctypes.byref(asked)
        room = feat.new_empty(self.library.act_room(*both))
        asked.room = room.data_ptr()
        self.library.act_step(*both)
        return feat, deter, stoch


POST = Weights._fields.index("post")


@functools.lru_cache(256)
def known_model(weights: tuple[int, ...], by_post: int, sizes: Sizes, parts: int, packed: bool) -> Model:
    """See ``known_mlp``."""
    pointers = dict(zip(Weights._fields, weights, strict=True))
    return Model(**sizes._asdict(), **pointers, by_post=by_post, parts=parts, packed=packed)


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

"""The loops of `scan.c` and `dream.c` over an RSSM's steps, on a CPU: what `nets/rssm.py` writes as equations."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dreamer_lightning.kernels.dense import FEW as FEW
from dreamer_lightning.kernels.dense import MOST as MOST
from dreamer_lightning.kernels.dense import compiled, division
from dreamer_lightning.kernels.dense import usable as usable


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


class ActRequest(ctypes.Structure):
    """``acting`` in scan.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in Step._fields),
        *((name, ctypes.c_void_p) for name in ("action_in", "action_bias", "action_norm", "post_embed", "post_bias")),
        *((name, ctypes.c_void_p) for name in ("feat", "next", "drawn", "room")),
        *((name, ctypes.c_long) for name in ("a", "e")),
    ]


class DreamRequest(ctypes.Structure):
    """``dream`` in dream.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("feat", "next", "action_in", "noise")),
        ("prior", ctypes.c_void_p * (3 * MOST + 2)),
        *((name, ctypes.c_void_p) for name in ("packed", "room")),
        ("layers", ctypes.c_long),
    ]


class RetraceRequest(ctypes.Structure):
    """``retrace`` in dream.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("feat", "action_in", "grad", "d_action")),
        ("prior", ctypes.c_void_p * (3 * MOST + 2)),
        ("room", ctypes.c_void_p),
        ("layers", ctypes.c_long),
    ]


class ScanLoop:
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
        asked = ActRequest(*(x.data_ptr() for x in (*given, *around, feat, deter, stoch)), None, *widths)
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


class DreamLoop(ScanLoop):
    """Steps of a dream.

    Args:
        weights: as for ``ScanLoop``.
        prior: kernel, bias and norm of each hidden layer of the prior, kernel and bias of its logits.
        sizes: plain numbers.
    """

    def __init__(self, weights: Sequence[Tensor], prior: Sequence[Tensor], sizes: Sizes):
        super().__init__(weights, sizes)
        self.prior = [w.contiguous() for w in prior]
        self.dream = DreamRequest(layers=len(prior) // 3)
        self.dream.prior[: len(prior)] = [w.data_ptr() for w in self.prior]
        self.asked = ctypes.byref(self.model), ctypes.byref(self.dream)
        self.packed = prior[0].new_empty(self.library.dream_packed(*self.asked))
        self.room = prior[0].new_empty(self.library.dream_room(self.asked[0]))
        self.dream.packed, self.dream.room = self.packed.data_ptr(), self.room.data_ptr()
        self.library.dream_pack(*self.asked)

    def step(self, feat: Tensor, action_in: Tensor, noise: Tensor, out: Tensor) -> None:
        """From ``feat`` [n d+z], projected action [n u] and uniform noise [n s] to the next ``feat``, into ``out``."""
        n, width = self.sizes.b, self.sizes.d + self.sizes.z
        widths = ((feat, width), (out, width), (action_in, self.sizes.u), (noise, self.sizes.z // self.sizes.c))
        assert all(x.is_contiguous() and x.shape == (n, wide) for x, wide in widths), "shapes of a dream"
        dream = self.dream
        dream.feat, dream.next = feat.data_ptr(), out.data_ptr()
        dream.action_in, dream.noise = action_in.data_ptr(), noise.data_ptr()
        self.library.dream_step(*self.asked)


def retrace(weights: Sequence[Tensor], prior: Sequence[Tensor], sizes: Sizes, *tensors: Tensor) -> Tensor:
    """The gradient of a finished dream by its projected actions [t n u].

    Args:
        weights: as for ``ScanLoop``.
        prior: as for ``DreamLoop``.
        sizes: plain numbers.
        tensors: the dream's ``feat`` [t+1 n d+z], its projected actions [t n u], the gradient of ``feat``.
    """
    feat, action_in, grad = (x.contiguous() for x in tensors)
    loop, held, found = ScanLoop(weights, sizes), [w.contiguous() for w in prior], torch.empty_like(action_in)
    asked = RetraceRequest(*(x.data_ptr() for x in (feat, action_in, grad, found)), layers=len(prior) // 3)
    asked.prior[: len(held)] = [w.data_ptr() for w in held]
    both = ctypes.byref(loop.model), ctypes.byref(asked)
    room = feat.new_empty(loop.library.retrace_room(*both))
    asked.room = room.data_ptr()
    loop.library.retrace_backward(*both)
    return found

"""Encoders: observations in, one ``embed`` vector out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamer_lightning.nets.blocks import MLP, Conv2d, activation, norm_layer
from dreamer_lightning.ops.scalars import precise, symlog
from dreamer_lightning.types import LOG_PREFIX, Space, Specs, UserError

LARGE = 4096  # classes up to which an observation is one-hot; more have a learned vector each
LEARNED = 64  # numbers of that vector
MAX_VECTOR_DIMS = 2  # entries of more dimensions are images, or nothing that we know


class Encoder(nn.Module, ABC):
    """From observations by name, each [*b, ...], to ``embed`` [*b, e]. Sets ``embed_dim``, which is e."""

    embed_dim: int

    @abstractmethod
    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*b e"]: ...


class VectorEncoder(Encoder):
    """Vectors through an MLP; discrete ones one-hot, or by a learned vector for each of more than ``LARGE`` classes."""

    squash: bool  # whether numbers pass through symlog

    def __init__(self, spaces: dict[str, Space], units: int, layers: int, act: str, norm: str, init: str):
        super().__init__()
        self.spaces = dict(sorted(spaces.items()))
        self.small = {name: space for name, space in self.spaces.items() if space.classes <= LARGE}
        self.large = {name: space for name, space in self.spaces.items() if space.classes > LARGE}
        self.tables = nn.ModuleList(nn.Embedding(space.classes, LEARNED) for space in self.large.values())
        size = sum(space.size for space in self.small.values())
        size += sum(prod(space.shape) * LEARNED for space in self.large.values())
        self.mlp = MLP(size, units, layers, act, norm, init)
        self.embed_dim = self.mlp.out_dim

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*b e"]:
        parts = [concat_vectors(obs, self.small, self.squash)] if self.small else []
        for table, (name, space) in zip(self.tables, self.large.items(), strict=True):
            x = obs[name].reshape(*obs[name].shape[: obs[name].ndim - len(space.shape)], prod(space.shape))
            known = (x >= 0).all(-1, keepdim=True)
            parts.append(table(x.clamp(min=0)).flatten(-2) * known)
        return self.mlp(torch.cat(parts, -1) if len(parts) > 1 else parts[0])


class SymlogMLPEncoder(VectorEncoder):
    """Vectors through symlog (discrete ones one-hot) and an MLP (DreamerV3).

    Args:
        spaces: the observations to encode.
        units: width of the layers.
        layers: number of layers.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        init: initialiser of the kernels.
    """

    squash = True

    def __init__(
        self,
        spaces: dict[str, Space],
        *,
        units: int = 64,
        layers: int = 3,
        act: str = "silu",
        norm: str = "rms",
        init: str = "trunc_normal_in",
    ):
        super().__init__(spaces, units, layers, act, norm, init)


class MLPEncoder(VectorEncoder):
    """Vectors as they are (discrete ones one-hot) through an MLP (DreamerV2).

    Args:
        spaces: the observations to encode.
        units: width of the layers.
        layers: number of layers.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        init: initialiser of the kernels; V1 and V2 have ``glorot``.
    """

    squash = False

    def __init__(
        self,
        spaces: dict[str, Space],
        *,
        units: int = 400,
        layers: int = 4,
        act: str = "elu",
        norm: str = "none",
        init: str = "glorot",
    ):
        super().__init__(spaces, units, layers, act, norm, init)


class MaxPoolEncoder(Encoder):
    """Images through stages of convolution, 2x2 max-pooling, norm and activation (DreamerV3).

    Args:
        spaces: the images to encode, all of one height and width; joined over their channels in sorted order.
        depth: channels of a stage are ``depth`` times its entry in ``mults``.
        mults: one entry per stage; each halves height and width.
        kernel: side of the convolutions.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
    """

    def __init__(
        self,
        spaces: dict[str, Space],
        *,
        depth: int = 4,
        mults: tuple[int, ...] = (2, 3, 4, 4),
        kernel: int = 5,
        act: str = "silu",
        norm: str = "rms",
    ):
        super().__init__()
        self.keys = sorted(spaces)
        height, width = reduced_size(spaces, len(mults))
        depths = [depth * mult for mult in mults]
        channels = [sum(space.shape[-1] for space in spaces.values()), *depths]
        self.convs = nn.ModuleList(Conv2d(before, after, kernel) for before, after in pairwise(channels))
        self.norms = nn.ModuleList(norm_layer(norm, channels) for channels in depths)
        self.act = activation(act)
        self.embed_dim = height * width * depths[-1]

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*b e"]:
        x, lead = images(obs, self.keys)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(conv(x), 2)
            x = self.act(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x.permute(0, 2, 3, 1).reshape(*lead, self.embed_dim)


class StridedEncoder(Encoder):
    """Images through four convolutions of kernel 4 and stride 2, no padding, no norm (DreamerV1, DreamerV2).

    Args:
        spaces: the images to encode, all of one height and width; joined over their channels in sorted order.
        depth: channels of the first layer; they double at each next one (V1 32, V2 48).
        act: activation (V1 ``relu``, V2 ``elu``).
    """

    def __init__(self, spaces: dict[str, Space], *, depth: int = 32, act: str = "relu"):
        super().__init__()
        self.keys = sorted(spaces)
        height, width = image_size(spaces)
        depths = [depth * 2**i for i in range(4)]
        channels = [sum(space.shape[-1] for space in spaces.values()), *depths]
        for _ in depths:
            height, width = (height - 2) // 2, (width - 2) // 2
        if min(height, width) < 1:
            raise UserError(f"image '{self.keys[0]}' is too small for StridedEncoder: give it 64x64, or 46 at least")
        self.convs = nn.ModuleList(
            Conv2d(before, after, 4, 2, same=False, init="glorot") for before, after in pairwise(channels)
        )
        self.act = activation(act)
        self.embed_dim = height * width * depths[-1]

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*b e"]:
        x, lead = images(obs, self.keys)
        for conv in self.convs:
            x = self.act(conv(x))
        return x.permute(0, 2, 3, 1).reshape(*lead, self.embed_dim)


class DictEncoder(Encoder):
    """Vectors and images each through their own encoder; ``embed`` is [vector part, image part].

    Args:
        specs: observations and actions.
        keys: names of observations, or regular expressions that match whole names.
        vector: encoder of everything that is not an image.
        image: encoder of the images (uint8, [height, width, channels]).
    """

    def __init__(
        self,
        specs: Specs,
        *,
        keys: list[str] | None = None,
        vector: Callable[[dict[str, Space]], Encoder] = SymlogMLPEncoder,
        image: Callable[[dict[str, Space]], Encoder] = MaxPoolEncoder,
    ):
        super().__init__()
        vectors, pictures = split_spaces(select_keys(specs.obs, keys, "encoder keys"), "encoder keys")
        parts = [build(spaces) for spaces, build in ((vectors, vector), (pictures, image)) if spaces]
        if not parts:
            raise UserError("encoder keys: no observation is left to encode; name some, or use '.*' for all")
        self.parts = nn.ModuleList(parts)
        self.embed_dim = sum(part.embed_dim for part in parts)

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*b e"]:
        embeds = [part(obs) for part in self.parts]
        return torch.cat(embeds, -1) if len(embeds) > 1 else embeds[0]


def select_keys(spaces: dict[str, Space], keys: Iterable[str] | None, option: str) -> dict[str, Space]:
    """The observations that ``keys`` (names, or patterns matching whole names; None: all) choose, in their own order.

    Raises:
        UserError: an entry matches nothing.
    """
    offered = {name: space for name, space in spaces.items() if not name.startswith(LOG_PREFIX)}
    chosen = set()
    for key in [".*"] if keys is None else keys:
        try:
            found = {name for name in offered if name == key or re.fullmatch(key, name)}
        except re.error as error:
            raise UserError(f"{option}: '{key}' is no regular expression ({error})") from error
        if not found:
            raise UserError(f"{option}: '{key}' matches no observation; there are: {', '.join(offered) or 'none'}")
        chosen |= found
    return {name: space for name, space in offered.items() if name in chosen}


def split_spaces(spaces: dict[str, Space], option: str) -> tuple[dict[str, Space], dict[str, Space]]:
    """Vectors and images, each in the given order.

    Raises:
        UserError: an observation is neither.
    """
    for name, space in spaces.items():
        if not space.image and len(space.shape) > MAX_VECTOR_DIMS:
            raise UserError(
                f"{option}: no network takes '{name}' ({space.dtype}, shape {space.shape}): images are uint8 [h,w,c], "
                f"vectors have {MAX_VECTOR_DIMS} dimensions at most; leave it out of the keys"
            )
    pictures = {name: space for name, space in spaces.items() if space.image}
    return {name: space for name, space in spaces.items() if not space.image}, pictures


def image_size(spaces: dict[str, Space]) -> tuple[int, int]:
    """Height and width that all images share.

    Raises:
        UserError: they differ.
    """
    sizes = {space.shape[:2] for space in spaces.values()}
    if len(sizes) > 1:
        found = ", ".join(f"{name} {space.shape[0]}x{space.shape[1]}" for name, space in spaces.items())
        raise UserError(
            f"images of one network must share their size, got {found}; set env.image_size, or choose with keys"
        )
    height, width = sizes.pop()
    return height, width


def reduced_size(spaces: dict[str, Space], stages: int) -> tuple[int, int]:
    """Height and width after that many halvings.

    Raises:
        UserError: they cannot be halved so often, or end outside 3 to 16.
    """
    height, width = image_size(spaces)
    factor = 2**stages
    if height % factor or width % factor or not all(3 <= side // factor <= 16 for side in (height, width)):
        raise UserError(
            f"image '{next(iter(spaces))}' is {height}x{width}: {stages} halvings need sides that are multiples of "
            f"{factor} from {3 * factor} to {16 * factor}; set the environment's image_size to 64, or change mults"
        )
    return height // factor, width // factor


def images(obs: dict[str, Tensor], keys: list[str]) -> tuple[Float[Tensor, "n c h w"], torch.Size]:
    """Images joined over channels and moved to [-0.5, 0.5], channels_last in memory; and the batch shape."""
    x: UInt8[Tensor, "*b h w c"] = torch.cat([obs[key] for key in keys], -1) if len(keys) > 1 else obs[keys[0]]
    flat = x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2)
    return flat / 255.0 - 0.5, x.shape[:-3]


def concat_vectors(obs: dict[str, Tensor], spaces: dict[str, Space], squash: bool) -> Float[Tensor, "*b n"]:
    """Entries side by side in the order of ``spaces``; one with a missing number (-inf; -1 if int) is all zeros."""
    parts, code = [], symlog if squash else lambda x: x
    for name, space in spaces.items():
        x, dims = obs[name], len(space.shape)
        lead = x.shape[: x.ndim - dims]
        x = x if dims == 1 else x.reshape(*lead, prod(space.shape))
        if space.discrete:
            known = (x >= 0).all(-1, keepdim=True) if x.dtype.is_signed else None
            x = (x.unsqueeze(-1) == torch.arange(space.classes, device=x.device)).flatten(-2)
            parts.append((x if known is None else x & known).float())
        else:
            x = precise(x)
            parts.append(x.masked_fill((x == -torch.inf).any(-1, keepdim=True), 0.0))
    if not any(space.discrete for space in spaces.values()):
        return code(torch.cat(parts, -1) if len(parts) > 1 else parts[0])
    coded = [part if space.discrete else code(part) for part, space in zip(parts, spaces.values(), strict=True)]
    return torch.cat(coded, -1) if len(coded) > 1 else coded[0]

"""Decoders: a latent in, one output per observation out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.nets.blocks import (
    MLP,
    BlockLinear,
    ConvTranspose2d,
    Linear,
    activation,
    norm_layer,
)
from dreamer_lightning.nets.encoders import image_size, reduced_size, select_keys, split_spaces
from dreamer_lightning.nets.outputs import Categorical, ImageMSE, ImageNormal, Normal, Output, SymlogMSE
from dreamer_lightning.nets.upsample import UpsampleConv2d
from dreamer_lightning.types import Carried, Space, Specs, UserError


class Decoder(nn.Module, ABC):
    """From a latent [*b, .] to an output per observation, by name."""

    @abstractmethod
    def forward(self, latent: Carried) -> dict[str, Output]: ...


class SymlogMLPDecoder(Decoder):
    """Vectors through an MLP on [stoch, deter] (in this order): squared error in symlog space (DreamerV3).

    Args:
        spaces: the observations to predict; discrete ones as categoricals.
        deter: size of the deterministic state.
        stoch: flat size of the stochastic state.
        units: width of the layers.
        layers: number of layers.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        outscale: factor on the output layers' initial kernels.
        init: initialiser of the kernels.
    """

    def __init__(
        self,
        spaces: dict[str, Space],
        deter: int,
        stoch: int,
        *,
        units: int = 64,
        layers: int = 3,
        act: str = "silu",
        norm: str = "rms",
        outscale: float = 1.0,
        init: str = "trunc_normal_in",
    ):
        super().__init__()
        self.spaces = dict(spaces)
        self.mlp = MLP(stoch + deter, units, layers, act, norm, init)
        self.outs = nn.ModuleList(Linear(self.mlp.out_dim, space.size, outscale, init) for space in spaces.values())

    def forward(self, latent: Carried) -> dict[str, Output]:
        x = self.mlp(torch.cat([latent.stoch, latent.deter], -1))
        raw = {name: out(x) for name, out in zip(self.spaces, self.outs, strict=True)}
        return {name: vector_output(raw[name], space, SymlogMSE) for name, space in self.spaces.items()}


class MLPDecoder(Decoder):
    """Vectors through an MLP on [deter, stoch] as means of unit normals, no symlog (DreamerV2).

    Args:
        spaces: the observations to predict; discrete ones as categoricals.
        deter: size of the deterministic state.
        stoch: flat size of the stochastic state.
        units: width of the layers.
        layers: number of layers.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        init: initialiser of the kernels; V1 and V2 have ``glorot``.
    """

    def __init__(
        self,
        spaces: dict[str, Space],
        deter: int,
        stoch: int,
        *,
        units: int = 400,
        layers: int = 4,
        act: str = "elu",
        norm: str = "none",
        init: str = "glorot",
    ):
        super().__init__()
        self.spaces = dict(spaces)
        self.mlp = MLP(deter + stoch, units, layers, act, norm, init)
        self.outs = nn.ModuleList(Linear(self.mlp.out_dim, space.size, init=init) for space in spaces.values())

    def forward(self, latent: Carried) -> dict[str, Output]:
        x = self.mlp(latent.feat)
        raw = {name: out(x) for name, out in zip(self.spaces, self.outs, strict=True)}
        return {name: vector_output(raw[name], space, unit_normal) for name, space in self.spaces.items()}


class UpsampleDecoder(Decoder):
    """Images through stages of nearest upsampling, convolution, norm and activation, and a sigmoid (DreamerV3).

    Args:
        spaces: the images to predict, all of one height and width; they share the channels of the last layer.
        deter: size of the deterministic state.
        stoch: flat size of the stochastic state.
        depth: channels of a stage are ``depth`` times its entry in ``mults``.
        mults: one entry per stage, from the largest images to the smallest.
        kernel: side of the convolutions (odd).
        units: half the width of the layer that takes ``stoch``.
        blocks: blocks of the layer that takes ``deter``.
        act: activation.
        norm: ``rms``, ``layer`` or ``none``.
        outscale: factor on the output layer's initial kernel.
    """

    def __init__(
        self,
        spaces: dict[str, Space],
        deter: int,
        stoch: int,
        *,
        depth: int = 4,
        mults: tuple[int, ...] = (2, 3, 4, 4),
        kernel: int = 5,
        units: int = 64,
        blocks: int = 8,
        act: str = "silu",
        norm: str = "rms",
        outscale: float = 1.0,
    ):
        super().__init__()
        self.channels = {name: space.shape[-1] for name, space in spaces.items()}
        height, width = reduced_size(spaces, len(mults))
        depths = [depth * mult for mult in mults]
        self.shape, size = (height, width, depths[-1]), height * width * depths[-1]
        if deter % blocks or depths[-1] % blocks:
            raise UserError(
                f"decoder blocks={blocks} must divide deter={deter} and the last stage's {depths[-1]} channels"
            )
        self.deter_in = BlockLinear(deter, size, blocks)
        self.stoch_in = MLP(stoch, 2 * units, 1, act, norm)
        self.stoch_out = Linear(2 * units, size)
        self.in_norm = norm_layer(norm, depths[-1])
        self.convs = nn.ModuleList(UpsampleConv2d(after, before, kernel) for before, after in pairwise(depths))
        self.norms = nn.ModuleList(norm_layer(norm, channels) for channels in depths[:-1])
        self.out = UpsampleConv2d(depths[0], sum(self.channels.values()), kernel, outscale)
        self.act = activation(act)

    def forward(self, latent: Carried) -> dict[str, Output]:
        height, width, channels = self.shape
        blocks, lead = self.deter_in.blocks, latent.deter.shape[:-1]
        x = self.deter_in(latent.deter).reshape(-1, blocks, height, width, channels // blocks)
        x = x.permute(0, 2, 3, 1, 4).reshape(-1, height, width, channels)  # blocks become channels
        x = x + self.stoch_out(self.stoch_in(latent.stoch)).reshape(-1, height, width, channels)
        x = self.act(self.in_norm(x))
        for conv, norm in zip(reversed(self.convs), reversed(self.norms), strict=True):
            x = self.act(norm(conv(x)))
        x = self.out(x)
        parts = x.reshape(*lead, *x.shape[-3:]).split(list(self.channels.values()), -1)
        return {name: ImageMSE(part) for name, part in zip(self.channels, parts, strict=True)}


class StridedDecoder(Decoder):
    """64x64 images through a dense layer and four transposed convolutions of stride 2 (DreamerV1, DreamerV2).

    Args:
        spaces: the images to predict; they share the channels of the last layer.
        deter: size of the deterministic state.
        stoch: flat size of the stochastic state.
        depth: channels of the last hidden layer (V1 32, V2 48).
        act: activation (V1 ``relu``, V2 ``elu``).
    """

    def __init__(self, spaces: dict[str, Space], deter: int, stoch: int, *, depth: int = 32, act: str = "relu"):
        super().__init__()
        height, width = image_size(spaces)
        if (height, width) != (64, 64):
            raise UserError(f"StridedDecoder predicts 64x64 images, not {height}x{width}: set image_size to 64")
        self.channels = {name: space.shape[-1] for name, space in spaces.items()}
        self.dense = Linear(deter + stoch, 32 * depth, init="glorot")
        channels = [32 * depth, 4 * depth, 2 * depth, depth, sum(self.channels.values())]
        self.convs = nn.ModuleList(
            ConvTranspose2d(before, after, kernel, same=False, init="glorot")
            for (before, after), kernel in zip(pairwise(channels), (5, 5, 6, 6), strict=True)
        )
        self.act = activation(act)

    def forward(self, latent: Carried) -> dict[str, Output]:
        lead = latent.deter.shape[:-1]
        x = self.dense(latent.feat).reshape(prod(lead), -1, 1, 1)
        for conv in self.convs[:-1]:
            x = self.act(conv(x))
        x = self.convs[-1](x).permute(0, 2, 3, 1)
        parts = x.reshape(*lead, *x.shape[-3:]).split(list(self.channels.values()), -1)
        return {name: ImageNormal(part) for name, part in zip(self.channels, parts, strict=True)}


class DictDecoder(Decoder):
    """Vectors and images each through their own decoder.

    Args:
        specs: observations and actions.
        deter: size of the deterministic state.
        stoch: flat size of the stochastic state.
        keys: names of observations, or regular expressions that match whole names; an empty list predicts none.
        vector: decoder of everything that is not an image.
        image: decoder of the images (uint8, [height, width, channels]).
    """

    def __init__(
        self,
        specs: Specs,
        deter: int,
        stoch: int,
        *,
        keys: list[str] | None = None,
        vector: Callable[[dict[str, Space], int, int], Decoder] = SymlogMLPDecoder,
        image: Callable[[dict[str, Space], int, int], Decoder] = UpsampleDecoder,
    ):
        super().__init__()
        vectors, pictures = split_spaces(select_keys(specs.obs, keys, "decoder keys"), "decoder keys")
        pairs = ((vectors, vector), (pictures, image))
        self.parts = nn.ModuleList(build(spaces, deter, stoch) for spaces, build in pairs if spaces)

    def forward(self, latent: Carried) -> dict[str, Output]:
        return {name: output for part in self.parts for name, output in part(latent).items()}


def vector_output(raw: Float[Tensor, "*b n"], space: Space, continuous: Callable[[Tensor, int], Output]) -> Output:
    """The output of an entry, from the flat numbers of its last layer."""
    dims = len(space.shape)
    if space.discrete:
        return Categorical(raw.reshape(*raw.shape[:-1], *space.shape, space.classes), event_dims=dims)
    return continuous(raw.reshape(*raw.shape[:-1], *space.shape), dims)


class UnitNormal(Normal):
    """Standard deviation 1; missing numbers (-inf) count for nothing."""

    def log_prob(self, event: Tensor) -> Tensor:
        return super().log_prob(torch.where(torch.isneginf(event), self.mean.detach(), event))


def unit_normal(mean: Tensor, event_dims: int) -> Normal:
    return UnitNormal(mean, 1.0, event_dims)

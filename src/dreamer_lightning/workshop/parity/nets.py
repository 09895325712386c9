"""``nets.npz``: single layers, activations, input concatenation, encoders and decoders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dreamer_lightning import interop
from dreamer_lightning.nets.blocks import MLP, BlockLinear, Conv2d, ConvTranspose2d, Linear, RMSNorm, activation
from dreamer_lightning.nets.encoders import concat_vectors
from dreamer_lightning.ops.scalars import symexp, symlog
from dreamer_lightning.types import Latent, Space, Specs
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.record import GRADIENT, IMAGE, LAYER, Job, Vectors, watch


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file."""
    for group in v.groups():
        if f"{group}/param/kernel" in v or f"{group}/param/scale" in v or group == "mlp":
            yield group, partial(_layer, v, group)
        elif group in OTHERS:
            yield group, partial(OTHERS[group], v, group)
        elif f"{group}/enc/tokens" in v:
            yield f"{group}/enc", partial(_encoder, v, group)
            yield f"{group}/dec", partial(_decoder, v, group)


def _layer(v: Vectors, group: str) -> None:
    """One layer alone: output, and gradients of parameters and input."""
    params = v.under(f"{group}/param")
    x, dy = v.tensor(f"{group}/x").requires_grad_(), v.tensor(f"{group}/dy")
    layer, images = _build(v, group, x, dy, params)
    layers = interop.mlp_layers(layer) if isinstance(layer, MLP) else {"": layer}
    layer.to(v.dtype)
    interop.load(layers, params if isinstance(layer, MLP) else {f"/{name}": p for name, p in params.items()})
    y = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if images else layer(x).reshape(dy.shape)
    v.close(f"{group}/y", y)
    (y * dy).sum().backward()
    v.norm(f"{group}/grad_x", x.grad, GRADIENT)
    for name, grad in interop.gradients(layers).items():
        v.norm(f"{group}/grad/{name.lstrip('/')}", grad, GRADIENT)


def _build(v: Vectors, group: str, x: Tensor, y: Tensor, params: dict[str, Tensor]) -> tuple[nn.Module, bool]:
    """Our layer with the sizes of the group's arrays, and whether it takes images."""
    if group == "mlp":
        units = params["linear0/kernel"].shape[1]
        return MLP(x.shape[-1], units, len([name for name in params if name.endswith("/kernel")])), False
    if "scale" in params:
        return RMSNorm(x.shape[-1]), False
    shape = params["kernel"].shape
    if len(shape) == 2:
        return Linear(*shape), False
    if len(shape) == 3:
        return BlockLinear(shape[0] * shape[1], shape[0] * shape[2], shape[0]), False
    if y.shape[1] > x.shape[1]:
        return ConvTranspose2d(shape[2], shape[3], shape[0]), True
    return Conv2d(shape[2], shape[3], shape[0], stride=round(x.shape[1] / y.shape[1])), True


def _activations(v: Vectors, group: str) -> None:
    x = v.tensor(f"{group}/x")
    for name in v.names(group):
        if name != "x":
            v.close(f"{group}/{name}", activation(name)(x))


def _symlog(v: Vectors, group: str) -> None:
    x = v.tensor(f"{group}/x").requires_grad_()
    y = symlog(x)
    y.sum().backward()
    v.close(f"{group}/y", y)
    v.close(f"{group}/grad", x.grad)


def _symexp(v: Vectors, group: str) -> None:
    v.within(f"{group}/y", symexp(v.tensor(f"{group}/x")), LAYER, np.abs(v[f"{group}/y"]))


def _onehot(v: Vectors, group: str) -> None:
    y = v[f"{group}/y"]
    spaces = {"x": Space((), "int32", y.shape[-1])}
    v.exact(f"{group}/y", concat_vectors({"x": v.tensor(f"{group}/x")}, spaces, squash=False))


def _dictconcat(v: Vectors, group: str) -> None:
    """Entries side by side; ``dictconcat_missing`` has the spaces of ``dictconcat``."""
    v.ignore("dictconcat/insertion_order", f"{group}/keys")
    spaces = {name: build.space(entry) for name, entry in sorted(v.json("dictconcat/spaces").items())}
    obs = v.under(f"{group}/in")
    for name, squash in {"out_symlog": True, "out_plain": False, "out": True}.items():
        if f"{group}/{name}" in v:
            v.close(f"{group}/{name}", concat_vectors(obs, spaces, squash))


OTHERS = {
    "act": _activations,
    "symlog": _symlog,
    "symexp": _symexp,
    "onehot": _onehot,
    "dictconcat": _dictconcat,
    "dictconcat_missing": _dictconcat,
}


def _spaces(v: Vectors, group: str) -> Specs:
    """The observations of a group, from its arrays; a discrete one is known by its decoder's logits."""
    order = v.json(f"{group}/insertion_order") if f"{group}/insertion_order" in v else v.names(f"{group}/enc/obs")
    lead, spaces = v[f"{group}/enc/tokens"].ndim - 1, {}
    for name in order:
        array, logits = v[f"{group}/enc/obs/{name}"], f"{group}/dec/param/vec/{name}/logits/kernel"
        shape, dtype = array.shape[lead:], str(array.dtype)
        classes = v[logits].shape[-1] // max(1, math.prod(shape)) if logits in v else 0
        spaces[name] = Space(shape, dtype, classes)
    return Specs(spaces, {})


def _encoder(v: Vectors, group: str) -> None:
    encoder = build.encoder(v.json("config")["enc"])(_spaces(v, group)).to(v.dtype)
    layers, key = interop.encoder_layers(encoder), f"{group}/enc"
    interop.load(layers, v.under(f"{key}/param"))
    tokens = encoder(v.under(f"{key}/obs"))
    v.close(f"{key}/tokens", tokens)
    (tokens * v.tensor(f"{key}/dtokens")).sum().backward()
    for name, grad in interop.gradients(layers).items():
        v.norm(f"{key}/grad/{name}", grad)


def _decoder(v: Vectors, group: str) -> None:
    key, obs = f"{group}/dec", v.under(f"{group}/enc/obs")
    deter, stoch = v.tensor(f"{key}/deter").requires_grad_(), v.tensor(f"{key}/stoch").requires_grad_()
    specs = _spaces(v, group)
    decoder = build.decoder(v.json("config")["dec"])(specs, deter.shape[-1], stoch[0, 0].numel()).to(v.dtype)
    layers = interop.decoder_layers(decoder)
    interop.load(layers, v.under(f"{key}/param"))
    with watch(layers) as mids:
        outputs = decoder(Latent(deter, stoch.flatten(-2)))
    for name in v.names(f"{key}/mid"):
        v.close(f"{key}/mid/{name}", mids[name].reshape(v[f"{key}/mid/{name}"].shape))
    objective = torch.zeros((), dtype=v.dtype)
    for name, output in outputs.items():
        loss, image = output.loss(obs[name]), specs.obs[name].image
        v.close(f"{key}/loss/{name}", loss, IMAGE if image else LAYER)
        if specs.obs[name].discrete:
            v.exact(f"{key}/pred/{name}", output.pred())
        else:
            v.close(f"{key}/pred/{name}", output.mean)  # in symlog space for vectors
        objective = objective + (loss * v.tensor(f"{key}/dloss/{name}")).sum()
    objective.backward()
    for name, grad in interop.gradients(layers).items():
        v.norm(f"{key}/grad/{name}", grad)
    v.norm(f"{key}/grad_deter", deter.grad)
    v.norm(f"{key}/grad_stoch", stoch.grad)

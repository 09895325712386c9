"""``nets.npz``: single layers, activations, input concatenation, encoders and decoders."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from dreamer_lightning import interop
from dreamer_lightning.nets.blocks import ACTIVATIONS, MLP, BlockLinear, Conv2d, ConvTranspose2d, Linear, RMSNorm
from dreamer_lightning.parity.record import GRADIENT, Job, NotRunnable, Vectors


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file."""
    for group in v.groups():
        if f"{group}/param/kernel" in v or f"{group}/param/scale" in v or group == "mlp":
            yield group, partial(_layer, v, group)
    yield "act", partial(_activations, v)


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


def _activations(v: Vectors) -> None:
    x = v.tensor("act/x")
    for name in v.names("act"):
        if name != "x":
            if name not in ACTIVATIONS:
                raise NotRunnable(f"nets.npz: act/{name} is an activation that is not offered")
            v.close(f"act/{name}", ACTIVATIONS[name](x))

"""``init.npz``: statistics of the initialisers, layer by layer and for whole agents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dreamer_lightning import interop
from dreamer_lightning.nets.blocks import TRUNC_SCALE, BlockLinear, Conv2d, Linear, init_kernel
from dreamer_lightning.types import Space, Specs
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.record import HUGE, LAYER, SIGMAS, Job, NotRunnable, Vectors

CUT = 2.0  # standard deviations at which the unit normal is truncated
MATRIX = (800, 200)  # inputs and outputs of the matrices below ``initializer``
STD = 0.02  # relative, of tensors above ``MANY`` entries
MANY = 10_000


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file."""
    for group in v.groups():
        if f"{group}/fan_std" in v:
            yield group, partial(seeded, partial(_layer, v, group))
        elif group == "initializer":
            yield group, partial(seeded, partial(_initializers, v, group))
        elif group == "constants":
            yield group, partial(_constants, v, group)
        elif group.startswith("size"):
            yield group, partial(seeded, partial(_agent, v, group))


def seeded(job: Callable[[], None]) -> None:
    """Run a job with its own random state, so that the report is the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        job()


def statistics(x: Tensor) -> list[float]:
    """Mean, std, min, max, 25 % and 97.5 % quantiles."""
    x = x.detach().double().flatten()
    quantiles = np.quantile(x.numpy(), [0.25, 0.975])
    return [x.mean().item(), x.std(correction=0).item(), x.min().item(), x.max().item(), *quantiles.tolist()]


def compare(v: Vectors, key: str, got: Tensor, lead: int = 0) -> None:
    """Compare statistics of two draws; the error is in units of what two draws of that size may differ by.

    Args:
        v: the vectors.
        key: the recorded statistics, after ``lead`` numbers that are the shape.
        got: our draw.
        lead: see ``key``.
    """
    want, found, n = v[key][lead:], statistics(got), got.numel()
    std = found[1]
    if std == 0 or want[1] == 0:  # all entries are equal: exactly the same numbers
        v.judge(key, float(max(abs(a - b) for a, b in zip(found, want, strict=False))), 0.0)
        return
    width = STD if n > MANY else max(STD, SIGMAS / math.sqrt(n))
    bounded = max(abs(want[2]), abs(want[3])) < 2.6 * std  # else a normal without bounds, whose ends vary
    ends = max(0.05, SIGMAS * 2 / (0.05 * n)) if bounded else 1.5
    limits = [SIGMAS * math.sqrt(2 / n), width, ends, ends, 3 * SIGMAS / math.sqrt(n), 3 * SIGMAS / math.sqrt(n)]
    errors = [abs(a - b) / (std * limit) for a, b, limit in zip(found, want, limits, strict=False)]
    v.judge(key, float(max(errors)), 1.0)


def _layer(v: Vectors, group: str) -> None:
    """One large layer: its kernel's statistics, and what its fan-in makes of them."""
    shape = v[f"{group}/shape"].tolist()
    outscale = float(group.partition("outscale")[2] or 1.0)
    layer: nn.Module
    if len(shape) == 2:
        layer, fan = Linear(*shape, outscale=outscale), shape[0]
    elif len(shape) == 3:
        layer = BlockLinear(shape[0] * shape[1], shape[0] * shape[2], shape[0], outscale)
        fan = layer.in_features  # the whole input, not the block's
    else:
        layer = Conv2d(shape[2], shape[3], shape[0], outscale=outscale)
        fan = shape[0] * shape[1] * shape[2]
    (_, _, kernel), (_, _, bias) = interop.tensors({"layer": layer})
    compare(v, f"{group}/stats", kernel)
    compare(v, f"{group}/bias_stats", bias)
    v.within(
        f"{group}/fan_std",
        [fan, 1 / math.sqrt(fan), CUT * TRUNC_SCALE / math.sqrt(fan)],
        LAYER,
        np.abs(v[f"{group}/fan_std"]),
    )


def _initializers(v: Vectors, group: str) -> None:
    fan_in, fan_out = MATRIX
    for name in v.names(group):
        kernel = torch.empty(fan_out, fan_in)
        init_kernel(kernel, fan_in, fan_out, 1.0, name)
        compare(v, f"{group}/{name}", kernel)


def _constants(v: Vectors, key: str) -> None:
    density = math.exp(-CUT * CUT / 2) / math.sqrt(2 * math.pi)
    inside = math.erf(CUT / math.sqrt(2))
    v.close(key, [TRUNC_SCALE, math.sqrt(1 - 2 * CUT * density / inside)])


def _agent(v: Vectors, group: str) -> None:
    """Every tensor of a whole agent straight from our initialisers."""
    preset = group.split("_")[0]
    model, agent = build.preset(preset, _specs(v, group, build.size(preset).depth))
    tensors = interop.dump(interop.agent_layers(model, agent))
    for name in v.names(group):
        if name not in tensors:
            raise NotRunnable(f"{group}/{name} is a tensor that ours has not")
        got, want = tensors[name], v[f"{group}/{name}"]
        if list(got.shape) != want[: got.ndim].astype(int).tolist():
            v.judge(f"{group}/{name}", HUGE, 0.0)
        else:
            compare(v, f"{group}/{name}", got, got.ndim)


def _specs(v: Vectors, group: str, depth: int) -> Specs:
    """The spaces that a group's tensors are made for, read off their shapes."""
    obs, act, names = {}, {}, set(v.names(group))

    def outputs(name: str) -> int:
        lead = {"kernel": 2}.get(name.rsplit("/", 1)[1], 1)
        return int(v[f"{group}/{name}"][: 4 if "imgout" in name else lead][-1])

    for name in sorted(names):
        parts = name.split("/")
        if parts[:2] == ["dec", "vec"] and parts[-1] == "kernel":
            size = outputs(name)
            obs[parts[2]] = Space((size,)) if parts[3] == "pred" else Space((), "int32", size)
        if parts[:2] == ["pol", "head"] and parts[-1] == "kernel":
            size = outputs(name)
            act[parts[2]] = Space((), "int32", size) if parts[3] == "logits" else Space((size,))
    if "dec/imgout/kernel" in names:
        sizes = sorted(outputs(f"dec/{name}") for name in ("sp0/bias", "sp2/bias", "sp2/kernel"))
        side = math.isqrt(sizes[1] // (4 * depth)) * 16  # two of the three agree even where one was altered
        obs["image"] = Space((side, side, outputs("dec/imgout/kernel")), "uint8")
    return Specs(obs, act)

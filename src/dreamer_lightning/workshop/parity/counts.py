"""``counts.npz``: parameter counts and tensor shapes of every preset, on the ``meta`` device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import torch

from dreamer_lightning import interop
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.record import Job, Vectors


def jobs(v: Vectors) -> Iterator[Job]:
    """Every preset of every task."""
    for task in v.groups():
        for preset in dict.fromkeys(name.split("/")[0] for name in v.names(task) if "/" in name):
            yield f"{task}/{preset}", partial(_preset, v, task, preset)


def _preset(v: Vectors, task: str, preset: str) -> None:
    spaces, key = v.json(f"{task}/spaces"), f"{task}/{preset}"
    with torch.device("meta"):
        model, agent = build.preset(preset, build.specs(spaces["obs"], spaces["act"]))
    shapes = {name: list(x.shape) for name, x in interop.dump(interop.agent_layers(model, agent)).items()}
    counts: Counter[str] = Counter()
    for name, shape in shapes.items():
        counts[name.split("/")[0]] += torch.Size(shape).numel()
    counts["total"] = sum(p.numel() for module in (model, agent) for p in module.parameters() if p.requires_grad)
    v.same(f"{key}/shapes", {name: shape for name, shape in shapes.items() if not name.startswith("slowval/")})
    for name in v.names(key):
        if name != "shapes":
            v.exact(f"{key}/{name}", counts[name])

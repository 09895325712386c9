"""``optim.npz``: optimiser steps in several settings, and learning rate schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dreamer_lightning.optim import LaProp
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.record import UPDATE, Job, Vectors

DEFAULTS = {"lr": 4e-5, "agc": 0.3, "eps": 1e-20, "beta1": 0.9, "beta2": 0.999, "warmup": 1000, "wd": 0.0}
DEFAULTS |= {"anneal": 0, "schedule": "const", "nesterov": False, "momentum": True}
SCHEDULE = 1e-4  # relative; the reference's own rounding of its bias corrections


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file."""
    for group in v.groups():
        if f"{group}/param0" in {key.rsplit("/", 2)[0] for key in v.arrays} or f"{group}/config" in v:
            yield group, partial(_steps, v, group)
        elif group == "schedule":
            for name in dict.fromkeys(name.split("/")[0] for name in v.names(group)):
                yield f"{group}/{name}", partial(_schedule, v, f"{group}/{name}")
        elif group == "underflow":  # tells what the reference's platform makes of denormal numbers
            v.ignore(*(f"{group}/{name}" for name in v.names(group)))


def optimizer(options: Mapping) -> Callable[[Iterable[nn.Parameter]], LaProp]:
    """The factory of an ``opt`` section; the reference does not read ``momentum``, and so there is no such option."""
    options = {**DEFAULTS, **options}
    build.require(options, schedule=("const", "linear", "cosine"))
    return partial(
        LaProp,
        lr=options["lr"],
        betas=(options["beta1"], options["beta2"]),
        eps=options["eps"],
        agc=options["agc"],
        warmup=options["warmup"],
        weight_decay=options["wd"],
        schedule=options["schedule"],
        anneal=options["anneal"],
        nesterov=options["nesterov"],
    )


def _steps(v: Vectors, group: str) -> None:
    """Every step on the recorded gradients: clipped gradients, updates, parameters; and the moments at the end."""
    config = v.json(f"{group}/config")
    params = {name: nn.Parameter(value) for name, value in v.under(f"{group}/param0").items()}
    grads, lr = v.under(f"{group}/grad"), config["lr"]
    opt, kept = optimizer(config)(list(params.values())), {"clipped": [], "update": [], "param": []}
    clip, changes = opt.clip, opt.changes

    def on_clip(group: dict, raw: list[Tensor]) -> list[Tensor]:
        result = clip(group, raw)
        kept["clipped"].append(result)
        return result

    def on_changes(group: dict, clipped: list[Tensor]) -> list[Tensor]:
        result = changes(group, clipped)
        kept["update"].append([-change for change in result])
        return result

    opt.clip, opt.changes = on_clip, on_changes
    for step in range(len(next(iter(grads.values())))):
        for name, parameter in params.items():
            grad = grads[name][step]
            parameter.grad = grad.clone() if grad.any() else None  # no gradient counts as zero
        opt.step()
        kept["param"].append([parameter.detach().clone() for parameter in params.values()])
    for i, (name, parameter) in enumerate(params.items()):
        found = {quantity: torch.stack([values[i] for values in steps]) for quantity, steps in kept.items()}
        v.close(f"{group}/clipped/{name}", found["clipped"], UPDATE)
        v.close(f"{group}/update/{name}", found["update"], UPDATE)
        v.within(f"{group}/param/{name}", found["param"], UPDATE, parameter_unit(v[f"{group}/param/{name}"], lr))
        v.close(f"{group}/final_nu/{name}", opt.state[parameter]["nu"], UPDATE)
        v.close(f"{group}/final_mu/{name}", opt.state[parameter]["mu"], UPDATE)


def parameter_unit(want: np.ndarray, lr: float) -> np.ndarray:
    """The learning rate, or where that is below float32's own step at the wanted value, so much of that step."""
    return np.maximum(lr, np.spacing(np.abs(want.astype(np.float32))).astype(np.float64) / UPDATE)


def _schedule(v: Vectors, group: str) -> None:
    opt = optimizer(v.json(f"{group}/config"))([nn.Parameter(torch.zeros(1))])
    rate = opt.learning_rate(opt.param_groups[0], v.tensor(f"{group}/step").to(v.dtype))
    v.within(f"{group}/lr", rate, SCHEDULE, np.abs(v[f"{group}/lr"].astype(np.float64)))

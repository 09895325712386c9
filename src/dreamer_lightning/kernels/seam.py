"""The seam: ``accelerate`` an agent or any module, once, after it is built."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dreamer_lightning.kernels import dense, native
from dreamer_lightning.kernels.recurrence import FastBlockRSSM
from dreamer_lightning.kernels.twins import FastCategorical, FastLinear, FastMLP, FastSymlogTwoHotHead, FastTwoHotHead
from dreamer_lightning.kernels.watch import Twin, adopt, change, undo
from dreamer_lightning.nets.blocks import MLP
from dreamer_lightning.nets.latents import Categorical

TWINS: tuple[type[Twin], ...] = (FastBlockRSSM, FastTwoHotHead, FastSymlogTwoHotHead, FastMLP, FastLinear)
TRIAL = 0.3  # seconds that the kernels are tried for, where they have one thread and torch has several


@dataclass
class Report:
    """What ``accelerate`` did.

    Args:
        twins: number of fast twins by the name of the class whose place they took.
        missing: why no compiled kernels are in use, in a line for people; empty if they are.
        factor: how many times as fast as torch they are on one thread; None if they have as many threads as torch.
        on_cpu: whether the parameters are on a CPU, for which the kernels are.
    """

    twins: dict[str, int] = field(default_factory=dict)
    missing: str = ""
    factor: float | None = None
    on_cpu: bool = True

    def __str__(self) -> str:
        alone = f" on one thread, {self.factor:.1f} times as fast as torch on all" if self.factor else ""
        by = f"no compiled kernels ({self.missing})" if self.missing else f"compiled kernels{alone}"
        fast = ", ".join(f"{n} {name}" if n > 1 else name for name, n in self.twins.items())
        return ", ".join([*([by] if self.on_cpu else []), f"fast twins of {fast or 'nothing'}"])


def accelerate(module: nn.Module) -> Report:
    """Put fast twins in the place of the layers that are exactly known, and leave every other alone.

    The modules stay the same objects, with the same parameters, names and hooks; only what computes them changes.
    """
    on_cpu = all(parameter.is_cpu for parameter in module.parameters())
    missing, factor = native.load() if on_cpu else "", None
    if on_cpu and not missing:
        missing, factor = alone()
    kinds = TWINS if on_cpu else (FastBlockRSSM,)
    found: Counter[str] = Counter()
    modules: list[Any] = list(module.modules())
    for one in modules:
        if type(getattr(one, "latents", None)) is Categorical:
            change(one.latents, FastCategorical)
    for kind in kinds:
        for one in modules:
            if type(one) is kind.plain or type(one) is kind:
                found[kind.plain.__name__] += adopt(one, kind)
    return Report({name: n for name, n in found.items() if n}, missing, factor, on_cpu)


def restore(module: nn.Module) -> None:
    """The plain layers again."""
    for one in module.modules():
        undo(one)
        if type(getattr(one, "latents", None)) is FastCategorical:
            change(one.latents, Categorical)


def alone() -> tuple[str, float | None]:
    """Whether kernels without OpenMP stand back, in words, and how many times as fast as torch they are."""
    library = native.library()
    if library is None or library.has_openmp() or torch.get_num_threads() == 1:
        return "", None
    factor = trial()
    if factor >= 1:
        return "", factor
    native.unload()
    return f"no OpenMP can be linked; on one thread they are {1 / factor:.1f} times slower than torch on all", None


def trial(seconds: float = TRIAL) -> float:
    """How many times as fast as torch the kernels are, in an MLP on the rows of a step of dreams."""
    mlp, rows = MLP(512, 64, 3).requires_grad_(False), torch.randn(1024, 512)
    weights = [
        w
        for linear, norm in zip(mlp.linears, mlp.norms, strict=True)
        for w in (linear.weight, linear.bias, norm.weight)
    ]
    calls: list[Callable[[], Any]] = [lambda: mlp(rows), lambda: dense.mlp(rows, weights, mlp.norms[0].eps)]
    best, end = [float("inf")] * 2, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0] / best[1]

"""What the arithmetic of an update costs alone: its matrix products and convolutions at their own shapes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from dreamer_lightning.workshop.bench.timing import samples

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward}
SAMPLE = 1e-3  # seconds that one timed sample takes, at least


class Like(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def fill(self, device: torch.device) -> Tensor:
        span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return torch.randn(span, device=device).to(self.dtype).as_strided(self.shape, self.stride)


class Products(TorchDispatchMode):
    """Counts the products that run inside: operation, and its arguments with tensors as ``Like``."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[tuple[Any, tuple, tuple]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in PRODUCTS:
            named = tuple(sorted((key, like(value)) for key, value in kwargs.items() if key != "out"))
            self.counts[func.overloadpacket, tuple(map(like, args)), named] += 1
        return func(*args, **kwargs)


def like(value: Any) -> Any:
    """An argument in a form that can be counted."""
    if isinstance(value, Tensor):
        return Like(tuple(value.shape), value.stride(), value.dtype)
    return tuple(like(x) for x in value) if isinstance(value, list | tuple) else value


def products(call: Callable[[], Any]) -> Counter[tuple[Any, tuple, tuple]]:
    """The products of one call, and how often each shape comes."""
    with Products() as seen:
        call()
    return seen.counts


def own_shape_seconds(counts: Counter[tuple[Any, tuple, tuple]], device: torch.device, repeats: int = 5) -> float:
    """Each product timed alone, and summed by how often it comes."""
    return sum(count * alone(*product, device, repeats) for product, count in counts.items())


def alone(operation: Any, args: tuple, kwargs: tuple, device: torch.device, repeats: int) -> float:
    """Median seconds of one operation on random tensors of its shapes and strides."""
    fill = lambda x: x.fill(device) if isinstance(x, Like) else x  # noqa: E731
    filled = [fill(x) if isinstance(x, Like) else list(x) if isinstance(x, tuple) else x for x in args]
    named = {key: tree_map(fill, value) for key, value in kwargs}
    call = lambda: operation(*filled, **named)  # noqa: E731
    once = min(samples(call, device, 2, warm_up=1))
    inner = max(1, int(SAMPLE / max(once, 1e-9)))
    return statistics.median(samples(call, device, repeats, warm_up=0, inner=inner))


class NoModules:
    """Replaces the counter's tracker of modules, whose hooks fail where a module runs on held weights."""

    parents = {"Global"}

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


def gflop(call: Callable[[], Any]) -> float:
    """1e9 floating point operations of the matrix products and convolutions of one call."""
    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        call()
    return counter.get_total_flops() / 1e9


def peak_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Best rate of square matrix products, in GFLOP/s."""
    sizes = (1024, 2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = max(best, 2e-9 * size**3 / min(samples(partial(torch.matmul, a, b), device, repeats)))
    return best

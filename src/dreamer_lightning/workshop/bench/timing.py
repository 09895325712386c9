"""Timing: medians of repeated calls, rates, and the share of a call that each method takes."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Measures = dict[str, Any]  # what was measured of one system, by name
Where = tuple[Any, str]  # an object and the name of its method


def now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def samples(
    call: Callable[[], Any], device: torch.device, repeats: int, warm_up: int = 2, inner: int = 1
) -> list[float]:
    """Seconds a call took, ``repeats`` times; each is the mean of ``inner`` calls without a wait between them."""
    for _ in range(warm_up):
        call()
    found = []
    for _ in range(repeats):
        start = now(device)
        for _ in range(inner):
            call()
        found.append((now(device) - start) / inner)
    return found


def median_ms(call: Callable[[], Any], device: torch.device, repeats: int, warm_up: int = 2) -> float:
    """Median milliseconds of a call."""
    return 1e3 * statistics.median(samples(call, device, repeats, warm_up))


def rate(call: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Units per second that a repeated call produces.

    Args:
        call: returns how much it made.
        device: waited for at the end.
        seconds: how long to go on, at least; three calls go before.
    """
    for _ in range(3):
        call()
    made, start = 0, now(device)
    while time.perf_counter() - start < seconds or not made:
        made += call()
    return made / (now(device) - start)


class Shares:
    """Seconds by section; time in a nested section counts for the nested one alone.

    Args:
        device: waited for at each border, so that a section pays for its own work.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.stack: list[str] = []
        self.since = 0.0

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._settle()
        self.stack.append(name)
        try:
            yield
        finally:
            self._settle()
            self.stack.pop()

    def _settle(self) -> None:
        moment = now(self.device)
        if self.stack:
            self.seconds[self.stack[-1]] += moment - self.since
        self.since = moment

    @contextmanager
    def watching(self, methods: list[tuple[str, Where]]) -> Iterator[None]:
        """Count the time in these methods of these objects for these sections."""

        def watched(name: str, method: Callable) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self.section(name):
                    return method(*args, **kwargs)

            return call

        before = [(thing, method, vars(thing).get(method)) for _, (thing, method) in methods]
        for name, (thing, method) in methods:
            setattr(thing, method, watched(name, getattr(thing, method)))
        try:
            yield
        finally:
            for thing, method, own in before:
                if own is None:
                    delattr(thing, method)  # the class's again
                else:
                    setattr(thing, method, own)

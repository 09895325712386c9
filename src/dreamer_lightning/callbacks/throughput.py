"""Speed and memory, added to every row of the loop's own cadence."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

import torch

from dreamer_lightning.callbacks.base import Callback, LoopView, is_episode


class Throughput(Callback):
    """Adds ``fps/env`` (env steps a second), ``fps/updates``, ``fps/share_<what>`` (share of wall time that each of
    ``loop.timers`` took: collect, train, evaluate, save), ``fps/ram_gb`` (peak) and ``fps/gpu_gb`` (peak, with a GPU).

    Rates count from one row to the next. Comes before ``Metrics`` in the list of callbacks.
    """

    def __init__(self):
        self.before: tuple[float, int, int, dict[str, float]] | None = None

    def on_train_start(self, loop: LoopView) -> None:
        self.before = self._now(loop)

    def on_log(self, loop: LoopView, row: dict[str, Any]) -> None:
        if is_episode(row):
            return
        now = self._now(loop)
        if self.before is not None:
            (_, env_step, update, timers), seconds = self.before, max(now[0] - self.before[0], 1e-9)
            row["fps/env"] = (now[1] - env_step) / seconds
            row["fps/updates"] = (now[2] - update) / seconds
            for name, value in now[3].items():
                row[f"fps/share_{name}"] = (value - timers.get(name, 0.0)) / seconds
        with suppress(ImportError):  # not on Windows
            row["fps/ram_gb"] = peak_ram() / 1e9
        if torch.cuda.is_available():
            row["fps/gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self.before = now

    @staticmethod
    def _now(loop: LoopView) -> tuple[float, int, int, dict[str, float]]:
        return time.monotonic(), loop.clocks.env_step, loop.clocks.update, dict(loop.timers)


def peak_ram() -> int:
    """Peak resident memory of this process, in bytes; ImportError where the system does not tell."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

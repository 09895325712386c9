"""What a run will cost, said before it starts: updates, hours, memory, disk; and what a random policy scores."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from dreamer_lightning.callbacks.base import Callback, LoopView, say
from dreamer_lightning.callbacks.checkpoint import Checkpoint
from dreamer_lightning.types import PREV_ACTION

BYTES = {"uint8": 1, "bool": 1, "int32": 4, "float32": 4, "int64": 8, "float64": 8}


class Forecast(Callback):
    """Prints a forecast at the start, and the hours once they have been measured.

    Args:
        random_score: return of a random policy on this task, None if unknown.
        seconds_per_update: wall time of one update with its share of collecting, measured beforehand; None to measure
            it during the first updates.
        measure: number of updates to measure, after the first ten.
    """

    def __init__(self, random_score: float | None = None, seconds_per_update: float | None = None, measure: int = 40):
        self.random_score, self.seconds_per_update, self.measure = random_score, seconds_per_update, measure
        self.total, self.done, self.started = 0, 0, 0.0

    def on_fit_start(self, loop: LoopView) -> None:
        self.total = updates_to_come(loop)
        replay, model = replay_bytes(loop), model_bytes(loop)
        limited = loop.limits.updates or loop.limits.env_steps
        parts = [f"{self.total:,} updates to come" if limited else "as many updates as max_time lets through"]
        if self.seconds_per_update and limited:
            parts.append(f"about {_duration(self.total * self.seconds_per_update)}")
        keep = next((cb.keep + 1 for cb in loop.callbacks if isinstance(cb, Checkpoint)), 1)
        free = shutil.disk_usage(_existing(Path(loop.run_dir))).free
        need = replay + keep * model
        dreams = dream_bytes(loop)
        parts.append(
            f"RAM about {_size(replay + 2 * model + dreams)} (replay {_size(replay)} when full, dreams {_size(dreams)})"
        )
        parts.append(f"disk about {_size(need)} of {_size(free)} free" + (" - TOO LITTLE" if need > free else ""))
        say(loop, "forecast: " + ", ".join(parts))
        if self.random_score is not None:
            say(loop, f"random policy: score {self.random_score:.1f}")

    def on_train_batch_end(self, loop: LoopView) -> None:
        if self.seconds_per_update or self.done > 10 + self.measure:
            return
        self.done += 1
        if self.done == 10:
            self.started = time.monotonic()
        elif self.done == 10 + self.measure:
            seconds = (time.monotonic() - self.started) / self.measure
            left = max(0, self.total - self.done)
            end = f", about {_duration(left * seconds)} to go" if self.total else ""
            say(loop, f"forecast: {1 / seconds:.1f} updates/s{end} on this machine")


def dream_bytes(loop: LoopView) -> int:
    """Peak memory of one update's dreams.

    Numbers per dreamed state, fitted to peak resident memory at 50 and 150 steps (size1m, 256 starts): three times
    ``feat`` and eleven times the critic's bins; gradients through the dynamics keep 33 times ``deter`` more.
    """
    replay, model = loop.replay, loop.dreamer.world_model
    actor: Any = loop.dreamer.actor_critic
    rssm: Any = model.rssm
    states = actor.starts(replay.batch_size, replay.length - 1) * (actor.imag_length + 1)
    numbers = 3 * model.feat_dim + 11 * len(getattr(actor.value, "bins", ()))
    if actor.gradient.needs_gradient:
        numbers += 33 * rssm.deter_dim
    return 4 * states * numbers


def updates_to_come(loop: LoopView) -> int:
    """Gradient steps until the first limit is reached."""
    limits, clocks = loop.limits, loop.clocks
    counts = []
    if limits.updates:
        counts.append(limits.updates - clocks.update)
    if limits.env_steps:
        left = (limits.env_steps - clocks.env_step) / loop.env_factory.repeat
        if not clocks.update:
            left -= loop.ratio.learning_starts * loop.fabric.world_size
        counts.append(int(loop.ratio.updates(left)))
    return max(0, min(counts, default=0))


def record_bytes(loop: LoopView) -> int:
    """Bytes of one record in the replay: observations, action, reward, flags and the packed latent."""
    size = sum(_numel(s.shape) * BYTES.get(s.dtype, 4) for s in loop.specs.obs.values())
    size += 4 * loop.specs.action_dim + 4 + 3
    state = loop.dreamer.initial(1)
    return size + sum(value.nbytes for name, value in state.items() if name != PREV_ACTION)


def replay_bytes(loop: LoopView) -> int:
    """Bytes of the full replay, or of all the steps that this run will collect, if these are fewer."""
    steps = loop.replay.slots * loop.replay.num_streams or loop.replay.capacity  # the ring may be smaller: capacity_gb
    if loop.limits.env_steps:
        steps = min(steps, loop.limits.env_steps // loop.env_factory.repeat + 1)
    return steps * (loop.replay.bytes_per_step or record_bytes(loop))


def model_bytes(loop: LoopView) -> int:
    """Bytes of a checkpoint's weights and optimiser (two moments)."""
    return 3 * sum(p.nbytes for p in loop.dreamer.parameters()) + sum(b.nbytes for b in loop.dreamer.buffers())


def _numel(shape: Any) -> int:
    return int(torch.Size(shape).numel())


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"

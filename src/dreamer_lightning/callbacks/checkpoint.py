"""When checkpoints are written, and which are kept; ``store.checkpoint`` writes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dreamer_lightning.callbacks.base import Callback, LoopView, say, warn
from dreamer_lightning.explain import nearest
from dreamer_lightning.schedule import Every
from dreamer_lightning.store import checkpoint, runfolder
from dreamer_lightning.store.checkpoint import Kind
from dreamer_lightning.store.replay_files import ReplayFiles


class Checkpoint(Callback):
    """Saves the run every so many env steps or updates, keeps the last few and the best by evaluation.

    Args:
        every_env_steps: env steps between two checkpoints, 0 for none by env steps.
        every_updates: updates between two checkpoints, 0 for none by updates.
        keep: number of newest checkpoints to keep.
        keep_best: also keep the weights with the best evaluation (``checkpoints/best-*``).
        monitor: the evaluation metric that decides, larger is better.
        replay: save the replay too; without it a resumed run starts with an empty one.
    """

    def __init__(
        self,
        every_env_steps: int = 10_000,
        every_updates: int = 0,
        keep: int = 2,
        keep_best: bool = True,
        monitor: str = "eval/greedy_score",
        replay: bool = True,
    ):
        self.every_env_steps, self.every_updates, self.keep = every_env_steps, every_updates, max(1, keep)
        self.keep_best, self.monitor, self.replay = keep_best, monitor, replay
        self.best: float | None = None
        self.warned = False
        self.saved: tuple[int, int] = (0, 0)  # env_step and update of the last attempt
        self.files: ReplayFiles | None = None

    def on_iteration_end(self, loop: LoopView) -> None:
        if self.due(loop.clocks):
            self.save(loop)

    def on_validation_end(self, loop: LoopView, metrics: dict[str, Any]) -> None:
        if not metrics or not self.keep_best or not loop.fabric.is_global_zero:
            return
        score = metrics.get(self.monitor)
        if score is None:
            self._warn(list(metrics))
            return
        score = float(score)
        if not math.isnan(score) and (self.best is None or score > self.best):  # nothing is larger than NaN
            self.best = score
            self._write(loop, Kind(None, score=score))

    def _warn(self, names: list[str]) -> None:
        """Say once that no evaluation decides which weights are best."""
        if self.warned:
            return
        self.warned = True
        hint = nearest(self.monitor, names)
        warn(f"--checkpoint.monitor: evaluations give no '{self.monitor}'{hint}; no best checkpoint is kept")

    def on_train_end(self, loop: LoopView) -> None:
        if self.saved != (loop.clocks.env_step, loop.clocks.update) or not runfolder.checkpoints(loop.run_dir):
            self.save(loop)

    def due(self, clocks) -> bool:
        """Whether a multiple of either cadence lies between the last checkpoint and now."""
        env_step, update = self.saved
        by_env_steps, by_updates = Every(self.every_env_steps, env_step), Every(self.every_updates, update)
        return by_env_steps.due(clocks.env_step) or by_updates.due(clocks.update)

    def save(self, loop: LoopView) -> Path | None:
        """Write a checkpoint to resume from, on all ranks.

        Returns:
            Its folder (rank 0, when it was written), else None.
        """
        self.saved = (int(loop.clocks.env_step), int(loop.clocks.update))
        if self.replay and self.files is None:
            self.files = checkpoint.files_of(loop)
        return self._write(loop, Kind(self.files, self.keep))

    def _write(self, loop: LoopView, kind: Kind) -> Path | None:
        """A disk that refuses is told in one line, and training goes on."""
        try:
            folder = checkpoint.save(loop, kind)
        except (OSError, RuntimeError, ValueError) as error:
            on = "" if loop.should_stop else "; training goes on"
            warn(f"checkpoint at env step {loop.clocks.env_step} not written ({_reason(error)}){on}")
            return None
        return folder if loop.fabric.is_global_zero else None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "saved": list(self.saved)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.saved = state["best"], tuple(state["saved"])


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def restore(loop: LoopView, folder: Path) -> dict[str, Any]:
    """Put a checkpoint back into a freshly built loop, see ``store.checkpoint.restore``; returns the manifest.

    The loop's ``Checkpoint`` goes on with the replay files that are there.
    """
    files = checkpoint.files_of(loop)
    manifest, said = checkpoint.restore(loop, Path(folder), files)
    for line in said:
        say(loop, line)
    for callback in loop.callbacks:
        if isinstance(callback, Checkpoint) and callback.replay:
            callback.files = files
    return manifest

"""What commands hand back: a training run, or an outcome with an exit code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dreamer_lightning.store import metrics
from dreamer_lightning.store.runfolder import METRICS


class Outcome(NamedTuple):
    """What a command hands back to the command line: text for stdout, the exit code, and lines for stderr."""

    text: str
    code: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One run folder.

    Args:
        dir: the folder: config.yaml, metrics.csv, checkpoints/, videos/, plots/.
        text: what the command line says at the end.
    """

    dir: Path
    text: str = ""

    def __fspath__(self) -> str:
        """So that options take a run where they take its folder: ``fit(resume=run)``."""
        return str(self.dir)

    @property
    def metrics(self) -> list[metrics.Row]:
        """The rows of metrics.csv, oldest first; cells that a row does not have are None."""
        return metrics.read_rows(self.dir / METRICS)

    def series(self, name: str, x: str = "env_step") -> tuple[list[float], list[float]]:
        """One metric over time: its clock's values and its own, where it was logged."""
        return metrics.series(self.metrics, name, x)

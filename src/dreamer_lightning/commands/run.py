"""What commands hand back: a training run, or an outcome with an exit code of its own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """What a command hands back to the command line: text for stdout, the exit code, and lines for stderr."""

    text: str
    code: int = 0
    notes: tuple[str, ...] = ()


def number(text: str) -> float | str | None:
    """A cell of metrics.csv: a number, None if empty, or its text."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


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
    def metrics(self) -> list[dict[str, float | str | None]]:
        """The rows of metrics.csv, oldest first; cells that a row does not have are None."""
        path = self.dir / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [{key: number(cell) for key, cell in row.items()} for row in csv.DictReader(file)]

    def series(self, name: str, x: str = "env_step") -> tuple[list[float], list[float]]:
        """One metric over time: its clock's values and its own, where it was logged."""
        pairs = [(row.get(x), row.get(name)) for row in self.metrics]
        found = [(clock, value) for clock, value in pairs if isinstance(clock, float) and isinstance(value, float)]
        return [clock for clock, _ in found], [value for _, value in found]

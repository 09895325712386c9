"""``metrics.csv``, read: its rows, and one metric over time."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, float | str | None]


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``metrics.csv``, oldest first; an empty cell is None. No file, no rows."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _number(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def series(rows: Iterable[Row], name: str, x: str = "env_step") -> tuple[list[float], list[float]]:
    """One metric over time: the clock's values and the metric's own, from the rows that have both."""
    pairs = [(row.get(x), row.get(name)) for row in rows]
    found = [(clock, value) for clock, value in pairs if isinstance(clock, float) and isinstance(value, float)]
    return [clock for clock, _ in found], [value for _, value in found]


def _number(cell: str) -> float | str | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell

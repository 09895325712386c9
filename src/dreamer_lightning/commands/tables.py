"""Tables of the commands, as text."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from dreamer_lightning.evaluation.rollout import Episode


def score_table(title: str, kinds: dict[str, list[Episode]], repeat: int) -> Table:
    """Scores and lengths in env steps (decisions times ``repeat``), a row for each kind of episodes."""
    table = Table(title=title, title_justify="left")
    for name in ("actions", "episodes", "mean", "std", "min", "max", "env steps"):
        table.add_column(name, justify="left" if name == "actions" else "right")
    for kind, episodes in kinds.items():
        scores = np.array([episode.score for episode in episodes])
        length = np.mean([episode.length * repeat for episode in episodes])
        numbers = (scores.mean(), scores.std(), scores.min(), scores.max(), length)
        table.add_row(kind, str(len(episodes)), *(f"{number:.1f}" for number in numbers))
    return table


def metric_table(metrics: dict[str, float]) -> Table:
    """Dreams against reality: a row for each quantity, a column for each number of steps."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.startswith(("gap/", "openloop/")) and name != "gap/alarm":
            base, _, steps = name.partition("@")
            rows.setdefault(base, {})[steps] = value
    columns = sorted({steps for row in rows.values() for steps in row if steps}, key=int)
    table = Table(title="dreams against reality, by steps dreamed", title_justify="left")
    table.add_column("metric")
    columns = ([""] if any("" in row for row in rows.values()) else []) + columns
    for steps in columns:
        table.add_column(steps or "all", justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[steps]:.4g}" if steps in row else "" for steps in columns))
    return table


class Paper(io.StringIO):
    """Text that is meant for stdout: where that takes no more than ASCII, rich draws tables in ASCII."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def render(*parts: Table | str, width: int = 110) -> str:
    """Tables and lines as one text without colour."""
    out = Paper()
    console = Console(file=out, width=width, color_system=None)
    for part in parts:
        if isinstance(part, str):
            console.print(part, soft_wrap=True, highlight=False, markup=False)
        elif part.rows:
            console.print(part)
    return re.sub(r"[ ]+\n", "\n", out.getvalue()).rstrip("\n")

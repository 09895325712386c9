"""What a sweep found: a table for the eye, ``sweep.csv``, and ``sweep.png``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dreamer_lightning.commands.tables import render
from dreamer_lightning.store.metrics import read_rows, series
from dreamer_lightning.store.runfolder import METRICS

COLORS = {"COMPLETE": "#0072b2", "PRUNED": "#d55e00", "FAIL": "0.6", "RUNNING": "#009e73"}


def summary(folder: Path, trials: Sequence[Any], options: list[str], metric: str) -> str:
    """Write the table and the figure of an Optuna study's trials, the best first.

    Args:
        folder: of the sweep.
        trials: of Optuna.
        options: what varied.
        metric: what they are judged by.

    Returns:
        The table as text, and where the files are.
    """
    last = {trial.user_attrs.get("folder"): trial for trial in trials if trial.state.name != "WAITING"}
    shown = sorted(last.values(), key=lambda trial: (trial.state.name != "COMPLETE", -(value_of(trial) or 0.0)))
    head = ["trial", "state", metric, *options, "folder"]
    rows = [[trial.number, trial.state.name.lower(), value_of(trial), *cells(trial, options)] for trial in shown]
    with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    table = Table()
    for name in head:
        table.add_column(name)
    for row in rows:
        table.add_row(
            *(f"{cell:.5g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row)
        )
    figure(folder, shown, options, metric)
    lines = [f"trial {t.number} failed: {t.user_attrs['said']}" for t in shown if "said" in t.user_attrs]
    return render(table, *lines, f"table: {folder / 'sweep.csv'}, figure: {folder / 'sweep.png'}")


def value_of(trial: Any) -> float | None:
    """What a setting is worth; of one that was ended early, what it was worth then."""
    reported = trial.intermediate_values
    return trial.value if trial.value is not None else reported[max(reported)] if reported else None


def cells(trial: Any, options: list[str]) -> list[Any]:
    return [*(trial.params.get(name, "") for name in options), trial.user_attrs.get("folder", "")]


def figure(folder: Path, trials: Sequence[Any], options: list[str], metric: str) -> None:
    """Every run's curve on the left, and what each value of each option led to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5 + 2.6 * len(options), 3.6), dpi=150, layout="constrained")
    curves, *panels = drawing.subplots(1, 1 + len(options), width_ratios=[1.8] + [1] * len(options), squeeze=False)[0]
    for trial in trials:
        for run in sorted((folder / trial.user_attrs.get("folder", "")).glob(f"seed*/{METRICS}")):
            steps, values = series(read_rows(run), metric)
            curves.plot(steps, values, color=COLORS.get(trial.state.name, "0.6"), alpha=0.7, linewidth=1)
    curves.set(xlabel="env steps", ylabel=metric)
    for state in dict.fromkeys(trial.state.name for trial in trials):
        curves.plot([], [], color=COLORS.get(state, "0.6"), label=state.lower())
    if trials:
        curves.legend(frameon=False)
    for panel, name in zip(panels, options, strict=True):
        for trial in trials:
            if name in trial.params and value_of(trial) is not None:
                panel.plot([trial.params[name]], [value_of(trial)], "o", color=COLORS.get(trial.state.name, "0.6"))
        if any(getattr(trial.distributions.get(name), "log", False) for trial in trials):
            panel.set_xscale("log")
        panel.set(xlabel=name)
        panel.spines[["top", "right"]].set_visible(False)
    curves.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(drawing).print_png(str(folder / "sweep.png"))

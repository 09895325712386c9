"""Runs beside published learning curves: tables, and a figure or a CSV file."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.commands.tables import render
from dreamer_lightning.store.atomic import write_atomic
from dreamer_lightning.types import UserError
from dreamer_lightning.workshop.results.comparison import MILESTONES, SHARES, overall, records
from dreamer_lightning.workshop.results.figure import comparison_figure
from dreamer_lightning.workshop.results.methods import Method, tasks_of
from dreamer_lightning.workshop.results.published import WINDOWS, published
from dreamer_lightning.workshop.results.runs import load, rows_of

HEADS = {step: f"{step // 1000}K" for step in MILESTONES}
SETTING = {
    "repeat": "repeat",
    "train_ratio": "ratio",
    "size": "size",
    "num_envs": "envs",
    "version": "version",
    "scored": "scores from",
}


def compare(
    runs: list[str] | None = None,
    benchmark: Literal["auto", "dmc_proprio", "dmc_vision", "atari100k", "none"] = "auto",
    scores: Literal["training", "greedy", "both"] = "training",
    out: str | None = None,
) -> Outcome:
    """Show runs beside published learning curves: scores, env steps to a score, wall-clock, and every setting.

    Args:
        runs: run folders, folders of runs (DIR/seed0, DIR/seed1, ...) or CSV files with the columns env_steps, score,
            task and seed; LABEL=PATH names one. Seeds of one label and task are one row.
        benchmark: published curves to show; auto: those of the runs' environments; none: no curves.
        scores: from training episodes of the sampled policy, as published; from greedy evaluations; or both.
        out: .png for a figure, .csv for the table with all its numbers.

    Returns:
        The tables, and what was written.

    Raises:
        UserError: nothing to compare, or runs of several benchmarks.
    """
    if not runs:
        raise UserError("compare needs run folders: compare RUN [RUN ...] [--benchmark dmc_proprio] [--out curves.png]")
    if out and Path(out).suffix not in (".png", ".csv"):
        raise UserError(f"--out: '{out}' ends in neither .png (the figure) nor .csv (the table)")
    series = load(runs)
    chosen = which(benchmark, {one.benchmark for one in series} - {"none"})
    window = WINDOWS[chosen]
    ours = rows_of(series, chosen, scores)
    if not ours:
        raise UserError(f"no scores yet in {', '.join(runs)}; --scores {scores} found no finished episode")
    theirs = published(chosen, set(tasks_of(ours)))
    rows = sorted(ours + theirs, key=lambda row: tasks_of(ours).index(row.task))
    table = records(rows, window)
    alike = of_one_scale(rows, chosen, {one.task for one in series if one.benchmark == chosen} | set(tasks_of(theirs)))
    text = render(
        score_table(table, chosen, window.least, alone=not theirs),
        *short_runs(rows, table),
        overall_table(overall(alike, window), len(tasks_of(alike))),
        *([threshold_table(table)] if theirs else []),
        setting_table(table),
        width=130,
    )
    if not out:
        return Outcome(text)
    if out.endswith(".png"):
        comparison_figure(rows, window, Path(out).expanduser())
    else:
        path = Path(out).expanduser().absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, as_csv(table))
    return Outcome(f"{text}\nwrote {out}")


def which(benchmark: str, found: set[str]) -> str:
    """The published curves to show.

    Raises:
        UserError: the runs belong to several benchmarks and none was chosen.
    """
    if benchmark != "auto":
        return benchmark
    if len(found) > 1:
        raise UserError(f"the runs belong to {' and '.join(sorted(found))}: compare them apart, or give --benchmark")
    return found.pop() if found else "none"


def of_one_scale(rows: list[Method], benchmark: str, tasks: set[str]) -> list[Method]:
    """The rows that may be averaged: all of a single task, or those of DMC's ``tasks``, whose returns are alike."""
    if len(tasks_of(rows)) == 1:
        return rows
    return [row for row in rows if row.task in tasks] if benchmark.startswith("dmc") else []


def short_runs(rows: list[Method], table: list[dict[str, Any]]) -> list[str]:
    """A line for each of our rows that has no score at any of the steps."""
    lines = []
    for row, record in zip(rows, table, strict=True):
        if row.ours and all(_unknown(record[f"score@{step}"]) for step in MILESTONES):
            steps = np.concatenate([one.steps for one in row.episodes])
            last = steps.max()
            episodes = f"{len(steps)} episode{'s' if len(steps) > 1 else ''}, the last at env step {last:,.0f}"
            early = f"; not yet at {HEADS[MILESTONES[0]]} env steps" if last < MILESTONES[0] else ""
            lines.append(f"{row.label} on {row.task}: {episodes}{early}")
    return lines


def score_table(table: list[dict[str, Any]], benchmark: str, window: int, alone: bool) -> Table:
    """Scores by env steps, a row for each method on each task; ``alone``, also what else there is to say."""
    title = f"mean score over seeds, of the last {window // 1000}K env steps before"
    out = Table(title=title + (f" ({benchmark})" if benchmark != "none" else ""), title_justify="left")
    steps = _known(table, "score")
    rest = ["last 10 episodes", "mean score so far", "hours"] if alone else []
    _columns(out, "task", "method", "seeds", right=[*(HEADS[step] for step in steps), *rest])
    for record in table:
        cells = [number(record[f"score@{step}"], 1) + fewer(record, step) for step in steps]
        cells += [number(record["last_10"], 1), _so_far(record), number(record["hours"], 2)] if alone else []
        out.add_row(record["task"], record["method"], record["seeds"], *cells)
    return out


def fewer(record: dict[str, Any], step: int) -> str:
    """How many seeds have come so far, where it is not all of them."""
    count = record[f"n@{step}"]
    return f" (n={count})" if 0 < count < record["n"] else ""


def overall_table(table: list[dict[str, Any]], tasks: int) -> Table:
    """Means and interquartile means with intervals, two rows for each method."""
    over = f"over all seeds of {tasks} task{'s' if tasks > 1 else ''}"
    title = f"interquartile mean (IQM) and mean {over} [95% stratified bootstrap, from two seeds a task]"
    out = Table(title=title, title_justify="left")
    steps = _known(table, "iqm")
    _columns(out, "method", "", right=[HEADS[step] for step in steps])
    for record in table:
        for name, head in (("iqm", "IQM"), ("mean", "mean")):
            values = [tuple(record[f"{name}{part}@{step}"] for part in ("", "_low", "_high")) for step in steps]
            if not all(_unknown(value[0]) for value in values):
                out.add_row(record["method"], head, *(_with_interval(*value) for value in values))
    return out


def threshold_table(table: list[dict[str, Any]]) -> Table:
    """Env steps and episodes to shares of the reference's final score, the mean score so far, and wall-clock."""
    out = Table(title="env steps (episodes) to a share of DreamerV3's published final score", title_justify="left")
    _columns(
        out,
        "task",
        "method",
        right=[*(f"{share}%" for share in SHARES), f"{SHARES[0]}%: x first row", "mean score so far", "hours"],
    )
    for record in table:
        cells = [_steps(record, share) for share in SHARES]
        sign = ">" if record["times_at_least"] else "<=" if record[f"first_point_to_{SHARES[0]}%"] else ""
        times = "" if _unknown(record["times_first"]) else f"{sign}{record['times_first']:.1f}"
        out.add_row(record["task"], record["method"], *cells, times, _so_far(record), number(record["hours"], 2))
    return out


def setting_table(table: list[dict[str, Any]]) -> Table:
    """What each score was reached with; a method whose tasks agree is one row."""
    out = Table(title="settings (empty: not stated with the scores)", title_justify="left")
    _columns(out, "method", "seeds", *SETTING.values(), right=())
    seen = set()
    for record in table:
        row = (record["method"], record["seeds"], *(record[name] for name in SETTING))
        if row not in seen:
            out.add_row(*row)
        seen.add(row)
    return out


def as_csv(table: list[dict[str, Any]]) -> str:
    """The whole table; cells that are not known are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, table[0].keys(), lineterminator="\n")
    writer.writeheader()
    for record in table:
        writer.writerow({name: "" if _unknown(value) else value for name, value in record.items()})
    return out.getvalue()


def number(value: float, digits: int) -> str:
    return "" if _unknown(value) else f"{value:.{digits}f}"


def _unknown(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _known(table: list[dict[str, Any]], name: str) -> list[int]:
    """The milestones at which any row has a value."""
    return [step for step in MILESTONES if any(not _unknown(record[f"{name}@{step}"]) for record in table)]


def _steps(record: dict[str, Any], share: int) -> str:
    steps, episodes = record[f"steps_to_{share}%"], record[f"episodes_to_{share}%"]
    if _unknown(steps):
        return ""
    sign = "<=" if record[f"first_point_to_{share}%"] else ""
    return f"{sign}{steps / 1000:g}K" + ("" if _unknown(episodes) else f" ({episodes:.0f})")


def _so_far(record: dict[str, Any]) -> str:
    until = f" at {record['mean_score_until'] / 1000:g}K"
    return "" if _unknown(record["mean_score"]) else number(record["mean_score"], 1) + until


def _with_interval(value: float, low: float, high: float) -> str:
    return number(value, 0) + ("" if _unknown(low) else f" [{low:.0f}-{high:.0f}]")


def _columns(table: Table, *left: str, right: Any) -> None:
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)

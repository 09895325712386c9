"""What a comparison prints: a record for each row, and for each method over all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamer_lightning.workshop.results.curves import Window, final_score, mean_score, score_at, steps_to
from dreamer_lightning.workshop.results.methods import Method, tasks_of
from dreamer_lightning.workshop.results.published import REFERENCE
from dreamer_lightning.workshop.results.statistics import interval, iqm, mean

MILESTONES = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
SHARES = (50, 75, 90)  # percent of the reference's final score
NAN = float("nan")


def scores_at(row: Method, step: float, window: Window) -> np.ndarray:
    """The score of every seed that reached a step, [seeds]."""
    scores = np.array([score_at(curve, step, window) for curve in row.curves if len(curve.steps)])
    return scores[np.isfinite(scores)]


def common_horizon(rows: Sequence[Method], task: str, width: int) -> float:
    """The last bin that every run of ours on a task finished."""
    mine = [curve for row in rows if row.ours and row.task == task for curve in row.curves]
    return float(min((curve.steps[-1] if len(curve.steps) else 0.0 for curve in mine), default=0.0) // width * width)


def records(rows: Sequence[Method], window: Window) -> list[dict[str, Any]]:
    """One dict a row, numbers as floats (nan: not known, or not reached); the columns of the CSV table."""
    horizons = {task: common_horizon(rows, task, window.bin) for task in tasks_of(rows)}
    finals = {row.task: final_score(row.curves, window) for row in rows if row.label == REFERENCE and not row.ours}
    table = []
    for row in rows:
        record: dict[str, Any] = {"task": row.task, "method": row.label, "seeds": row.seeds, "n": len(row.curves)}
        for step in MILESTONES:
            scores = scores_at(row, step, window)
            whole = len(scores) == len(row.curves)
            record[f"score@{step}"] = float(scores.mean()) if len(scores) else NAN
            record[f"n@{step}"] = len(scores)
            low, high = interval([scores], iqm) if whole and len(scores) else (NAN, NAN)
            record[f"iqm@{step}"] = float(iqm(scores)) if len(scores) and not _unseeded(row) else NAN
            record[f"iqm_low@{step}"], record[f"iqm_high@{step}"] = low, high
        record["last_10"] = float(np.mean(row.recent)) if row.recent else NAN
        horizon = horizons[row.task]
        record["mean_score"], record["mean_score_until"] = _area(row, horizon, window.bin), horizon
        for share in SHARES:
            final = finals.get(row.task, NAN)
            target = final * share / 100 if final > 0 else NAN  # of a negative score, less would be more
            steps = steps_to(row.curves, target) if np.isfinite(target) and not _unseeded(row) else NAN
            late = bool(steps > window.bin) and all(steps <= curve.steps[0] for curve in row.curves)
            record[f"first_point_to_{share}%"] = late  # it was there when its curve begins
            record[f"steps_to_{share}%"], record[f"episodes_to_{share}%"] = steps, row.episodes_until(steps)
        record["hours"] = float(np.mean(row.seconds)) / 3600 if any(row.seconds) else NAN
        table.append({**record, **row.setting._asdict()})
    for record, row in zip(table, rows, strict=True):
        first = next(other for other in table if other["task"] == row.task)
        record["times_first"], record["times_at_least"] = _times(record, row, first[f"steps_to_{SHARES[0]}%"])
    return table


def _times(record: dict[str, Any], row: Method, first: float) -> tuple[float, bool]:
    """Env steps to the first share, as a multiple of those of the task's first row.

    Returns:
        The multiple, and whether it is a lower bound: the curve ends without having reached it.
    """
    steps = record[f"steps_to_{SHARES[0]}%"]
    if np.isfinite(steps) or _unseeded(row):
        return steps / first, False
    last = max((float(curve.steps[-1]) for curve in row.curves if len(curve.steps)), default=NAN)
    return (last / first, True) if last > first else (NAN, False)


def _area(row: Method, horizon: float, width: int) -> float:
    areas = [mean_score(curve, horizon, width) for curve in row.curves]
    return float(np.mean(areas)) if horizon and np.isfinite(areas).all() else NAN


def _unseeded(row: Method) -> bool:
    """Whether only a mean at a few points is known."""
    return any(curve.std is not None for curve in row.curves)


def overall(rows: Sequence[Method], window: Window) -> list[dict[str, Any]]:
    """Mean and interquartile mean over all tasks and seeds, with stratified bootstrap intervals, for each method.

    A method is counted at a step only if all its seeds on all tasks of ours have reached it.
    """
    tasks = tasks_of([row for row in rows if row.ours])
    table = []
    for label in dict.fromkeys(row.label for row in rows):
        mine = {row.task: row for row in rows if row.label == label}
        record: dict[str, Any] = {"method": label}
        for step in MILESTONES:
            strata = [scores_at(mine[task], step, window) for task in tasks if task in mine]
            complete = len(strata) == len(tasks) and all(
                len(scores) == len(mine[task].curves) for task, scores in zip(tasks, strata, strict=False)
            )
            for name, statistic in (("mean", _task_mean(strata)), ("iqm", iqm)):
                known = complete and not (name == "iqm" and any(_unseeded(mine[task]) for task in tasks))
                value = float(statistic(np.concatenate(strata))) if known else NAN
                low, high = interval(strata, statistic) if complete else (NAN, NAN)
                record[f"{name}@{step}"] = value
                record[f"{name}_low@{step}"], record[f"{name}_high@{step}"] = low, high
        if any(np.isfinite(value) for name, value in record.items() if name != "method"):
            table.append(record)
    return table


def _task_mean(strata: list[np.ndarray]):
    """The mean over tasks of the means over seeds, of concatenated scores [..., seeds of all tasks]."""
    ends = np.cumsum([len(scores) for scores in strata])[:-1]

    def statistic(values: np.ndarray) -> np.ndarray:
        return np.stack([mean(part) for part in np.split(values, ends, -1)], -1).mean(-1)

    return statistic

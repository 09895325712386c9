"""Learning curves: episodes into bins, the score at a step, the step of a score, the mean score up to a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class LearningCurve:
    """Scores [n] over env steps [n], of one seed or of a mean whose seeds are unknown; ``std`` [n] belongs to a mean.

    A step is the end of the bin whose episodes were averaged. ``last``: env steps that a run has played, if known.
    """

    steps: np.ndarray
    scores: np.ndarray
    std: np.ndarray | None = None
    last: float | None = None


@dataclass(frozen=True)
class Window:
    """How scores are averaged: bins of ``bin`` env steps, then the bins of the last ``least`` steps (or 5% of all)."""

    bin: int
    least: int

    def length(self, step: float) -> float:
        return max(self.least, 0.05 * step)


def binned(steps: np.ndarray, scores: np.ndarray, width: int, last: float) -> LearningCurve:
    """Means of the episodes that end in each bin (k - 1) width < step <= k width; bins past ``last`` are left out.

    Args:
        steps: env step at which each episode ended.
        scores: their returns.
        width: env steps of a bin.
        last: env steps that the run has played; a bin that it did not finish says nothing yet.
    """
    ends = np.ceil(steps / width).astype(int) * width
    found = [end for end in np.unique(ends) if end <= last]
    return LearningCurve(np.array(found, float), np.array([scores[ends == end].mean() for end in found]), last=last)


def trailing(steps: np.ndarray, scores: np.ndarray, window: float, at: np.ndarray) -> np.ndarray:
    """Mean score of the episodes that end in (s - window, s] for each s of ``at``; nan where there is none."""
    values = np.full(len(at), np.nan)
    for i, step in enumerate(at):
        inside = (steps > step - window) & (steps <= step)
        if inside.any():
            values[i] = scores[inside].mean()
    return values


def score_at(curve: LearningCurve, step: float, window: Window) -> float:
    """Mean of the bins in (step - window, step]; nan if the curve has none or its run has not come so far.

    A mean's own points count exactly.
    """
    if curve.last is not None and curve.last < step:
        return float("nan")
    if curve.std is not None:
        here = curve.steps == step
        return float(curve.scores[here][0]) if here.any() else float("nan")
    inside = (curve.steps > step - window.length(step)) & (curve.steps <= step)
    return float(curve.scores[inside].mean()) if inside.any() else float("nan")


def final_score(curves: Sequence[LearningCurve], window: Window) -> float:
    """Mean over seeds of the score at the end of each."""
    return float(np.mean([score_at(curve, curve.steps[-1], window) for curve in curves]))


def mean_curve(curves: Sequence[LearningCurve]) -> LearningCurve:
    """Mean and standard deviation (ddof 1) over seeds, at bins that half of them have, until the first seed ends."""
    if len(curves) == 1:
        (only,) = curves
        return only if only.std is not None else replace(only, std=np.zeros(len(only.steps)), last=None)
    by_step: dict[float, list[float]] = {}
    for curve in curves:
        for step, score in zip(curve.steps, curve.scores, strict=True):
            by_step.setdefault(float(step), []).append(float(score))
    end = min(curve.steps[-1] if len(curve.steps) else 0.0 for curve in curves)  # else it jumps where a seed leaves it
    steps = sorted(step for step, values in by_step.items() if 2 * len(values) >= len(curves) and step <= end)
    spread = [np.std(by_step[step], ddof=1) if len(by_step[step]) > 1 else 0.0 for step in steps]
    return LearningCurve(np.array(steps), np.array([np.mean(by_step[step]) for step in steps]), np.array(spread))


def steps_to(curves: Sequence[LearningCurve], target: float) -> float:
    """The first bin where the mean over seeds reaches the target and the next bin holds it; nan if none does."""
    mean = mean_curve(curves)
    above = mean.scores >= target
    for i in range(len(above)):
        if above[i : i + 2].all():
            return float(mean.steps[i])
    return float("nan")


def mean_score(curve: LearningCurve, horizon: float, width: int) -> float:
    """Area under the curve up to ``horizon`` env steps, divided by it: the mean over the bins.

    Missing bins are interpolated, a missing first one counts as the second. Nan if the curve begins later or ends
    earlier, or is a mean with points far apart.
    """
    if not len(curve.steps) or curve.std is not None or curve.steps[0] > 2 * width or curve.steps[-1] < horizon:
        return float("nan")
    grid = np.arange(width, horizon + 1, width)
    return float(np.interp(grid, curve.steps, curve.scores).mean()) if len(grid) else float("nan")

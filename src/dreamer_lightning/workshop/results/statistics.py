"""Statistics over few seeds: the interquartile mean, and intervals by a bootstrap within each task.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: the mean of what is left when floor(n/4) values are cut at each end."""
    values = np.sort(values, -1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(-1)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return values.mean(-1)


def interval(
    strata: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    level: float = 0.95,
    samples: int = 5000,
    seed: int = 0,
) -> tuple[float, float]:
    """Stratified percentile bootstrap: seeds are drawn with replacement within each task, never across tasks.

    Args:
        strata: the scores of the seeds, one array a task.
        statistic: of all drawn scores, over the last axis.
        level: share of the bootstrap between the two ends.
        samples: bootstrap draws.
        seed: of the draws.

    Returns:
        Lower and upper end; nan where a task has a single seed, which says nothing about others.
    """
    if any(len(scores) < 2 for scores in strata):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    drawn = [scores[generator.integers(len(scores), size=(samples, len(scores)))] for scores in strata]
    values = statistic(np.concatenate(drawn, -1))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)

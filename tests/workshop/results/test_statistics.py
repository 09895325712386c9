"""The interquartile mean and the bootstrap, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dreamer_lightning.workshop.results.statistics import interval, iqm, mean


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7], 7), ([1, 2, 9], 4), ([100, 0, 1, 3], 2), ([8, 7, 6, 5, 4, 3, 2, 1], 4.5), (list(range(11)), 5)],
)
def test_interquartile_mean(values, expected: float):
    assert iqm(np.array(values, float)) == expected


def test_bootstrap_of_two_seeds():
    """Two draws of {0, 10} have the mean 0 in a quarter of the cases, 5 in half of them, 10 in a quarter."""
    scores = [np.array([0.0, 10.0])]
    assert interval(scores, mean, level=0.4) == (5, 5)
    assert interval(scores, mean, level=0.6) == (0, 10)


def test_bootstrap_draws_within_each_task():
    tasks = [np.array([1.0, 1.0]), np.array([9.0, 9.0, 9.0])]
    assert interval(tasks, mean) == (29 / 5, 29 / 5)
    pooled = interval([np.concatenate(tasks)], mean)
    assert pooled[0] < 29 / 5 < pooled[1]


def test_bootstrap_needs_two_seeds():
    assert np.isnan(interval([np.array([1.0, 2.0]), np.array([3.0])])).all()

"""Bins, windows, thresholds and areas of learning curves, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dreamer_lightning.workshop.results.curves import (
    LearningCurve,
    Window,
    binned,
    final_score,
    mean_curve,
    mean_score,
    score_at,
    steps_to,
    trailing,
)

WINDOW = Window(10_000, 10_000)


def curve(*scores: float, first: int = 10_000) -> LearningCurve:
    return LearningCurve(first + 10_000 * np.arange(len(scores), dtype=float), np.array(scores, float))


def test_bins_end_where_they_say():
    steps = np.array([4000.0, 10_000, 10_002, 20_000, 24_000])
    bins = binned(steps, np.array([1.0, 3, 5, 7, 9]), 10_000, last=24_000)
    assert bins.steps.tolist() == [10_000, 20_000], "the third bin is not finished"
    assert bins.scores.tolist() == [2, 6]


def test_trailing_means():
    steps, scores = np.array([10.0, 20, 30]), np.array([1.0, 2, 6])
    found = trailing(steps, scores, 20, np.array([5.0, 20, 30, 60]))
    assert np.allclose(found, [np.nan, 1.5, 4, np.nan], equal_nan=True)


def test_score_at_a_step():
    scores = curve(*range(1, 51))
    assert score_at(scores, 20_000, WINDOW) == 2
    assert score_at(scores, 500_000, WINDOW) == 49, "5% of the step: the last two and a half bins"
    assert np.isnan(score_at(curve(1, 2), 50_000, WINDOW))
    stopped = replace(scores, last=480_000)
    assert score_at(stopped, 200_000, WINDOW) == score_at(scores, 200_000, WINDOW)
    assert np.isnan(score_at(stopped, 500_000, WINDOW)), "a run that did not come so far"
    known = LearningCurve(np.array([0.0, 100_000]), np.array([3.0, 9]), np.array([1.0, 1]))
    assert score_at(known, 100_000, WINDOW) == 9
    assert np.isnan(score_at(known, 50_000, WINDOW))


def test_steps_to_a_score_must_hold_for_a_bin():
    seeds = [curve(0, 6, 2, 6, 8), curve(0, 6, 2, 6, 8)]
    assert steps_to(seeds, 5) == 40_000
    assert steps_to(seeds, 8) == 50_000, "the last bin has no next one"
    assert np.isnan(steps_to(seeds, 9))


def test_mean_over_seeds():
    assert mean_curve([curve(1, 3), curve(3, 7, 100), curve(2)]).steps.tolist() == [10_000], "until the first seed ends"
    both = mean_curve([curve(1, 3), curve(3, 7)])
    assert both.steps.tolist() == [10_000, 20_000]
    assert both.scores.tolist() == [2, 5]
    assert both.std is not None
    assert np.allclose(both.std, [np.sqrt(2), np.sqrt(8)])
    assert final_score([curve(1, 3), curve(3, 7)], WINDOW) == 5


def test_area_under_a_curve():
    assert mean_score(curve(2, 4, 6), 20_000, 10_000) == 3
    assert mean_score(LearningCurve(np.array([10_000.0, 30_000]), np.array([2.0, 6])), 30_000, 10_000) == 4
    assert np.isnan(mean_score(curve(2, 4), 30_000, 10_000))
    assert np.isnan(mean_score(curve(2, 4, first=40_000), 20_000, 10_000)), "it says nothing about the start"

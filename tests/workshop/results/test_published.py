"""Milestones and thresholds of the reference tables, computed from the shipped curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dreamer_lightning.workshop.results.curves import (
    Window,
    final_score,
    score_at,
    steps_to,
)
from dreamer_lightning.workshop.results.methods import Method
from dreamer_lightning.workshop.results.published import WINDOWS, published

ROOT = Path(__file__).resolve().parents[3]
WINDOW = Window(10_000, 10_000)


def row_of(method: str, task: str, benchmark: str = "dmc_proprio") -> Method:
    (found,) = [row for row in published(benchmark, {task}) if row.label == method]
    return found


@pytest.mark.parametrize(("step", "expected"), [(100_000, 475.2), (500_000, 925.4)])
def test_published_scores(step: int, expected: float):
    row = row_of("dreamerv3", "walker_walk")
    assert len(row.curves) == 5
    scores = [score_at(seed, step, WINDOW) for seed in row.curves]
    assert np.mean(scores) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("task", "method", "benchmark", "expected"),
    [  # thresholds_dmc_proprio.csv and thresholds_dmc_vision.csv of the collection that the curves come from
        ("acrobot_swingup", "dreamerv3", "dmc_proprio", (80, 280, 380)),
        ("cartpole_swingup", "dreamerv3", "dmc_proprio", (90, 140, 190)),
        ("acrobot_swingup", "d4pg", "dmc_proprio", (140, 370, 430)),
        ("ball_in_cup_catch", "drqv2", "dmc_vision", (200, 340, 560)),
    ],
)
def test_published_thresholds(task, method, benchmark, expected):
    final = final_score(row_of("dreamerv3", task, benchmark).curves, WINDOWS[benchmark])
    curves = row_of(method, task, benchmark).curves
    assert tuple(steps_to(curves, share * final) / 1000 for share in (0.5, 0.75, 0.9)) == expected


SIX = ("reacher_easy", "ball_in_cup_catch", "walker_stand", "cartpole_balance", "reacher_hard", "pendulum_swingup")


@pytest.mark.parametrize(
    ("method", "expected"), [("dreamerv3", 771), ("tdmpc2", 839), ("sac", 516), ("d4pg", 585), ("ppo_fixhp", 113)]
)
def test_mean_of_six_tasks_at_100k(method: str, expected: int):
    """The numbers that this project wants to beat."""
    scores = [[score_at(seed, 100_000, WINDOW) for seed in row_of(method, task).curves] for task in SIX]
    assert np.mean([np.mean(seeds) for seeds in scores]) == pytest.approx(expected, abs=0.6)


def test_what_is_shipped():
    methods = {row.label for row in published("dmc_proprio", {"reacher_easy"})}
    assert methods == {"dreamerv3", "d4pg", "dmpo", "ppo_fixhp", "sac", "tdmpc2"}
    assert {row.label for row in published("atari100k", {"pong"})} == {"dreamerv3", "ppo_fixhp"}
    assert row_of("tdmpc2", "ball_in_cup_catch").curves[0].scores[1] == pytest.approx(981.2, abs=0.05)
    notices = (ROOT / "THIRD_PARTY.md").read_text()
    assert all(
        line in notices for line in ("Danijar Hafner", "Nicklas Hansen", "danijar/dreamerv3", "WITHOUT WARRANTY")
    )

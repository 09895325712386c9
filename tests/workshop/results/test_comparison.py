"""The records of a comparison, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dreamer_lightning.workshop.results.comparison import overall, records
from dreamer_lightning.workshop.results.curves import (
    LearningCurve,
    Window,
)
from dreamer_lightning.workshop.results.methods import Method, Scores, Setting

WINDOW = Window(10_000, 10_000)
SETTING = Setting("2", "512", "1m", "4", "V3", "training, sampled")


def curve(*scores: float, first: int = 10_000) -> LearningCurve:
    return LearningCurve(first + 10_000 * np.arange(len(scores), dtype=float), np.array(scores, float))


def test_shares_of_a_negative_score_are_not_asked_for():
    reference = Method("dreamerv3", "pong", [curve(-20, -4)], SETTING)
    ours = Method("a", "pong", [curve(-20, -3)], SETTING, episodes=[Scores(*np.ones((2, 1)))], ours=True)
    assert all(np.isnan(record["steps_to_50%"]) for record in records([ours, reference], WINDOW))


def test_over_tasks_every_seed_counts():
    def row(label, task, *scores):
        return Method(label, task, [curve(score) for score in scores], SETTING, ours=label == "a")

    rows = [row("a", "x", 1, 3), row("a", "y", 10, 10, 10, 10), row("b", "x", 7)]
    found = {record["method"]: record for record in overall(rows, WINDOW)}
    assert found["a"]["mean@10000"] == 6, "tasks weigh alike"
    assert found["a"]["iqm@10000"] == pytest.approx((3 + 10 + 10 + 10) / 4)
    assert (found["a"]["mean_low@10000"], found["a"]["mean_high@10000"]) == (5.5, 6.5)
    assert "b" not in found, "it lacks a task"


def test_how_many_times_fewer_steps():
    reference = Method("dreamerv3", "x", [curve(5, 10, 10, 10)], SETTING)
    ours = Method("a", "x", [curve(6, 9)], SETTING, episodes=[Scores(np.array([1.0]), np.array([1.0]))], ours=True)
    slow, never = Method("slow", "x", [curve(1, 2, 6)], SETTING), Method("never", "x", [curve(1, 1, 1, 1)], SETTING)
    found = {record["method"]: record for record in records([ours, reference, slow, never], WINDOW)}
    times = {name: (record["times_first"], record["times_at_least"]) for name, record in found.items()}
    assert times == {"a": (1, False), "dreamerv3": (1, False), "slow": (3, False), "never": (4, True)}


def test_a_threshold_at_the_first_point_is_a_bound():
    reference = Method("dreamerv3", "x", [curve(5, 10)], SETTING)
    late = Method("late", "x", [curve(9, 9, first=40_000)], SETTING)
    ours = Method("a", "x", [curve(1, 9)], SETTING, episodes=[Scores(np.array([1.0]), np.array([1.0]))], ours=True)
    found = {record["method"]: record for record in records([ours, reference, late], WINDOW)}
    assert found["late"]["steps_to_50%"] == 40_000
    assert found["late"]["first_point_to_50%"]
    assert not found["a"]["first_point_to_50%"]

"""Published learning curves, as they come with the package (sources and licences: THIRD_PARTY.md)."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dreamer_lightning.workshop.results.curves import LearningCurve, Window
from dreamer_lightning.workshop.results.methods import Method, Setting

DATA = Path(__file__).parent / "data"
WINDOWS = {
    "dmc_proprio": Window(10_000, 10_000),
    "dmc_vision": Window(20_000, 20_000),
    "atari100k": Window(20_000, 40_000),
    "none": Window(1000, 10_000),
}
METHODS = {"d4pg", "dmpo", "dreamerv3", "drqv2", "ppo_fixhp", "sac", "tdmpc2"}
REFERENCE = "dreamerv3"  # whose final score is what others reach 50, 75 and 90% of
TRAINING, EVALUATION = "training, sampled", "evaluation, greedy"
SETTINGS = {  # what is known of each; None: not stated with the scores
    ("dmc_proprio", "dreamerv3"): Setting("2", "512", "S", "", "V3-2023 dynamics", TRAINING),
    ("dmc_vision", "dreamerv3"): Setting("2", "", "", "", "V3", TRAINING),
    ("atari100k", "dreamerv3"): Setting("4", "", "", "", "V3", TRAINING),
    ("dmc_proprio", "tdmpc2"): Setting("2", "", "", "", "", "evaluation, 10 episodes"),
    ("dmc_proprio", "sac"): Setting("2", "", "", "", "by the authors of TD-MPC2", "evaluation"),
    ("dmc_proprio", "ppo_fixhp"): Setting("2", "", "", "", "one setting for all suites", ""),
}


def published(benchmark: str, tasks: set[str]) -> list[Method]:
    """The published rows of some tasks, the reference first.

    Args:
        benchmark: a key of ``WINDOWS``; ``none`` has no rows.
        tasks: names without the suite, such as walker_walk.
    """
    rows: dict[tuple[str, str], list[tuple[LearningCurve, int]]] = {}
    for method, task, curve, count in _records(benchmark):
        if task in tasks:
            rows.setdefault((task, method), []).append((curve, count))
    found = []
    for (task, method), members in rows.items():
        seeds = sum(count for _, count in members)
        repeat = "4" if benchmark == "atari100k" else "2"
        setting = SETTINGS.get((benchmark, method), Setting(repeat, "", "", "", "", ""))
        curves = [curve for curve, _ in members]
        found.append(Method(method, task, curves, setting, f"n={seeds}", episode_length=_length(benchmark)))
    return sorted(found, key=lambda row: (row.task, row.label != REFERENCE, row.label))


def _length(benchmark: str) -> float | None:
    """Env steps of every episode, where all are alike."""
    return 1000.0 if benchmark.startswith("dmc") else None


def _records(benchmark: str) -> Iterator[tuple[str, str, LearningCurve, int]]:
    """(method, task, curve, number of seeds) of every row of a data file."""
    path = DATA / f"{benchmark}.csv.gz"
    if not path.is_file():
        return
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = np.array([pair.split(":") for pair in row["scores"].split()], float).T
            curve = LearningCurve(*values[: 2 if row["seed"] else 3])
            yield row["method"], row["task"], curve, 1 if row["seed"] else int(values[3].max())

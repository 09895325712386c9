"""What a comparison compares: what one method reached on one task, and the setting that it was reached in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dreamer_lightning.workshop.results.curves import LearningCurve


class Setting(NamedTuple):
    """What a score was reached with, as text; empty where nobody says."""

    repeat: str
    train_ratio: str
    size: str
    num_envs: str
    version: str
    scored: str

    def text(self) -> str:
        """One line for a legend."""
        known = (
            self.version,
            self.repeat and f"repeat {self.repeat}",
            self.train_ratio and f"ratio {self.train_ratio}",
            self.size and f"size {self.size}",
            self.num_envs and f"{self.num_envs} env{'s' if self.num_envs != '1' else ''}",
            self.scored,
        )
        return ", ".join(part for part in known if part)

    def merged(self, other: Setting) -> Setting:
        """Both settings, entries that differ as ``a/b``."""
        parts = [a if b in a.split("/") else f"{a}/{b}" for a, b in zip(self, other, strict=True)]
        return Setting(*parts)


class Scores(NamedTuple):
    """Env steps at which episodes ended, and their returns."""

    steps: np.ndarray
    scores: np.ndarray


@dataclass
class Method:
    """One method on one task.

    Args:
        label: the method.
        task: the task.
        curves: one a seed (or one mean with its standard deviation).
        setting: what it was reached with.
        seeds: which ones, or how many.
        episodes: all episodes of each seed, for runs of ours.
        recent: mean of the last ten scores of each run of ours.
        seconds: wall-clock of each run of ours.
        episode_length: env steps of every episode, None where they differ.
        ours: a run, not a publication.
    """

    label: str
    task: str
    curves: list[LearningCurve]
    setting: Setting
    seeds: str = ""
    episodes: list[Scores] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    episode_length: float | None = None
    ours: bool = False

    def episodes_until(self, step: float) -> float:
        """Episodes finished by an env step, mean over the seeds; nan where that is not known."""
        if not np.isfinite(step):
            return float("nan")
        if self.episodes:
            return float(np.mean([(one.steps <= step).sum() for one in self.episodes]))
        return step / self.episode_length if self.episode_length else float("nan")


def tasks_of(rows: Sequence[Method]) -> list[str]:
    """The tasks of some rows, in the order in which they appear."""
    return list(dict.fromkeys(row.task for row in rows))

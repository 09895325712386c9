"""The clocks of a run, where it ends, and how often things happen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clocks:
    """The three clocks, and wall-clock seconds over all sessions of the run. They count over all ranks."""

    env_step: int = 0
    agent_step: int = 0
    update: int = 0
    seconds: float = 0.0


@dataclass
class Limits:
    """Where a run ends: env steps, updates, seconds; None is no limit."""

    env_steps: int | None = None
    updates: int | None = None
    max_time: float | None = None


@dataclass
class Schedule:
    """How much is trained for what is played, and how often the rest happens.

    Args:
        train_ratio: replayed steps for each agent step, both over all ranks.
        batch_steps: trained steps in a batch over all ranks, ``batch_size * batch_length``.
        learning_starts: windows in each rank's replay before the first update.
        prefill: agent steps, over all ranks, that a random policy plays first; no update is made before.
        pretrain: updates made at once when learning begins.
        burst: updates made at once after that, as soon as so many are owed.
        log_every: env steps between two rows.
        evaluate_every: env steps between two evaluations, 0 for none.
    """

    train_ratio: float = 512.0
    batch_steps: int = 1024
    learning_starts: int = 1024
    prefill: int = 0
    pretrain: int = 0
    burst: int = 1
    log_every: int = 1000
    evaluate_every: int = 0

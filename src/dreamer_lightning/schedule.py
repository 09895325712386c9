"""When things happen: the clocks of a run, where it ends, how many updates are owed, and what comes every so often."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Clocks:
    """The three clocks, and wall-clock seconds over all sessions of the run. They count over all ranks."""

    env_step: int = 0
    agent_step: int = 0
    update: int = 0
    seconds: float = 0.0


class Timers(dict[str, float]):
    """Seconds by what took them, over all sessions of the run."""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """What happens in here took this time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self[name] += time.perf_counter() - start


@dataclass
class Limits:
    """Where a run ends: env steps, updates, seconds; None is no limit."""

    env_steps: int | None = None
    updates: int | None = None
    max_time: float | None = None

    def reached(self, clocks: Clocks) -> str | None:
        """The name of the first limit that the clocks have reached."""
        pairs = {
            "env_steps": (self.env_steps, clocks.env_step),
            "updates": (self.updates, clocks.update),
            "max_time": (self.max_time, clocks.seconds),
        }
        return next((name for name, (limit, now) in pairs.items() if limit is not None and now >= limit), None)


@dataclass
class Every:
    """Something that happens every so many steps of a clock, at the first chance after each multiple.

    Args:
        every: steps from one time to the next; 0 is never.
        last: the clock when it happened last.
    """

    every: int
    last: int = 0

    def due(self, now: int) -> bool:
        """Whether a multiple of ``every`` lies after the last time and not after ``now``."""
        return bool(self.every) and now // self.every > self.last // self.every

    def done(self, now: int) -> None:
        """It has happened, whether it was due or not."""
        self.last = now

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = int(state["last"])


@dataclass
class Ratio:
    """How many updates are owed to the steps that were played.

    ``n`` agent steps owe ``n * train_ratio / batch_steps`` updates. Learning begins once the replay holds enough. What
    was played before is not made up for, except by ``pretrain`` updates.

    Args:
        train_ratio: replayed steps for each agent step, both over all ranks.
        batch_steps: trained steps in a batch over all ranks, ``batch_size * batch_length``.
        learning_starts: windows in each rank's replay before the first update.
        prefill: agent steps, over all ranks, that a random policy plays first; no update is made before.
        pretrain: updates made at once when learning begins.
        burst: updates made at once after that, as soon as so many are owed.
        learning: whether learning has begun.
        owed: updates owed; a fraction of one stays until the next steps are played.
        due: whether updates are to be made now, until less than one is owed.
    """

    train_ratio: float = 512.0
    batch_steps: int = 1024
    learning_starts: int = 1024
    prefill: int = 0
    pretrain: int = 0
    burst: int = 1
    learning: bool = False
    owed: float = 0.0
    due: bool = False

    def updates(self, steps: float) -> float:
        """Updates that so many agent steps owe."""
        return steps * self.train_ratio / self.batch_steps

    def enough(self, windows: int) -> bool:
        """Whether so many windows in a replay suffice for learning to begin."""
        return windows >= self.learning_starts

    def play(self, steps: int) -> None:
        """So many agent steps were played since learning began, or since the last call."""
        self.owed += self.updates(steps)
        self.due = self.owed >= self.burst

    def pay(self) -> None:
        """One update is made."""
        self.owed -= 1
        self.due = self.owed >= 1

    def begin(self, updates: int) -> None:
        """Learning begins, in a run that has made so many updates before."""
        self.learning, self.owed = True, 0.0 if updates else float(self.pretrain)
        self.due = self.owed >= 1

    def wait(self) -> None:
        """Learning begins anew once the replay holds enough."""
        self.learning, self.owed, self.due = False, 0.0, False

    def state_dict(self) -> dict[str, Any]:
        return {"learning": self.learning, "owed": self.owed, "due": self.due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learning, self.owed, self.due = state["learning"], state["owed"], state["due"]

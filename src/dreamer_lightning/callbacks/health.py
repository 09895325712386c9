"""What went wrong and was survived: failed environments, bad numbers, losses that jump. Told once, counted for ever."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from dreamer_lightning.callbacks.base import Callback, LoopView, is_episode, warn
from dreamer_lightning.envs.guarded import Failures

TOLD = 5  # warnings of one kind between two rows; the rest is counted
PAST = 100  # updates that say what is usual
FAR = 20.0  # median deviations from the usual
FACTOR = 3.0  # and at least so many times the usual, or less than that part of it


class Health(Callback):
    """Adds ``health/env_failures``, ``health/masked``, ``health/skipped_updates`` and ``health/jumps`` to rows, each
    from its first event on, and one line on stderr for each event (five of a kind between two rows).

    A jump is a total loss far from those of the updates before it: up (spike) or down (collapse).

    Args:
        failures: what the environments tell; None: nothing.
    """

    def __init__(self, failures: Failures | None = None):
        self.failures = failures
        self.counts: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.usual = Usual()
        self.quiet = 0  # updates until the next jump is told

    def on_collect_end(self, loop: LoopView) -> None:
        for event in self.failures.read() if self.failures else []:
            kind, env, what = event["kind"], event["env"], event["what"]
            if kind == "note":
                warn(f"environment {env}: {what}")
                continue
            more = f", the episode is cut and the environment made anew\n{event['details']}" if kind != "masked" else ""
            self._event("masked" if kind == "masked" else "env_failures", f"environment {env} {what}{more}".rstrip())

    def on_train_batch_end(self, loop: LoopView) -> None:
        for event in loop.sanity.events:
            self._event("skipped_updates", f"update {loop.clocks.update} left out: {event}")
        loop.sanity.events.clear()
        for loss in loop.sanity.losses:
            jump = self.usual.judge(loss)
            self.quiet -= 1
            if jump and self.quiet <= 0:
                self.quiet = PAST
                self._event("jumps", f"loss {jump} at update {loop.clocks.update}, env step {loop.clocks.env_step}")
        loop.sanity.losses.clear()

    def on_save_checkpoint(self, loop: LoopView) -> None:
        self.on_train_batch_end(loop)  # the loss of the last update may have come only now

    def on_log(self, row: dict[str, Any]) -> None:
        if not is_episode(row):
            self.told.clear()
            row.update({f"health/{kind}": count for kind, count in self.counts.items()})

    def on_fit_end(self) -> None:
        if self.failures:
            self.failures.close()

    def on_exception(self) -> None:
        self.on_fit_end()

    def _event(self, kind: str, text: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.told[kind] = self.told.get(kind, 0) + 1
        if self.told[kind] <= TOLD:
            warn(text + (" (further ones are counted only, until the next row)" if self.told[kind] == TOLD else ""))

    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "past": list(self.usual.past), "quiet": self.quiet}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts, self.quiet = dict(state["counts"]), state["quiet"]
        self.usual.past.extend(state["past"])


class Usual:
    """The last numbers, and whether the next one is far from them."""

    def __init__(self):
        self.past: deque[float] = deque(maxlen=PAST)

    def judge(self, value: float) -> str:
        """``spike from 3.1 to 250`` or ``collapse from 3.1 to 0.01``; empty for what is usual."""
        if not math.isfinite(value):
            return ""
        verdict = ""
        if len(self.past) == PAST:
            middle = median(self.past)
            far = abs(value - middle) > FAR * median(abs(x - middle) for x in self.past)
            if far and value > middle and value > FACTOR * abs(middle):
                verdict = f"spike from {middle:.4g} to {value:.4g}"
            elif far and value < middle and value < middle / FACTOR:
                verdict = f"collapse from {middle:.4g} to {value:.4g}"
        self.past.append(value)
        return verdict

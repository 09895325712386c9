"""Stopping in good order: a signal ends the run after the update at hand, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from dreamer_lightning.callbacks.base import Callback, LoopView, say

CAUGHT = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Signals(Callback):
    """SIGINT, SIGTERM and SIGUSR1 save and stop; a second SIGINT ends the process at once.

    With several ranks the loop stops all of them when one was asked to.
    """

    def __init__(self):
        self.received: int = 0
        self._previous: dict[int, Any] = {}

    def on_fit_start(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in CAUGHT:
                self._previous[number] = signal.signal(number, self._catch)

    def _catch(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            os._exit(130)
        self.received = number

    def on_collect_end(self, loop: LoopView) -> None:
        self._pass_on(loop)

    def on_train_batch_end(self, loop: LoopView) -> None:
        self._pass_on(loop)

    def on_iteration_end(self, loop: LoopView) -> None:
        self._pass_on(loop)  # it came while an evaluation played

    def _pass_on(self, loop: LoopView) -> None:
        if self.received and not loop.should_stop:
            again = " (again to stop at once)" if self.received == signal.SIGINT else ""
            say(loop, f"{signal.Signals(self.received).name}: saving and stopping{again}")
            loop.stop("signal")

    def _release(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_fit_end(self) -> None:
        self._release()

    def on_exception(self) -> None:
        self._release()

"""A limit on how long something in this process may take."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Interrupt what takes longer, by the alarm signal.

    Code that does not come back to Python is not interrupted before it does. There is no limit outside of the main
    thread, on systems without interval timers, and where somebody else's alarm is due before.

    Args:
        seconds: None for no limit.

    Raises:
        TimeoutError: inside, once the time is over.
    """
    if not seconds or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError(f"no answer for {seconds:g} s")

    start, (theirs, interval) = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)
    if 0 < theirs <= seconds:
        yield
        return
    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        if theirs:
            left = theirs - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), interval)

"""Runs of ``fit`` in processes of their own, whose lines are passed on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO


def run_all(seeds: list[int], jobs: int, folder: Path, options: list[str]) -> tuple[int, str] | None:
    """Run every seed; the first that failed and its last line, or None. After a failure no other run begins."""
    waiting, running = list(seeds), dict[int, Child]()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None  # as Ctrl-C does it
    failed: tuple[int, str] | None = None
    try:
        while running or (waiting and not failed):
            while waiting and not failed and len(running) < jobs:
                seed = waiting.pop(0)
                own = [*options, "--seed", str(seed), "--run_dir", str(folder / f"seed{seed}")]
                running[seed] = Child(own, f"seed {seed}: " if jobs > 1 else "")
            time.sleep(0.1)
            for seed in [seed for seed, child in running.items() if child.process.poll() is not None]:
                child = running.pop(seed)
                child.reader.join()
                if child.process.returncode:
                    failed = failed or (seed, child.last)
    finally:  # stopped from outside: the runs save themselves
        if main:
            signal.signal(signal.SIGTERM, before)
        for child in running.values():
            child.process.terminate()
        for child in running.values():
            child.process.wait()
            child.reader.join()
    return failed


class Child:
    """One run in a process of its own, whose lines are passed on.

    Args:
        options: of fit, as typed.
        head: begins each line.
    """

    def __init__(self, options: list[str], head: str = ""):
        command = [sys.executable, "-m", "dreamer_lightning", "fit", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
        self.head, self.last = head, "it said nothing"
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self.read, args=(self.process.stdout,), daemon=True)
        self.reader.start()

    def read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self.last = line.strip().removeprefix("dreamer-lightning: ") or self.last
                print(f"{self.head}{line}", end="", file=sys.stdout, flush=True)

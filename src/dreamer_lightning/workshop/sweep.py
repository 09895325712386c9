"""``fit`` for several seeds, one after the other or side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import IO

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.commands.tables import render
from dreamer_lightning.types import UserError
from dreamer_lightning.workshop.results.runs import load


def sweep(seeds: str, jobs: int = 1, run_dir: str | None = None, fit: list[str] | None = None) -> Outcome:
    """Run fit for every seed, in processes of their own; all other options are those of fit.

    Args:
        seeds: numbers joined by commas: 0,1,2.
        jobs: runs side by side; they share the CPU's threads. On a CPU two runs of one thread each waste less than one
            run of two.
        run_dir: folder of the runs, which are DIR/seed0 and so on; None: runs/sweep-TIME.
        fit: options of fit, as typed.

    Returns:
        The mean return of each run's last ten episodes, and how to compare them.

    Raises:
        UserError: no seeds, or a run that failed: its last line.
    """
    options = list(fit or [])
    loose = [word for before, word in pairwise(["", *options]) if word.isdigit() and not before.startswith("--")]
    if loose:
        raise UserError(f"--seeds: join them by commas: --seeds {','.join([seeds, *loose])}")
    numbers = parse_seeds(seeds)
    if jobs < 1:
        raise UserError(f"--jobs: {jobs} runs nothing; give 1 or more")
    if any(option.split("=")[0] == "--seed" for option in options):
        raise UserError("--seed: a sweep sets it; list the seeds in --seeds")
    folder = Path(run_dir or f"runs/sweep-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    threads = max(1, cores() // min(jobs, len(numbers)))
    if not any(option.split("=")[0] == "--threads" for option in options) and jobs > 1:
        options += ["--threads", str(threads)]
    failed = run_all(numbers, jobs, folder, options)
    if failed:
        seed, line = failed
        others = [each for each in numbers if each != seed and (folder / f"seed{each}" / "metrics.csv").is_file()]
        raise UserError(f"seed {seed} failed: {line}" + (f" (the others are in {folder})" if others else ""))
    runs = load([str(folder / f"seed{seed}") for seed in numbers])
    lines = [f"seed {run.seed}: {last_returns(run.training.scores)}, {run.seconds / 60:.0f} minutes" for run in runs]
    return Outcome(render(*lines, f"compare {folder} shows them beside published curves"))


def parse_seeds(text: str) -> list[int]:
    """The seeds of ``0,1,2``.

    Raises:
        UserError: not such a list, or one of them twice.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text.strip("[] ").replace(" ", "")):
        raise UserError(f"--seeds: expected numbers joined by commas such as 0,1,2, got '{text}'")
    numbers = [int(part) for part in text.strip("[] ").split(",")]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds: {text} names a seed twice")
    return numbers


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_returns(scores) -> str:
    last = scores[-10:]
    return f"mean return of the last {len(last)} episodes {last.mean():.1f}" if len(last) else "no episode ended"


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
                running[seed] = Child(seed, folder, options, prefix=jobs > 1)
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
        seed: of the run.
        folder: its parent folder.
        options: of fit.
        prefix: begin each line with the seed.
    """

    def __init__(self, seed: int, folder: Path, options: list[str], prefix: bool):
        command = [sys.executable, "-m", "dreamer_lightning", "fit", *options]
        command += ["--seed", str(seed), "--run_dir", str(folder / f"seed{seed}")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
        self.head, self.last = f"seed {seed}: " if prefix else "", "it said nothing"
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self.read, args=(self.process.stdout,), daemon=True)
        self.reader.start()

    def read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self.last = line.strip().removeprefix("dreamer-lightning: ") or self.last
                print(f"{self.head}{line}", end="", file=sys.stdout, flush=True)

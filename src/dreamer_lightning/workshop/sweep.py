"""``fit`` for several seeds and settings, one after the other or side by side."""

from __future__ import annotations

import os
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Literal

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.commands.tables import render
from dreamer_lightning.types import Count, UserError
from dreamer_lightning.workshop.children import run_all
from dreamer_lightning.workshop.results.runs import load


def sweep(
    seeds: str = "",
    jobs: int = 1,
    run_dir: str | None = None,
    vary: str = "",
    method: Literal["grid", "random", "tpe"] = "grid",
    trials: int = 0,
    metric: str = "episode/score",
    prune: Literal["none", "median", "asha"] = "none",
    prune_every: Count = Count(5000),
    resume: str | None = None,
    fit: list[str] | None = None,
) -> Outcome:
    """Run fit for every seed, and for every setting that --vary names; all other options are those of fit.

    Settings are searched by Optuna (pip install ".[sweep]"). The table and the figure are sweep.csv and sweep.png.

    Args:
        seeds: numbers joined by commas: 0,1,2. A setting counts by its mean over them.
        jobs: runs side by side; they share the CPU's threads. On a CPU two runs of one thread each waste less than one
            run of two.
        run_dir: folder of the runs, which are DIR/seed0 and so on; None: runs/sweep-TIME.
        vary: what differs, in one quoted text: "train_ratio=32,64 optimizer.lr=1e-5..1e-3:log" (a list; a range).
        method: grid (every combination of lists), random (draws), tpe (draws where it went well before).
        trials: settings that random and tpe try.
        metric: column of metrics.csv that settings are judged by, the mean of its last ten values; more is better.
        prune: end settings early: median (worse than the median at that env step), asha (successive halving), none.
        prune_every: env steps between two looks at a run, from its first seed.
        resume: folder of a sweep to go on with, or to help with from another machine that sees the same folder.
        fit: options of fit, as typed.

    Returns:
        The mean return of each run's last ten episodes, and how to compare them; or the table of settings.

    Raises:
        UserError: no seeds, or a run that failed: its last line.
    """
    options = list(fit or [])
    if resume:
        if options or seeds or vary:
            raise UserError("--resume: the sweep keeps its own options; give --jobs alone with it")
        from dreamer_lightning.workshop.study import go_on

        return go_on(Path(resume).expanduser(), jobs)
    numbers = checked(seeds, jobs, options)
    folder = Path(run_dir or f"runs/sweep-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    if vary:
        from dreamer_lightning.workshop.study import Plan, search

        return search(folder, Plan(vary, method, trials, metric, prune, int(prune_every), numbers, options), jobs)
    options += split_threads(options, min(jobs, len(numbers)))
    failed = run_all(numbers, jobs, folder, options)
    if failed:
        seed, line = failed
        others = [each for each in numbers if each != seed and (folder / f"seed{each}" / "metrics.csv").is_file()]
        raise UserError(f"seed {seed} failed: {line}" + (f" (the others are in {folder})" if others else ""))
    runs = load([str(folder / f"seed{seed}") for seed in numbers])
    lines = [f"seed {run.seed}: {last_returns(run.training.scores)}, {run.seconds / 60:.0f} minutes" for run in runs]
    return Outcome(render(*lines, f"compare {folder} shows them beside published curves"))


def checked(seeds: str, jobs: int, options: list[str]) -> list[int]:
    """The seeds, where nothing that was typed contradicts them.

    Raises:
        UserError: it does.
    """
    loose = [word for before, word in pairwise(["", *options]) if word.isdigit() and not before.startswith("--")]
    if loose:
        raise UserError(f"--seeds: join them by commas: --seeds {','.join([seeds, *loose])}")
    if not seeds:
        raise UserError("--seeds is missing: numbers joined by commas, such as 0,1,2")
    numbers = parse_seeds(seeds)
    if jobs < 1:
        raise UserError(f"--jobs: {jobs} runs nothing; give 1 or more")
    if any(option.split("=")[0] == "--seed" for option in options):
        raise UserError("--seed: a sweep sets it; list the seeds in --seeds")
    return numbers


def split_threads(options: list[str], jobs: int) -> list[str]:
    """The option that gives each of several runs its share of the cores, unless one is given."""
    if jobs == 1 or any(option.split("=")[0] == "--threads" for option in options):
        return []
    return ["--threads", str(max(1, cores() // jobs))]


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

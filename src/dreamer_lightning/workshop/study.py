"""A sweep over settings as an Optuna study: Optuna draws, judges and keeps the books, ``fit`` runs in processes.

The books are ``study.journal`` in the sweep's folder, a file that several machines may share.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.store import lock, runfolder
from dreamer_lightning.store.metrics import read_rows, series
from dreamer_lightning.types import UserError
from dreamer_lightning.workshop.children import Child
from dreamer_lightning.workshop.space import Dial, grid, read_space
from dreamer_lightning.workshop.summary import summary

JOURNAL = "study.journal"
LAST = 10  # values of the metric that a run is judged by
LOOK = 1.0  # seconds between two looks at a run's metrics


@dataclass(frozen=True)
class Plan:
    """What a sweep was asked for; ``study.journal`` keeps it. The options are explained at ``sweep``."""

    vary: str
    method: str
    trials: int
    metric: str
    prune: str
    prune_every: int
    seeds: list[int]
    fit: list[str]


class Stopped(Exception):
    """A run that a signal ended, saved."""


class Failed(Exception):
    """A run that ended in an error: its last line."""


def optuna() -> Any:
    """The package, silent about what the sweep tells itself.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(f'--vary: {error.name} is not installed; pip install ".[sweep]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed run is told in one line, by us
    return optuna


def search(folder: Path, plan: Plan, jobs: int) -> Outcome:
    """Begin a sweep over settings.

    Raises:
        UserError: something is wrong with what was asked for, or the first runs fail: nothing is written before.
    """
    package, dials = optuna(), read_space(plan.vary)
    settings = grid(dials) if plan.method == "grid" else []
    if settings and plan.trials:
        raise UserError("--trials: a grid has as many as there are combinations; leave it out, or take --method random")
    if not settings and plan.trials < 1:
        raise UserError(f"--trials: --method {plan.method} needs a number of settings to try, such as --trials 20")
    if plan.prune != "none" and plan.prune_every < 1:
        raise UserError("--prune_every: give 1 env step or more")
    if (folder / JOURNAL).exists():
        raise UserError(f"--run_dir: {folder} holds a sweep already; go on with it by --resume {folder}")
    check_options(plan, dials)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run_dir: {folder} cannot be written to ({error.strerror}); name another folder") from None
    study = package.create_study(storage=journal(package, folder), study_name="sweep", direction="maximize")
    study.set_user_attr("plan", asdict(plan))
    for setting in settings:
        study.enqueue_trial(setting)
    return Search(package, folder, plan, dials).run(jobs)


def check_options(plan: Plan, dials: list[Dial]) -> None:
    """Let the parser see every value once, before hours of training find a typing mistake.

    Raises:
        UserError: of the parser.
    """
    from dreamer_lightning.config import parse

    for i in range(max(len(dial.values) for dial in dials)):
        parse("fit", [*plan.fit, *as_options({d.option: d.values[min(i, len(d.values) - 1)] for d in dials})])


def as_options(setting: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in setting.items()]


def go_on(folder: Path, jobs: int) -> Outcome:
    """Go on with a sweep, or take part in one that another machine works on.

    Raises:
        UserError: there is none.
    """
    package = optuna()
    if not (folder / JOURNAL).is_file():
        raise UserError(f"--resume: {folder} holds no sweep (no {JOURNAL}); begin one by --run_dir {folder}")
    study = package.load_study(study_name="sweep", storage=journal(package, folder))
    plan = Plan(**study.user_attrs["plan"])
    return Search(package, folder, plan, read_space(plan.vary)).run(jobs)


def journal(package: Any, folder: Path) -> Any:
    """Optuna's books in a file."""
    kinds = package.storages.journal
    return package.storages.JournalStorage(kinds.JournalFileBackend(str(folder / JOURNAL)))


class Search:
    """The work on a study by this process.

    Args:
        package: Optuna.
        folder: of the sweep.
        plan: what was asked for.
        dials: what varies.
    """

    def __init__(self, package: Any, folder: Path, plan: Plan, dials: list[Dial]):
        self.package, self.folder, self.plan, self.dials = package, folder, plan, dials
        samplers, pruners = package.samplers, package.pruners
        drawn = (
            samplers.TPESampler(seed=plan.seeds[0]) if plan.method == "tpe" else samplers.RandomSampler(plan.seeds[0])
        )
        rule = {"none": pruners.NopPruner, "median": pruners.MedianPruner, "asha": pruners.SuccessiveHalvingPruner}
        storage = journal(package, folder)
        self.study = package.load_study(study_name="sweep", storage=storage, sampler=drawn, pruner=rule[plan.prune]())
        if self.study.trials:
            drawn.reseed_rng()  # machines that work on one study draw differently
        self.state = package.trial.TrialState
        self.stopping = threading.Event()
        self.running: set[Child] = set()

    def left(self) -> int:
        """Settings that nobody has begun."""
        begun = (self.state.COMPLETE, self.state.PRUNED, self.state.RUNNING)
        total = self.plan.trials or len(grid(self.dials))
        return total - sum(trial.state in begun or self.failed(trial) for trial in self.study.trials)

    def run(self, jobs: int) -> Outcome:
        """Try settings until all are tried; then a table and a figure."""
        self.take_up()
        left = self.left()
        enough = lambda study, _: study.stop() if self.left() <= 0 else None  # noqa: E731  (others may have helped)
        with caught(self.stop):
            if left > 0:
                play = lambda trial: self.play(trial, jobs)  # noqa: E731
                self.study.optimize(play, n_trials=left, n_jobs=jobs, catch=(Stopped, Failed), callbacks=[enough])
        trials = self.study.trials
        if trials and all(self.failed(trial) for trial in trials if trial.state.is_finished()):
            first = next((trial for trial in trials if self.failed(trial)), None)
            if first:
                raise UserError(f"trial {first.number} failed: {first.user_attrs['said']}")
        open_ = sum(trial.state in (self.state.RUNNING, self.state.WAITING) for trial in trials) or self.left()
        stopped = self.stopping.is_set()
        again = f"; stopped, go on by sweep --resume {self.folder}" if stopped else ""
        if open_ and not stopped:
            again = f"; {open_} more run elsewhere: sweep --resume {self.folder} tells when they are done"
        code = 1 if stopped or any(self.failed(trial) for trial in trials) else 0
        return Outcome(
            summary(self.folder, trials, [dial.option for dial in self.dials], self.plan.metric) + again, code
        )

    def failed(self, trial: Any) -> bool:
        return trial.state == self.state.FAIL and "said" in trial.user_attrs

    def take_up(self) -> None:
        """Put the settings whose runs were cut off back into the queue: they go on from their checkpoints."""
        trials = self.study.trials
        taken = {trial.user_attrs.get("folder", f"trial{trial.number}"): trial.number for trial in trials}
        for trial in trials:
            name = trial.user_attrs.get("folder", f"trial{trial.number}")
            if trial.state == self.state.RUNNING and not in_use(self.folder / name):
                self.study.tell(trial.number, state=self.state.FAIL)
            elif trial.state != self.state.FAIL or self.failed(trial):
                continue
            if taken[name] == trial.number:  # not taken up before
                setting = trial.params or trial.system_attrs.get("fixed_params", {})  # it may not have begun to draw
                self.study.enqueue_trial(setting, user_attrs={"folder": name})

    def play(self, trial: Any, jobs: int) -> float:
        """One setting: its value is the mean over the seeds."""
        name = trial.user_attrs.get("folder", f"trial{trial.number}")
        trial.set_user_attr("folder", name)
        setting = {dial.option: dial.draw(trial) for dial in self.dials}
        if self.stopping.is_set():
            trial.study.stop()
            raise Stopped
        held = lock.take(self.folder / name)
        try:
            values: list[float | None] = []
            for seed in self.plan.seeds:
                self.fit(trial, self.folder / name / f"seed{seed}", seed, setting, jobs)
                rows = read_rows(self.folder / name / f"seed{seed}" / runfolder.METRICS)
                values.append(judged(rows, self.plan.metric))
        finally:
            lock.give_back(self.folder / name, held)
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            self.fail(trial, f"its metrics.csv has no {self.plan.metric}")
        return float(np.mean(known))

    def fail(self, trial: Any, line: str) -> None:
        """Note why a setting has no value; where none had one before, the sweep ends."""
        trial.set_user_attr("said", line)
        others = [other for other in trial.study.trials if other.number != trial.number]
        if not any(other.intermediate_values or other.value is not None for other in others):
            trial.study.stop()
        raise Failed(line)

    def fit(self, trial: Any, folder: Path, seed: int, setting: dict[str, str], jobs: int) -> None:
        """One run, looked at while it goes on where it is the first seed's."""
        from dreamer_lightning.workshop.sweep import split_threads

        if runfolder.latest_complete(folder):
            options = ["--resume", str(folder)]
        else:
            options = [*self.plan.fit, *as_options(setting), "--seed", str(seed), "--run_dir", str(new(folder))]
            options += split_threads(self.plan.fit, jobs)
        child = Child(options, f"trial {trial.number}: ")
        self.running.add(child)
        look = self.looker(trial, folder) if self.plan.prune != "none" and seed == self.plan.seeds[0] else lambda: None
        try:
            while child.process.poll() is None:
                time.sleep(LOOK / 10)
                look()
            look()
        finally:  # a pruned run saves itself as after Ctrl-C
            child.process.terminate()
            child.process.wait()
            child.reader.join()
            self.running.discard(child)
        if self.stopping.is_set():
            trial.study.stop()
            raise Stopped
        if child.process.returncode:
            self.fail(trial, child.last)

    def looker(self, trial: Any, folder: Path) -> Callable[[], None]:
        """What tells Optuna how a run goes at every ``prune_every`` env steps, and raises where that is too bad."""
        every, told, before = self.plan.prune_every, 0, 0.0

        def look() -> None:
            nonlocal told, before
            if time.monotonic() < before + LOOK and told:
                return
            before = time.monotonic()
            rows = read_rows(folder / runfolder.METRICS)
            clocks = series(rows, "env_step", "env_step")[0]
            while clocks and clocks[-1] >= (told + 1) * every:
                told += 1
                value = judged(rows, self.plan.metric, told * every)
                if value is not None:
                    trial.report(value, told)
                    if trial.should_prune():
                        raise self.package.TrialPruned

        return look

    def stop(self) -> None:
        """End the runs as by Ctrl-C: they save themselves."""
        self.stopping.set()
        for child in list(self.running):
            child.process.terminate()


def judged(rows: list[Any], metric: str, until: float = float("inf")) -> float | None:
    """The mean of the metric's last values up to an env step; None before the first."""
    steps, values = series(rows, metric)
    last = [value for step, value in zip(steps, values, strict=True) if step <= until][-LAST:]
    return float(np.mean(last)) if last else None


def in_use(folder: Path) -> bool:
    """Whether a process, of this machine or of another one, works on a setting or on a run of it."""
    for held in (folder, *folder.glob("seed*")):
        try:
            if held.is_dir():
                lock.give_back(held, lock.take(held))
        except UserError:
            return True
    return False


def new(folder: Path) -> Path:
    """The folder of a run that begins; what a run left there that never saved is moved out of its way."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-cut-{time.strftime('%Y%m%d-%H%M%S')}"))
    return folder


class caught:
    """Within, SIGINT and SIGTERM call a function in place of ending the process.

    Args:
        function: called at each of them.
    """

    def __init__(self, function: Callable[[], None]):
        self.function = function
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, lambda *_: self.function())

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

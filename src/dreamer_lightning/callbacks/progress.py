"""What the user sees while training: a bar on a terminal or in a notebook, lines in a log, a table at the end."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from typing import Any

from dreamer_lightning.callbacks.base import Callback, LoopView, is_episode, tell

BAR, PERCENT = 20, 4  # columns of a terminal
NOTEBOOK = 80  # columns of a notebook
SPARSE = 0.05  # share of the time so far that passes between two lines of a log
EVALS = ("eval/greedy_score", "eval/sampled_score")


class Progress(Callback):
    """Last returns, time left, env steps, updates, updates a second, shares of collecting and training.

    It begins with what the run does, where that is not training: play the first steps, evaluate, end.

    Args:
        every: least seconds between two lines of a log, which come more rarely the longer a run lasts.
        enabled: False for the closing table only.
    """

    def __init__(self, every: float = 60.0, enabled: bool = True):
        self.every, self.enabled = every, enabled
        self.returns: deque[float] = deque(maxlen=10)
        self.evals: dict[str, dict[str, float]] = {}
        self.bar: Any = None  # on a terminal
        self.cell: Any = None  # in a notebook
        self.doing = ""
        self.shown = 0.0
        self.rate: tuple[float, int, dict[str, float]] | None = None  # time, update, timers at the last look
        self.begin: tuple[float, float] = (0.0, 0.0)  # time, fraction done at the start

    def on_fit_start(self, loop: LoopView) -> None:
        if not loop.fabric.is_global_zero or not self.enabled:
            return
        self.begin = (time.monotonic(), fraction(loop))
        self.shown = time.monotonic()
        self.rate = (time.monotonic(), loop.clocks.update, dict(loop.timers))
        if in_notebook():
            self.cell = _cell()
        elif sys.stdout.isatty():
            self.bar = _bar()
            self.bar.start()
            self.task = self.bar.add_task("", total=1.0, completed=fraction(loop), text="")
        if self.bar or self.cell:
            self._draw(loop)

    def on_log(self, row: dict[str, Any]) -> None:
        if is_episode(row):
            self.returns.append(float(row["episode/score"]))

    def on_validation_start(self, loop: LoopView) -> None:
        self._do(loop, "evaluating")

    def on_validation_end(self, loop: LoopView, metrics: dict[str, Any]) -> None:
        for name in EVALS:
            if name in metrics:
                value = float(metrics[name])
                best = self.evals.get(name, {}).get("best", -math.inf)
                self.evals[name] = {"last": value, "best": max(best, value)}
        self._do(loop, "")

    def on_collect_end(self, loop: LoopView) -> None:
        self._show(loop)

    def on_train_batch_end(self, loop: LoopView) -> None:
        self._show(loop)

    def on_train_end(self, loop: LoopView) -> None:
        self._do(loop, "saving")

    def _do(self, loop: LoopView, doing: str) -> None:
        """From now on it does this; a log is not told."""
        self.doing = doing
        if self.bar or self.cell:
            self._draw(loop)

    def _show(self, loop: LoopView) -> None:
        now = time.monotonic()
        if self.rate is None:
            return
        if self.bar or self.cell:
            if now - self.shown >= 1.0:
                self._draw(loop)
        elif now - self.shown >= max(self.every, SPARSE * (now - self.begin[0])):
            self.shown = now
            tell(", ".join(self._parts(loop)))

    def _draw(self, loop: LoopView) -> None:
        """The bar as it is now."""
        self.shown = time.monotonic()
        done, parts = fraction(loop), self._parts(loop)
        if self.cell:
            self.cell.update(_in_cell(done, fitting(parts, NOTEBOOK - BAR - PERCENT - 2)), raw=True)
        elif self.bar:
            self.bar.update(self.task, completed=done, text=fitting(parts, self.bar.console.width - BAR - PERCENT - 2))

    def _parts(self, loop: LoopView) -> list[str]:
        """What there is to say, the most important first."""
        now, clocks = time.monotonic(), loop.clocks
        then, update, timers = self.rate or (now, clocks.update, {})
        seconds = max(now - then, 1e-9)
        doing = self.doing or ("" if clocks.update or loop.ratio.learning else "playing the first steps")
        parts = [doing] if doing else []
        if self.returns:
            parts.append("returns " + " ".join(f"{value:.0f}" for value in list(self.returns)[-3:]))
        parts += [f"left {self._left(loop)}", f"env steps {clocks.env_step:,}"]
        if clocks.update:
            parts += [f"updates {clocks.update:,}", f"{(clocks.update - update) / seconds:.1f} updates/s"]
        shares = {name: (loop.timers.get(name, 0.0) - timers.get(name, 0.0)) / seconds for name in ("collect", "train")}
        parts.append(", ".join(f"{name} {100 * min(share, 1.0):.0f}%" for name, share in shares.items()))
        if seconds > 10:
            self.rate = (now, clocks.update, dict(loop.timers))
        return parts

    def _left(self, loop: LoopView) -> str:
        done, (start, before) = fraction(loop), self.begin
        if done <= before + 1e-6:
            return "?"
        return clock((time.monotonic() - start) / (done - before) * (1 - done))

    def _stop(self) -> None:
        if self.bar:
            self.bar.stop()
        self.bar = self.cell = None

    def on_exception(self) -> None:
        self._stop()

    def on_fit_end(self, loop: LoopView) -> None:
        self._stop()
        if loop.fabric.is_global_zero:
            self._table(loop)

    def _table(self, loop: LoopView) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE, show_header=False, title="Summary", title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        clocks = loop.clocks
        table.add_row("task", loop.env_factory.name)
        table.add_row("env steps", f"{clocks.env_step:,}")
        table.add_row("updates", f"{clocks.update:,}")
        table.add_row("time", clock(clocks.seconds))
        for name in EVALS:
            if name in self.evals:
                score = self.evals[name]
                kind = name.removeprefix("eval/").removesuffix("_score")
                table.add_row(f"evaluation, {kind}", f"last {score['last']:.1f}, best {score['best']:.1f}")
        if self.returns:
            mean = sum(self.returns) / len(self.returns)
            table.add_row(f"last {len(self.returns)} episodes", f"mean return {mean:.1f}")
        table.add_row("run folder", str(loop.run_dir))
        console = Console(width=None if sys.stdout.isatty() else 120)
        with console.capture() as written:
            console.print(table)
        tell(written.get().rstrip("\n"))

    def state_dict(self) -> dict[str, Any]:
        return {"returns": list(self.returns), "evals": {k: dict(v) for k, v in self.evals.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.returns.extend(state["returns"])
        self.evals = {k: dict(v) for k, v in state["evals"].items()}


def _bar():
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    return Progress(
        BarColumn(bar_width=BAR, table_column=Column(no_wrap=True, min_width=BAR)),  # else a long text squeezes it out
        TaskProgressColumn(table_column=Column(no_wrap=True, min_width=PERCENT)),
        TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True)),
    )


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this, which can rewrite what it has shown."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _cell() -> Any:
    """A line of a notebook that is written again in its place."""
    from IPython.display import display

    return display(_in_cell(0.0, ""), raw=True, display_id=True)


def _in_cell(done: float, text: str) -> dict[str, str]:
    """The bar as plain text, by its type."""
    full = round(BAR * done)
    return {"text/plain": f"{chr(0x2588) * full}{chr(0x2591) * (BAR - full)} {done:4.0%} {text}"}


def fitting(parts: list[str], width: int) -> str:
    """As many of the first parts as a terminal has room for, but one at least."""
    while len(parts) > 1 and len(", ".join(parts)) > width:
        parts = parts[:-1]
    return ", ".join(parts)


def fraction(loop: LoopView) -> float:
    """Share of the run that is done, by the limit that is nearest."""
    limits, clocks = loop.limits, loop.clocks
    shares = [0.0]
    if limits.env_steps:
        shares.append(clocks.env_step / limits.env_steps)
    if limits.updates:
        shares.append(clocks.update / limits.updates)
    if limits.max_time:
        shares.append(clocks.seconds / float(limits.max_time))
    return min(1.0, max(shares))


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

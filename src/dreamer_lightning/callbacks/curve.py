"""The learning curve as a picture, from ``metrics.csv``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_lightning.callbacks.base import Callback, LoopView, say, warn
from dreamer_lightning.store.metrics import read_rows, series
from dreamer_lightning.store.runfolder import METRICS, PLOTS

EPISODE, GREEDY, SAMPLED = "episode/score", "eval/greedy_score", "eval/sampled_score"


class Curve(Callback):
    """Draws ``plots/learning_curve.png`` at every evaluation and at the end.

    Args:
        random_score: return of the random policy, drawn as a line; None for no line.
        title: above the picture; None for the task's name.
    """

    def __init__(self, random_score: float | None = None, title: str | None = None):
        self.random_score, self.title = random_score, title

    def on_fit_end(self, loop: LoopView) -> None:
        path = self._draw(loop)
        if path is not None:
            say(loop, f"learning curve: {path}")

    def on_train_end(self, loop: LoopView) -> None:
        path = self._draw(loop)
        if path is not None:
            loop.fabric.call("on_media", loop=loop, name="plots/learning_curve", path=path)

    def _draw(self, loop: LoopView) -> Path | None:
        if not loop.fabric.is_global_zero:
            return None
        try:
            title = self.title or str(loop.env_factory.name)
            return learning_curve(Path(loop.run_dir), self.random_score, title)
        except Exception as error:  # a picture is never worth the run
            warn(f"learning curve not drawn ({type(error).__name__}: {error})")
            return None


def learning_curve(
    run_dirs: Path | dict[str, Path], random_score: float | None = None, title: str = "", path: Path | None = None
) -> Path | None:
    """Draw the scores of one run (training episodes and evaluations), or the training curves of several.

    Args:
        run_dirs: a run folder, or run folders by label.
        random_score: return of the random policy.
        title: above the picture.
        path: where to write; None for ``plots/learning_curve.png`` of the run.

    Returns:
        The picture's path, or None if no run has an episode or evaluation yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = isinstance(run_dirs, dict)
    runs: dict[str, Any] = run_dirs if isinstance(run_dirs, dict) else {"": run_dirs}
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    drawn, last = False, 0
    for number, (label, run_dir) in enumerate(runs.items()):
        rows = read_rows(Path(run_dir) / METRICS)
        columns = {name: np.array(series(rows, name)) for name in (EPISODE, GREEDY, SAMPLED)}
        last = max([last, *(int(steps[-1]) for steps, _ in columns.values() if len(steps))])
        drawn |= _draw_run(axis, columns, label, f"C{number}", several)
    if not drawn:
        return None
    if random_score is not None:
        axis.axhline(random_score, color="0.45", lw=1, ls=":", label=f"random policy ({random_score:.0f})")
    axis.set_xlabel("env steps")
    axis.set_ylabel("episode return")
    axis.set_xlim(0, last * 1.02)
    if axis.get_ylim()[0] > 0:
        axis.set_ylim(bottom=0)
    axis.xaxis.set_major_formatter(lambda x, _: _thousands(x))
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="best")
    if title:
        axis.set_title(title, loc="left", fontsize=11)
    path = path or Path(next(iter(runs.values()))) / PLOTS / "learning_curve.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
    return path


def _draw_run(axis, columns: dict[str, np.ndarray], label: str, color: str, several: bool) -> bool:
    steps, scores = columns[EPISODE]
    if len(steps):
        axis.plot(steps, scores, ".", color=color, alpha=0.5, ms=5, mew=0, label=None if several else "episodes")
        if len(steps) >= 5:
            width, at, means = running_mean(steps, scores)
            axis.plot(at, means, color=color, lw=1.6, label=label if several else f"mean of {width} episodes")
    if several:
        return bool(len(steps))
    for name, look, text in ((GREEDY, "C1", "evaluation, greedy"), (SAMPLED, "C2", "evaluation, sampled")):
        steps_, scores_ = columns[name]
        if len(steps_):
            axis.plot(steps_, scores_, "o-", color=look, ms=4, lw=1.2, label=text)
    return any(len(s) for s, _ in columns.values())


def running_mean(steps: np.ndarray, scores: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """How many episodes each mean is of, where the means lie [m], and the means [m].

    Args:
        steps: env step at which each episode ended [n].
        scores: their returns [n].
    """
    width = max(5, len(steps) // 30)
    smooth = np.array([scores[max(0, i - width + 1) : i + 1].mean() for i in range(len(scores))])
    last = np.append(steps[1:] != steps[:-1], True)  # parallel episodes end together: one point for them
    return width, steps[last], smooth[last]


def _thousands(x: float) -> str:
    if x >= 1e6:
        return f"{x / 1e6:g}M"
    return f"{x / 1e3:g}K" if x >= 1e3 and math.isfinite(x) else f"{x:g}"

"""The comparison as a picture: a panel for each task, the setting of every curve below."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_lightning.workshop.results.curves import Window, mean_curve, trailing
from dreamer_lightning.workshop.results.methods import Method, Setting, tasks_of
from dreamer_lightning.workshop.results.published import REFERENCE

NAMES = {
    "dreamerv3": "DreamerV3, published",
    "tdmpc2": "TD-MPC2, published",
    "d4pg": "D4PG, published",
    "dmpo": "DMPO, published",
    "ppo_fixhp": "PPO, published",
    "sac": "SAC, published",
    "drqv2": "DrQ-v2, published",
}
GREYS = {  # published methods stay in the background
    "dreamerv3": ("black", "-"),
    "tdmpc2": ("0.35", "--"),
    "d4pg": ("0.45", "-."),
    "dmpo": ("0.6", "-."),
    "sac": ("0.55", ":"),
    "drqv2": ("0.45", "-."),
    "ppo_fixhp": ("0.7", ":"),
}
LETTERS = 13.5  # of the legend, an inch
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f3c8d")


def comparison_figure(
    rows: Sequence[Method], window: Window, path: Path, title: str = "", names: Mapping[str, str] | None = None
) -> Path:
    """Draw runs over published curves.

    Args:
        rows: both kinds.
        window: bins of the published curves; ours are means over the last ``window.least`` env steps at each moment.
        path: a .png file.
        title: above the picture.
        names: what the legend calls the methods; others have their labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = tasks_of([row for row in rows if row.ours])
    labels = list(dict.fromkeys(row.label for row in rows if row.ours))
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    wide = min(3, len(tasks))
    tall = -(-len(tasks) // wide)
    legend = _legend_rows([row for row in rows if _visible(row, _limit(rows, row.task, window))])
    width = max(7.2, 4.4 * wide)
    called = {**NAMES, **(names or {})}
    captions = [_caption(row, [other for other in rows if other.label == row.label], called) for row in legend]
    columns = 2 if wide > 1 else 1
    letters = int(LETTERS * width / columns) - 8
    captions = [textwrap.fill(caption, letters) for caption in captions]
    size = (width, 3.4 * tall + 0.24 * -(-sum(1 + text.count("\n") for text in captions) // columns) + 1.1)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(tall, wide, squeeze=False).flat)
    for axis, task in zip(axes, tasks, strict=False):
        _panel(axis, [row for row in rows if row.task == task], task, window, colors)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    handles = [_handle(row, colors) for row in legend]
    length = f"{window.least / 1000:g}K"
    below = (
        f"Means over seeds of the last {length} env steps; bands: one standard deviation over seeds. {_common(rows)}"
    )
    figure.legend(
        handles,
        captions,
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        title=textwrap.fill(below, int(LETTERS * width)),
        title_fontsize=8,
        alignment="left",
        ncols=columns,
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _legend_rows(rows: Sequence[Method]) -> list[Method]:
    """The first row of every method, ours first."""
    first: dict[str, Method] = {}
    for row in sorted(rows, key=lambda row: (not row.ours, row.label != REFERENCE)):
        first.setdefault(row.label, row)
    return list(first.values())


def _caption(row: Method, same: Sequence[Method], names: Mapping[str, str]) -> str:
    """The method and its seeds; what it was reached with stands in the table of settings."""
    counts = sorted({len(other.curves) for other in same}) if row.ours else [int(row.seeds.removeprefix("n="))]
    seeds = " to ".join(str(count) for count in sorted({counts[0], counts[-1]})) + (
        " seed" if counts == [1] else " seeds"
    )
    return f"{names.get(row.label, row.label)} ({seeds})"


def _common(rows: Sequence[Method]) -> str:
    """What all runs of ours have in common, in a sentence."""
    settings = [row.setting for row in rows if row.ours]
    shared = [
        parts[0] if len(set(filter(None, parts))) == 1 and parts[0] else "" for parts in zip(*settings, strict=True)
    ]
    text = Setting(*shared).text()
    return f"Runs here: {text}." if text else ""


def _handle(row: Method, colors: dict[str, str]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **_look(row, colors))


def _look(row: Method, colors: dict[str, str]) -> dict[str, Any]:
    if row.ours:
        return {"color": colors[row.label], "lw": 1.8, "ls": "--" if _greedy(row) else "-"}
    if any(curve.std is not None for curve in row.curves):  # few points: a line between them would be invented
        marker = "D" if row.label == "tdmpc2" else "s"
        return {"color": GREYS.get(row.label, ("0.6", ""))[0], "ls": "", "marker": marker, "ms": 4}
    color, style = GREYS.get(row.label, ("0.6", ":"))
    return {"color": color, "lw": 1.4 if row.label == REFERENCE else 1.1, "ls": style}


def _greedy(row: Method) -> bool:
    return row.label.endswith("(greedy)")


def _limit(rows: Sequence[Method], task: str, window: Window) -> float:
    """Env steps that a task's panel shows: somewhat more than the longest run."""
    ours = [row for row in rows if row.ours and row.task == task]
    last = max(float(one.steps[-1]) for row in ours for one in row.episodes if len(one.steps))
    return max(1.25 * last, 2 * window.bin)


def _visible(row: Method, limit: float) -> bool:
    """Whether a row has points in the panel (at the start, all published ones are alike)."""
    if row.ours:
        return not _greedy(row) or len(mean_curve(row.curves).steps) > 0
    return any(((curve.steps > 0) & (curve.steps <= limit)).any() for curve in row.curves)


def _panel(axis: Any, rows: Sequence[Method], task: str, window: Window, colors: dict[str, str]) -> None:
    limit = _limit(rows, task, window)
    for row in rows:
        look = _look(row, colors)
        if not _visible(row, limit):
            continue
        steps, scores, spread = _line(row, window)
        if len(steps) == 1:  # a line of one point is not drawn
            look = {"marker": "o", "ms": 5, **look}
        bright = 0.18 if row.ours else 0.12 if row.label == REFERENCE else 0.0
        if bright and len(row.curves) > 1:
            axis.fill_between(steps, scores - spread, scores + spread, color=look["color"], alpha=bright, lw=0)
        axis.plot(steps, scores, zorder=3 if row.ours else 2, **look)
    axis.set_title(task, loc="left", fontsize=10)
    axis.set_xlim(0, limit)
    axis.set_ylim(*_range(rows, limit))
    axis.set_xlabel("env steps", fontsize=9)
    axis.set_ylabel("episode return", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}K" if x else "0")
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _range(rows: Sequence[Method], limit: float) -> tuple[float, float]:
    seen = [value for row in rows for one in row.episodes for value in one.scores]
    for row in rows:
        seen += [score for curve in row.curves for score in curve.scores[curve.steps <= limit]]
    low, high = min([0.0, *seen]), max([1.0, *seen])
    return low, high + 0.05 * (high - low)


def _line(row: Method, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is drawn of a row: (env steps, mean, standard deviation) over its seeds."""
    if row.ours and not _greedy(row):
        return _smooth(row, window)
    mean = mean_curve(row.curves)
    return mean.steps, mean.scores, np.asarray(mean.std)


def _smooth(row: Method, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trailing means of a run's episodes, (env steps, mean, standard deviation) over its seeds."""
    first = max(one.steps[0] for one in row.episodes)
    last = min(one.steps[-1] for one in row.episodes)
    ends = np.unique(np.concatenate([one.steps for one in row.episodes]))
    at = ends[(ends >= first) & (ends <= last)] if last > first else np.array([first])
    each = np.array([trailing(one.steps, one.scores, window.least, at) for one in row.episodes])
    some = np.isfinite(each).all(0)
    spread = each.std(0, ddof=1) if len(each) > 1 else np.zeros(len(at))
    return at[some], each.mean(0)[some], spread[some]

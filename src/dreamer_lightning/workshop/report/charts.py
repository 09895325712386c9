"""Line charts as SVG in the colours of the page around them: light or dark as the reader has it, sharp at any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

POINTS = 240  # of a line at most; longer ones become means of stretches
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 10, 34  # room around the plot, in units of the picture
COLORS = 6  # that the style sheet has


class Line(NamedTuple):
    """One series [n] of a chart.

    Args:
        name: as the legend has it.
        x: where its values lie.
        y: its values; those that are no number are left out.
        look: a line, a line with dots, or dots alone.
        color: 0 to 5, the colours of the page.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    look: str = "line"
    color: int = 0


def chart(
    lines: Sequence[Line], x_label: str, width: int = 360, height: int = 210, log: bool = False, mark: str = ""
) -> str:
    """An SVG picture, or nothing where no line has a value.

    Args:
        lines: what to draw, the last one in front.
        x_label: below the axis.
        width: of the picture; text is 11 of the same units high.
        height: of the picture.
        log: x grows by factors, and its ticks are the values that are there.
        mark: a class for the style sheet.
    """
    cleaned = [(line, *clean(line)) for line in lines]
    cleaned = [each for each in cleaned if len(each[1])]
    if not cleaned:
        return ""
    xs, ys = (np.concatenate([each[i] for each in cleaned]) for i in (1, 2))
    x_ticks = sorted({float(x) for x in xs}) if log else ticks(min(0.0, xs.min()), xs.max(), width // 80)
    y_ticks = ticks(*spread(ys), height // 45)
    x_ends = (x_ticks[0], x_ticks[-1]) if log else (min(0.0, xs.min()), float(xs.max()) or 1.0)
    across = scale(x_ends[0], x_ends[1], LEFT, width - RIGHT, log)
    up = scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP)
    parts = [f'<svg class="chart {mark}" viewBox="0 0 {width} {height}" role="img" aria-label="{names(lines)}">']
    parts += [f'<path class="grid" d="M{LEFT} {up(y):.1f}H{width - RIGHT}"/>' for y in y_ticks]
    parts += [f'<text class="y" x="{LEFT - 6}" y="{up(y) + 4:.1f}">{short(y)}</text>' for y in y_ticks]
    shown = [x for x in x_ticks if x_ends[0] <= x <= x_ends[1]]
    parts += [f'<text class="x" x="{across(x):.1f}" y="{height - BOTTOM + 15}">{short(x)}</text>' for x in shown]
    parts.append(f'<text class="x" x="{(LEFT + width - RIGHT) / 2}" y="{height - 4}">{escape(x_label)}</text>')
    for line, x, y in cleaned:
        points = [(across(a), up(b)) for a, b in zip(x, y, strict=True)]
        if line.look != "dots":
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
            parts.append(f'<path class="line c{line.color % COLORS}" d="M{path}"/>')
        if line.look != "line":
            size = 2 if line.look == "dots" else 3.5
            for (a, b), at, value in zip(points, x, y, strict=True):
                told = f"<title>{escape(line.name)}: {value:.4g} at {short(at)}</title>"
                parts.append(
                    f'<circle class="{line.look} c{line.color % COLORS}" cx="{a:.1f}" cy="{b:.1f}" r="{size}">'
                )
                parts.append(f"{told}</circle>")
    return "".join([*parts, "</svg>"])


def legend(lines: Sequence[Line]) -> str:
    """The names of a chart's lines beside their colours."""
    found = [f'<span class="key c{line.color % COLORS}">{escape(line.name)}</span>' for line in lines if len(line.x)]
    return f'<div class="legend">{"".join(found)}</div>'


def names(lines: Sequence[Line]) -> str:
    """What a chart shows, for those who do not see it."""
    return escape(", ".join(line.name for line in lines if len(line.x)))


def clean(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a line [m], m at most ``POINTS``."""
    x, y = np.array(line.x, float), np.array(line.y, float)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if len(x) <= POINTS:
        return x, y
    if line.look == "dots":  # a mean would hide how far they scatter
        chosen = np.linspace(0, len(x) - 1, POINTS).astype(int)
        return x[chosen], y[chosen]
    pieces = np.array_split(np.arange(len(x)), POINTS)
    return np.array([x[piece[-1]] for piece in pieces]), np.array([y[piece].mean() for piece in pieces])


def spread(values: np.ndarray) -> tuple[float, float]:
    """The ends of an axis: from 0 where the values lie near it."""
    low, high = float(values.min()), float(values.max())
    if 0 < low < 0.6 * high:
        low = 0.0
    if 0.6 * low < high < 0:
        high = 0.0
    return (low, high) if high > low else (low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers that enclose a range."""
    if not high > low:
        return [low, low + 1]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def scale(low: float, high: float, start: float, end: float, log: bool = False) -> Callable[[float], float]:
    """A function from values to places in the picture."""
    form = math.log if log else float
    bottom, top = form(low), form(high)
    return lambda value: start + (end - start) * (form(value) - bottom) / ((top - bottom) or 1.0)


def short(value: float) -> str:
    """1500000 as 1.5M, 20000 as 20K, 0.00012 as 0.00012."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "K")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'K' else size):.4g}{letter}"
    return f"{value:.4g}"

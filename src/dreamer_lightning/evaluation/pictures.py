"""Pictures of dreams: video rows of truth, model and error for images; plots with a band of futures for vectors."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreamer_lightning.evaluation.openloop import OpenLoop, apart
from dreamer_lightning.types import Specs

GREEN, RED = (0, 160, 60), (200, 40, 40)
ROWS = ("truth", "model", "error")
NOW = "agent steps from now"  # of the last step that the model sees
DPI = 110
BORDER = 2  # pixels around each panel


def image_keys(specs: Specs, dream: OpenLoop) -> list[str]:
    return [key for key in dream.decoded if specs.obs[key].image]


def dream_video(dreams: list[OpenLoop], key: str, scale: int | None = None, named: bool = True) -> np.ndarray:
    """Frames [T, height, width, 3] uint8: rows truth, model, error; a column for each future of each dream.

    Steps that the model saw have a green border, imagined ones a red one. The error is (model - truth + 1) / 2: grey is
    right. Where the episode had ended the truth is black.

    Args:
        dreams: of equal length and context.
        key: the image.
        scale: enlargement; None makes panels about 128 pixels high.
        named: the names of the rows stand at the left.
    """
    columns = [_panels(dream.seen[key], future, dream.context) for dream in dreams for future in dream.decoded[key]]
    video = np.concatenate(columns, 2)  # [T, 3 rows * height, columns * width, 3]
    scale = scale or max(1, 128 // dreams[0].seen[key].shape[1])
    video = video.repeat(scale, 1).repeat(scale, 2)
    names = _names(video.shape[1])
    return np.concatenate([np.broadcast_to(names, (len(video), *names.shape)), video], 2) if named else video


def _names(height: int, width: int = 16) -> np.ndarray:
    """The names of the rows, from below, [height, width, 3]."""
    figure = Figure(figsize=((width + 0.5) / DPI, (height + 0.5) / DPI), dpi=DPI)  # it rounds down
    canvas = FigureCanvasAgg(figure)
    for i, name in enumerate(ROWS):
        figure.text(0.5, 1 - (i + 0.5) / len(ROWS), name, rotation=90, ha="center", va="center", fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _panels(truth: np.ndarray, model: np.ndarray, context: int) -> np.ndarray:
    known = ~np.isnan(truth)
    error = np.where(known, (model - np.nan_to_num(truth) + 1) / 2, 0.5)
    return np.concatenate([_frame(x, context) for x in (np.nan_to_num(truth), model, error)], 1)


def _frame(images: np.ndarray, context: int) -> np.ndarray:
    """[T, h, w, c] in [0, 1] -> uint8 RGB with the border that tells seen from imagined."""
    images = images if images.shape[-1] == 3 else images[..., -1:].repeat(3, -1)
    out = np.empty((len(images), images.shape[1] + 2 * BORDER, images.shape[2] + 2 * BORDER, 3), np.uint8)
    out[:context], out[context:] = GREEN, RED
    out[:, BORDER:-BORDER, BORDER:-BORDER] = (images.clip(0, 1) * 255).round().astype(np.uint8)
    return out


def write_video(path: Path, frames: np.ndarray | list[np.ndarray], fps: int = 20) -> Path:
    """Writes frames [T, height, width, 3] uint8 as H.264, and returns the path.

    All get the size of the first, cut to even numbers.

    Raises:
        ValueError: frames of less than two pixels a side.
    """
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    if not (height and width):
        raise ValueError(f"a film of {frames[0].shape[1]} by {frames[0].shape[0]} pixels")
    sizes = {frame.shape for frame in frames}
    frames = np.asarray(frames if len(sizes) == 1 else [_sized(frame, frames[0].shape) for frame in frames])
    frames = frames[:, :height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    with imageio.get_writer(path, fps=fps, macro_block_size=1, codec="libx264", pixelformat="yuv420p") as writer:
        for frame in frames:
            writer.append_data(frame)  # type: ignore[attr-defined]
    return path


def _sized(frame: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    return frame if frame.shape == shape else np.asarray(Image.fromarray(frame).resize((shape[1], shape[0])))


def film_strip(dream: OpenLoop, key: str, count: int = 8) -> Figure:
    """``count`` moments of a dream's first future side by side, as ``dream_video`` draws them."""
    video = dream_video([dream], key, named=False)
    video = video[:, :, : video.shape[2] // len(dream.decoded[key])]
    times = np.linspace(0, len(video) - 1, min(count, len(video))).round().astype(int)
    strip = np.concatenate(list(video[times]), 1)
    height, width = strip.shape[:2]
    figure = Figure(figsize=(width / DPI + 0.6, height / DPI + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.imshow(strip, interpolation="nearest")
    axis.set_yticks((np.arange(len(ROWS)) + 0.5) * height / len(ROWS), ROWS)
    axis.set_xticks((np.arange(len(times)) + 0.5) * width / len(times), times - (dream.context - 1))
    axis.set_xlabel(NOW)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def vector_lines(
    specs: Specs, seen: dict[str, np.ndarray], decoded: dict[str, np.ndarray], count: int = 6
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The ``count`` liveliest vector dimensions as (name, truth [T], futures [samples, T])."""
    lines = []
    for key in (k for k in decoded if not specs.obs[k].image):
        truth = seen[key].reshape(len(seen[key]), -1)
        model = decoded[key].reshape(len(decoded[key]), len(truth), -1)
        for i in range(truth.shape[1]):
            name = apart(key) if truth.shape[1] == 1 else f"{apart(key)}[{i}]"
            lines.append((name, truth[:, i], model[:, :, i]))
    spread = [float(np.nanstd(truth)) / (1e-3 + float(np.nanmean(np.abs(truth)))) for _, truth, _ in lines]
    best = sorted(sorted(range(len(lines)), key=lambda i: -spread[i])[:count])
    return [lines[i] for i in best]


def dream_figure(specs: Specs, dream: OpenLoop, title: str = "", dims: int = 6) -> Figure:
    """Truth, the mean future and the band of futures (10 to 90%) over time, for vectors, reward and continue."""
    lines = vector_lines(specs, dream.seen, dream.decoded, dims)
    lines += [(name, dream.truth[name], dream.dream[name]) for name in ("reward", "cont")]
    lines.append(("value", np.full(dream.dream["value"].shape[1], np.nan), dream.dream["value"]))
    columns = 3
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.3 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    steps = np.arange(dream.dream["reward"].shape[1]) - (dream.context - 1)
    for axis, (name, truth, model) in zip(axes, lines, strict=False):
        _draw(axis, steps, name, truth, model)
    for axis in axes[: len(lines)][-columns:]:  # the lowest ones
        axis.set_xlabel(NOW, fontsize=8)
    for axis in axes[len(lines) :]:
        axis.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title or "open loop: the model sees the green steps and dreams the rest")
    return figure


def _draw(axis, steps: np.ndarray, name: str, truth: np.ndarray, model: np.ndarray) -> None:
    model = model.reshape(len(model), -1)
    axis.axvspan(steps[0], 0, color="tab:green", alpha=0.12, lw=0, label="seen")
    if len(model) > 1:
        low, high = np.quantile(model, [0.1, 0.9], axis=0)
        axis.fill_between(steps, low, high, color="tab:red", alpha=0.25, lw=0, label="futures, 10 to 90%")
        axis.plot(steps, model.T, color="tab:red", alpha=0.25, lw=0.6)
    axis.plot(steps, model.mean(0), color="tab:red", lw=1.5, label="dream (mean)")
    if not np.isnan(truth).all():
        axis.plot(steps, truth.reshape(-1), color="black", lw=1.2, ls="--", label="truth")
    axis.set_title(name, fontsize=10)
    axis.tick_params(labelsize=8)
    if name == "cont":
        axis.set_ylim(-0.05, 1.1)


def save_figure(path: Path, figure: Figure) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path

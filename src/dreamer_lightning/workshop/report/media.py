"""The newest pictures and videos of a run, held by the page itself."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import NamedTuple

from dreamer_lightning.store.runfolder import PLOTS, VIDEOS

KINDS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".mp4": "video/mp4"}
LARGEST = 20_000_000  # bytes of a file that the page takes in; a larger one is named by its path
OPEN_LOOP = "An episode beside what the model dreams: it sees the green steps and dreams the rest."


class Shown(NamedTuple):
    """A file of the run, and the sentence below it."""

    path: Path
    caption: str


def media(folder: Path) -> str:
    """The newest file of each kind; a sentence that names the commands where there is none."""
    found = newest(folder)
    if not found:
        told = f"No pictures yet: <code>dreamer-lightning dream {escape(str(folder))}</code> draws them once there"
        told += " is a checkpoint; evaluations during training film and draw, too."
        return f"<p>{told}</p>"
    return "".join(figure(shown) for shown in found)


def newest(folder: Path) -> list[Shown]:
    """Films first, then dreams; of files that differ by their env step alone, the last."""
    last: dict[str, Path] = {}
    for path in sorted((folder / VIDEOS).glob("[0-9]*-*")):  # 0000025000-openloop-image.mp4
        last[path.name.partition("-")[2]] = path
    found = []
    for name, path in sorted(last.items(), key=lambda item: not item[0].startswith("episode")):
        at = f"at env step {int(path.name.partition('-')[0]):,}" if path.name.partition("-")[0].isdigit() else ""
        text = "One greedy episode" if name.startswith("episode") else OPEN_LOOP.rstrip(".")
        found.append(Shown(path, f"{text}, {at}." if at else f"{text}."))
    for path in sorted((folder / VIDEOS).glob("evaluation*.mp4")):
        found.insert(0, Shown(path, "One greedy episode of the evaluation afterwards."))
    for path in [*sorted((folder / VIDEOS).glob("dream_*.mp4")), *sorted((folder / PLOTS).glob("dream*.png"))]:
        found.append(Shown(path, f"{OPEN_LOOP} Drawn by the command dream."))
    return [shown for shown in found if shown.path.suffix in KINDS]


def figure(shown: Shown) -> str:
    """A picture or a video with its sentence."""
    caption = f"<figcaption>{escape(shown.caption)} <code>{escape(shown.path.name)}</code></figcaption>"
    size = shown.path.stat().st_size
    if size > LARGEST:
        caption = f"<figcaption>{escape(shown.caption)} {size / 1e6:.0f} MB, too large for this page: "
        return f'<figure class="card">{caption}<code>{escape(str(shown.path))}</code></figcaption></figure>'
    kind = KINDS[shown.path.suffix]
    data = f"data:{kind};base64,{base64.b64encode(shown.path.read_bytes()).decode()}"
    alt = escape(shown.caption)
    body = f'<div class="still"><img src="{data}" alt="{alt}"></div>'
    if kind.startswith("video"):
        body = f'<video controls loop muted playsinline preload="metadata" src="{data}" aria-label="{alt}"></video>'
    return f'<figure class="card">{body}{caption}</figure>'

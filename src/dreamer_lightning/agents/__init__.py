"""Trained agents that come with the package, each in a folder of its name.

An agent's folder is a run folder without a history: ``config.yaml``, ``specs.json``, ``weights.safetensors`` where
others have checkpoints, ``card.json`` that says where it comes from, and ``episode.npz``, one greedy episode.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
WEIGHTS, CARD, EPISODE = "weights.safetensors", "card.json", "episode.npz"


def names() -> list[str]:
    """Names of the agents, as ``Agent.load`` takes them."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))


def folder(name: str) -> Path | None:
    """The folder of an agent; None if none has the name."""
    return FOLDER / name if name in names() else None


def card(path: Path) -> dict[str, Any]:
    """Where an agent comes from: task, seed, clocks, scores, commit, licence.

    Args:
        path: its folder.
    """
    return json.loads((path / CARD).read_text("utf-8"))


def home(run: str) -> Path:
    """Where commands write what they find out about a run: its folder, for an agent of the package ``runs/NAME``."""
    path = Path(run).expanduser()
    return Path("runs") / run if not path.is_dir() and folder(run) else path

"""Write a trained agent's acting step to a file that runs without this package."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from dreamer_lightning import agents
from dreamer_lightning.agent import Agent
from dreamer_lightning.export import onnx
from dreamer_lightning.export.step import ActingStep
from dreamer_lightning.types import UserError


def export(
    run: str,
    out: str | None = None,
    checkpoint: Literal["latest", "best"] = "latest",
    greedy: bool = False,
) -> str:
    """Write a trained agent's acting step to an ONNX file, and a card beside it that says how it is run.

    Args:
        run: run folder, or the name of an agent that comes with the package.
        out: the file; None: DIR/step.onnx.
        checkpoint: the newest one, or the one with the best evaluation.
        greedy: the most likely action instead of a draw, so that no action noise is asked for.

    Raises:
        UserError: not a run folder, or a package is missing.
    """
    if find_spec("onnx") is None:
        raise UserError('export: needs a package that is not installed: pip install ".[export]"')
    step = ActingStep(Agent.load(run, checkpoint, "cpu").dreamer, greedy)
    path = Path(out).expanduser() if out else agents.home(run) / "step.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.write(step, path)
    card = path.with_suffix(".json")
    card.write_text(json.dumps(step.card(), indent=1) + "\n", "utf-8")
    return f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)\nwrote {card}"

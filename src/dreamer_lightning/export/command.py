"""Write a trained agent's acting step to a file that runs without this package."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from dreamer_lightning import agents
from dreamer_lightning.agent import Agent
from dreamer_lightning.export.step import ActingStep
from dreamer_lightning.store.runfolder import class_of, read_config
from dreamer_lightning.types import UserError


def export(
    run: str,
    out: str | None = None,
    checkpoint: Literal["latest", "best"] = "latest",
    greedy: bool = False,
    format: Literal["onnx", "torch"] = "onnx",
) -> str:
    """Write a trained agent's acting step to a file, and a card beside it that says how it is run.

    Args:
        run: run folder, or the name of an agent that comes with the package.
        out: the file; None: DIR/step.onnx, or DIR/step.pt2 for torch.
        checkpoint: the newest one, or the one with the best evaluation.
        greedy: the most likely action instead of a draw, so that no action noise is asked for.
        format: onnx, or torch (torch.export: runs with PyTorch alone, by torch.export.load).

    Raises:
        UserError: not a run folder, or a package is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise UserError(f'export: {missing[0]} is not installed; pip install ".[export]"')
    agent = Agent.load(run, checkpoint, "cpu")
    step = ActingStep(agent.dreamer, greedy)
    path = Path(out).expanduser() if out else agents.home(run) / ("step.onnx" if format == "onnx" else "step.pt2")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(step, path) if format == "onnx" else write_torch(step, path)
    _, task = class_of(read_config(agent.run)["env"])
    repeat = task.get("repeat", 1)  # env steps that each action is held for
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**step.card(), "repeat": repeat}, indent=1) + "\n", "utf-8")
    return f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)\nwrote {card}"


def write(step: ActingStep, path: Path) -> None:
    """Writes the step as ONNX; the first dimension of everything is the number of environments, which is free."""
    example = step.example(3)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that it could convert, too
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's of its own parts
        torch.onnx.export(
            step,
            example,
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=step.inputs,
            output_names=step.outputs,
            dynamic_shapes=free(example),
        )


def write_torch(step: ActingStep, path: Path) -> None:
    """Writes the step as a program of torch.export."""
    example = step.example(3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(step, example, dynamic_shapes=free(example)), path)


def free(example: tuple[torch.Tensor, ...]) -> tuple[tuple[dict[int, Any], ...]]:
    """That the first dimension of each input may be any number."""
    return (tuple({0: torch.export.Dim.DYNAMIC} for _ in example),)

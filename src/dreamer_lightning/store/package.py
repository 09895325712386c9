"""An agent as a folder of its own: weights, and what a run folder says that its networks are built again from."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreamer_lightning import agents
from dreamer_lightning.store.runfolder import CONFIG, SPECS

MODULES = "modules"  # copies of own classes' files, in case the originals are gone


def save(folder: Path, agent: nn.Module, clocks: dict[str, Any], run: Path) -> None:
    """Write an agent with its card (JSON), from which ``Agent.load`` reads it on any machine.

    Args:
        folder: where to.
        agent: the networks.
        clocks: how far it was trained, for the card.
        run: the run folder that it comes from.
    """
    write(folder / agents.WEIGHTS, agent.state_dict(), run)
    size = sum(parameter.numel() for parameter in agent.parameters())
    card = {**clocks, "library_name": "dreamer-lightning", "parameters": size}
    (folder / agents.CARD).write_text(json.dumps(card, indent=1) + "\n", "utf-8")


def write(file: Path, weights: dict[str, Tensor], run: Path) -> None:
    """Write weights, and beside them copies of what a run folder says of the agent.

    Args:
        file: of the weights, in the format of safetensors.
        weights: by name.
        run: the run folder.
    """
    from safetensors.torch import save_file

    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}, file)
    if folder.resolve() == run.resolve():
        return
    for name in (CONFIG, SPECS):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    if (run / MODULES).is_dir():
        shutil.copytree(run / MODULES, folder / MODULES, dirs_exist_ok=True)


def keep_modules(target: str | Path, folders: Sequence[str]) -> None:
    """Copy the files of own classes, and of what they import from beside them, to ``modules/``.

    Args:
        target: the run folder.
        folders: where own classes were imported from; of these, files of modules in use are copied.
    """
    roots = {Path(folder).resolve() for folder in folders}
    used = {
        Path(file).resolve() for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    }
    for file in sorted(used):
        if file.parent in roots and file.suffix == ".py" and file.is_file():  # one in use may have been deleted since
            kept = Path(target) / MODULES / file.name
            kept.parent.mkdir(exist_ok=True)
            if kept.resolve() != file:
                shutil.copyfile(file, kept)

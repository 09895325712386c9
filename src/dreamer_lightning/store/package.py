"""An agent as a folder of its own: weights, and what a run folder says that its networks are built again from."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dreamer_lightning.store.runfolder import CONFIG, SPECS

MODULES = "modules"  # copies of own classes' files, in case the originals are gone


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

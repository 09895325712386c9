"""Finds the YAML files that configs are made of: a path as given, then the packaged ones, then the clone's."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

from dreamer_lightning import agents, migration
from dreamer_lightning.errors import UserError

PACKAGED = Path(__file__).resolve().parent / "configs"
CLONE = Path(__file__).resolve().parents[2] / "configs"
BASE = "networks.yaml"  # what every config lies on
OVERLAYS = (
    "debug.yaml",
    "dreamer_v2_atari.yaml",
    "explore.yaml",
    "faithful.yaml",
    "fast.yaml",
    "networks.yaml",
    "offline.yaml",
    "r2dreamer.yaml",
    "small.yaml",
    "ssm.yaml",
)
OTHERS = ("sweep.yaml",)  # no configs of fit


def shipped() -> list[str]:
    """Names of the configs that come with the package, such as ``dmc.yaml`` and ``size/12m.yaml``."""
    root = PACKAGED if PACKAGED.is_dir() else CLONE
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def shipped_name(path: Path) -> str:
    """The name of a shipped config; empty for any other file."""
    roots = [root for root in (PACKAGED, CLONE) if path.is_relative_to(root)]
    return path.relative_to(roots[0]).as_posix() if roots else ""


def presets() -> list[str]:
    """Shipped configs that a run can start from; the others lie on top of them."""
    return [name for name in shipped() if "/" not in name and name not in OVERLAYS + OTHERS]


def listing() -> str:
    """The shipped configs, each with the first line of its file."""
    lines = {name: find(name).read_text("utf-8").partition("\n")[0].lstrip("# ") for name in shipped()}
    return "\n".join(f"{name:24} {text}" for name, text in lines.items())


def is_named(word: str) -> bool:
    """Whether a word without an option is meant as a config: a file of YAML, or a shipped one's name."""
    return Path(word).suffix in (".yaml", ".yml") or f"{word}.yaml" in shipped()


def find(name: str) -> Path:
    """The absolute path of a config.

    Args:
        name: a path, or the name of a shipped config; ``.yaml`` may be left out.

    Raises:
        UserError: nothing of that name; says where it was looked for.
    """
    given = Path(name).expanduser()
    for path in (given, PACKAGED / name, CLONE / name):
        for candidate in (path, path.with_name(path.name + ".yaml")):
            if candidate.is_file():
                return candidate.resolve()
    if (gone := name.removesuffix(".yaml")) in migration.CONFIGS:
        raise UserError(f"--config: {gone}.yaml {migration.CONFIGS[gone]}")
    near = difflib.get_close_matches(name, shipped(), 3, 0.5) or shipped()
    folders = f"{Path.cwd() if not given.is_absolute() else given.parent} and the shipped configs"
    raise UserError(f"--config: no file '{name}' (looked in {folders}), did you mean {' or '.join(near)}?")


def class_folders(config: Path) -> list[str]:
    """Where a config's own classes are imported from: its folder and those it names; none for the shipped configs."""
    if shipped_name(config):
        return []
    return [str(config.parent), *import_from(config)]


def join_import_path(folders: list[str]) -> None:
    """Make the classes beside configs importable, here and in the worker processes, which inherit ``sys.path``.

    They come last, so that a file of a user's never stands in for a library that has its name.
    """
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def of_run(folder: str, option: str) -> Path:
    """The config of a run folder.

    Args:
        folder: the run folder, or the name of an agent that comes with the package.
        option: named in the error, such as ``--resume``.

    Raises:
        UserError: it is not a run folder.
    """
    path = Path(folder).expanduser() / "config.yaml"
    if not path.is_file() and (shipped := agents.folder(folder)):
        return shipped / "config.yaml"
    if not path.is_file():
        given = ", name the folder of this file" if Path(folder).name == "config.yaml" else " (it has no config.yaml)"
        raise UserError(f"{option}: '{folder}' is not a run folder{given}")
    if "\nalgo:" in path.read_text("utf-8"):
        raise UserError(f"{option}: '{folder}' is a run of yardstick, which keeps no agent and starts over")
    return path.resolve()


def load(config: Path) -> dict[str, Any]:
    """The options that a file of YAML holds.

    Raises:
        UserError: the file is no YAML, or holds no options.
    """
    import yaml

    try:
        values = yaml.safe_load(config.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"--config: {config}{where}: {getattr(error, 'problem', None) or 'not YAML'}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config: {config} holds no options; write lines such as seed: 3")
    return values


def for_parser(config: Path) -> str:
    """A config as the parser takes it: its path, or its text where it has options that moved."""
    import yaml

    values = load(config)
    today = migration.config(values)
    if today is values:
        return str(config)
    if moved := migration.listing(values):
        print(f"note: {config} has options that moved: {moved}", file=sys.stderr)
    return yaml.safe_dump(today, sort_keys=False)


def import_from(config: Path) -> list[str]:
    """The folders that own classes came from, as the config of a run remembers them."""
    return [str(folder) for folder in load(config).get("import_from") or ()]

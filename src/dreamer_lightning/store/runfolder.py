"""The run folder: its layout, the manifest of a checkpoint, and finding the newest checkpoint that is whole.

``config.yaml``, ``specs.json``, ``metrics.csv``, ``checkpoints/<name>/`` (``model.pt``, ``rank-<r>.pt``,
``manifest.json``), ``replay/rank-<r>/`` (files that checkpoints refer to), ``videos/``, ``plots/``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dreamer_lightning import migration
from dreamer_lightning.errors import UserError
from dreamer_lightning.store.atomic import fingerprint, write_atomic

CONFIG, METRICS = "config.yaml", "metrics.csv"
CHECKPOINTS, REPLAY, VIDEOS, PLOTS = "checkpoints", "replay", "videos", "plots"
SPECS = "specs.json"  # the environment's spaces, so that an agent is loaded without it
FROZEN = "frozen.json"  # names of the parameters that are not trained, for a resume
MANIFEST, MODEL = "manifest.json", "model.pt"
FORMAT = 2  # of the manifest; in 1 the state of each replay was a file of its own among the replay files
BEST = "best-"  # prefix of the checkpoint kept for its evaluation score: weights, not resumed from
SECRET = re.compile(r"(api_?key|token|secret|password|passwd|credential)", re.IGNORECASE)
log = logging.getLogger("dreamer_lightning")


def public(text: str) -> str:
    """A text to be saved: values of environment variables named like secrets become references, ``${oc.env:NAME}``."""
    for name, value in sorted(os.environ.items(), key=lambda item: -len(item[1])):
        if SECRET.search(name) and len(value) > 7:
            text = text.replace(value, f"${{oc.env:{name}}}")
    return text


def is_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run (a resolved config was written)."""
    return (Path(folder) / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run, with today's options.

    Raises:
        UserError: the folder holds no run.
    """
    if not is_run(folder):
        raise UserError(f"'{folder}' is not a run folder (it has no {CONFIG})")
    return migration.config(yaml.safe_load((folder / CONFIG).read_text("utf-8")) or {})


def class_of(part: Any) -> tuple[str, dict[str, Any]]:
    """The name of a class that a config names, without its module, and its options."""
    if isinstance(part, str):
        part = {"class_path": part}
    part = part or {}
    return part.get("class_path", "").rpartition(".")[2], part.get("init_args") or {}


def checkpoint_name(env_step: int, update: int) -> str:
    """Names sort in the order of the run."""
    return f"step-{env_step:010d}-update-{update:09d}"


def checkpoints(run_dir: Path) -> list[Path]:
    """Folders of the checkpoints to resume from, oldest first, whole or not."""
    return sorted((Path(run_dir) / CHECKPOINTS).glob("step-*"))


def best_checkpoint(run_dir: Path) -> Path | None:
    """The whole checkpoint with the best evaluation, or None."""
    found = sorted((Path(run_dir) / CHECKPOINTS).glob(BEST + "*"))
    return next((path for path in reversed(found) if damage(path) is None), None)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a checkpoint consists of: clocks, world size, score, ``files`` and ``replay`` with checksums.

    Raises:
        OSError, ValueError: missing, truncated or not a manifest.
    """
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ValueError("not a manifest")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest with a checksum of its own."""
    body = json.dumps(manifest, sort_keys=True)
    manifest = manifest | {"manifest_sha256": hashlib.sha256(body.encode()).hexdigest()}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def damage(folder: Path, replay: bool = False) -> str | None:
    """What is wrong with a checkpoint: one line that names the file, or None if it is whole.

    Args:
        folder: the checkpoint.
        replay: also check the replay files that it refers to.
    """
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return f"{folder / MANIFEST} is missing"
    except (OSError, ValueError):
        return f"{folder / MANIFEST} is truncated or altered"
    stated = manifest.pop("manifest_sha256", None)
    if stated != hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest():
        return f"{folder / MANIFEST} is truncated or altered"
    if manifest.get("format") not in range(1, FORMAT + 1):
        return f"{folder / MANIFEST} has format {manifest.get('format')}; this version reads 1 to {FORMAT}"
    groups = [(folder, manifest["files"])]
    if replay:
        groups.append((folder.parent.parent / REPLAY, manifest.get("replay", {})))
    for root, files in groups:
        for name, expected in files.items():
            path = root / name
            if ".." in Path(name).parts or Path(name).is_absolute():
                return f"{folder / MANIFEST} names a file outside the run folder: {name}"
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != expected["size"]:
                return f"{path} is truncated ({path.stat().st_size} bytes instead of {expected['size']})"
            if fingerprint(path)["sha256"] != expected["sha256"]:
                return f"{path} is altered (checksum differs)"
    return None


def latest_complete(run_dir: Path, report: Callable[[str], None] = log.warning, replay: bool = True) -> Path | None:
    """The newest checkpoint whose files all have the recorded checksums, or None.

    Args:
        run_dir: the run folder.
        report: told one line for each damaged checkpoint that is passed over.
        replay: also check the replay files.
    """
    for folder in reversed(checkpoints(run_dir)):
        wrong = damage(folder, replay)
        if wrong is None:
            return folder
        report(f"checkpoint passed over: {wrong}")
    return None

"""A run folder's copy at any URL that fsspec knows (``s3://``, ``gs://``, a second folder), and the way back.

A checkpoint is there once its manifest is: that is written last, after every file was read back and has its checksum.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import fsspec

from dreamer_lightning.store import atomic, package, runfolder
from dreamer_lightning.store.runfolder import BEST, CHECKPOINTS, CONFIG, FROZEN, MANIFEST, METRICS, REPLAY, SPECS
from dreamer_lightning.types import UserError

PLAIN = (CONFIG, SPECS, FROZEN, METRICS)  # files of a run that are copied as they are
STEP = "step-"  # prefix of the checkpoints to resume from


class Copy:
    """The copy of one run.

    Args:
        url: its folder.
        option: named in errors.

    Raises:
        UserError: no such protocol, or the package for it is missing.
    """

    def __init__(self, url: str, option: str):
        self.url = url.rstrip("/")
        try:
            self.files, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UserError(f"{option}: {url}: {str(error).splitlines()[0]}") from None
        self.root = root.rstrip("/")

    def at(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def checkpoints(self, prefix: str = STEP) -> list[str]:
        """Names of the whole checkpoints, oldest first."""
        self.files.invalidate_cache()
        found = self.files.glob(self.at(CHECKPOINTS, f"{prefix}*", MANIFEST))
        return sorted(Path(path).parent.name for path in found)

    def manifest(self, name: str) -> dict[str, Any]:
        return json.loads(self.files.cat_file(self.at(CHECKPOINTS, name, MANIFEST)))

    # There.

    def send(self, run: Path) -> None:
        """Copy what is new of a run, then remove what its newest checkpoint replaces.

        Raises:
            Exception: whatever the connection raises; the older copy stays whole.
        """
        for name in PLAIN:
            if (run / name).is_file():
                self.put(run / name, self.at(name))
        for module in sorted((run / package.MODULES).rglob("*.py")):
            self.put(module, self.at(module.relative_to(run).as_posix()))
        for folder in (runfolder.best_checkpoint(run), runfolder.latest_complete(run, replay=False)):
            if folder:
                self.send_checkpoint(folder)
        self.prune()

    def send_checkpoint(self, folder: Path) -> None:
        """Copy a checkpoint and the replay files that it needs, unless it is there."""
        manifest = runfolder.read_manifest(folder)
        if folder.name in self.checkpoints(folder.name):
            return
        for name, entry in manifest.get("replay", {}).items():
            if not self.holds(self.at(REPLAY, name), entry):  # checkpoints share them, and they never change
                self.put(folder.parent.parent / REPLAY / name, self.at(REPLAY, name), entry)
        for name, entry in manifest["files"].items():
            self.put(folder / name, self.at(CHECKPOINTS, folder.name, name), entry)
        self.put(folder / MANIFEST, self.at(CHECKPOINTS, folder.name, MANIFEST))

    def put(self, path: Path, target: str, entry: dict[str, Any] | None = None) -> None:
        """Copy a file; one with a checksum is read back."""
        self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.files.put_file(str(path), target)
        if entry and not self.holds(target, entry):
            self.files.rm_file(target)
            raise OSError(f"{target} did not arrive whole")

    def holds(self, target: str, entry: dict[str, Any]) -> bool:
        """Whether a file is there with the size and the checksum that a manifest states."""
        self.files.invalidate_cache()
        if not self.files.exists(target) or self.files.size(target) != entry["size"]:
            return False
        digest = hashlib.sha256()
        with self.files.open(target, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest() == entry["sha256"]

    def prune(self) -> None:
        """Keep the newest checkpoint and the best one, with the replay files that they need."""
        kept = [names[-1] for names in (self.checkpoints(), self.checkpoints(BEST)) if names]
        for path in self.files.ls(self.at(CHECKPOINTS), detail=False) if kept else ():
            if Path(path).name not in kept:
                if self.files.exists(f"{path}/{MANIFEST}"):
                    self.files.rm_file(f"{path}/{MANIFEST}")  # first: what is half removed is no checkpoint
                self.files.rm(path, recursive=True)
        needed = {name for one in kept for name in self.manifest(one).get("replay", {})}  # rank-0/FILE
        for path in self.below(REPLAY) if kept else ():
            if "/".join(path.split("/")[-2:]) not in needed:
                self.files.rm_file(path)

    def below(self, folder: str) -> list[str]:
        """Files in a folder that need not be there."""
        return self.files.find(self.at(folder)) if self.files.exists(self.at(folder)) else []

    # And back.

    def fetch(self, run: Path) -> Path:
        """Bring a run back into a folder that holds none; it is there once it is whole.

        Returns:
            ``run``.

        Raises:
            UserError: there is no whole checkpoint, or ``run`` is taken.
        """
        if run.exists():
            raise UserError(f"--resume: {run} is there already; go on with it by --resume {run}, or name a --run_dir")
        try:
            names = self.checkpoints()
            if not names:
                raise UserError(f"--resume: no complete checkpoint at {self.url}")
            temporary = run.with_name(atomic.TEMPORARY + run.name)
            shutil.rmtree(temporary, ignore_errors=True)
            for name in (names[-1], *self.checkpoints(BEST)[-1:]):
                self.fetch_checkpoint(name, temporary)
            for name in PLAIN:
                if self.files.exists(self.at(name)):
                    self.get(self.at(name), temporary / name)
            for path in self.below(package.MODULES):
                self.get(path, temporary / package.MODULES / path.rpartition(f"/{package.MODULES}/")[2])
        except UserError:
            raise
        except Exception as error:  # of the connection: each protocol has errors of its own
            raise UserError(f"--resume: {self.url}: {first_line(error)}") from None
        wrong = runfolder.damage(temporary / CHECKPOINTS / names[-1], replay=True)
        if wrong:
            raise UserError(f"--resume: {self.url} is damaged: {wrong}")
        temporary.rename(run)
        return run

    def fetch_checkpoint(self, name: str, run: Path) -> None:
        manifest = self.manifest(name)
        for file in (MANIFEST, *manifest["files"]):
            self.get(self.at(CHECKPOINTS, name, file), run / CHECKPOINTS / name / file)
        for file in manifest.get("replay", {}):
            self.get(self.at(REPLAY, file), run / REPLAY / file)

    def get(self, source: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.files.get_file(source, str(path))


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

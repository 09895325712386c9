"""Writing without half-written files: whatever is at a path is the old content or the new one, also after a kill."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

TEMPORARY, ASIDE = ".tmp-", ".old-"  # prefixes of what a killed process may leave behind


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of ``path`` once it is whole and synced.

    Raises:
        OSError: disk full, read-only folder; the old file is untouched.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``path`` so that a reader sees the old content or the new one, never a part.

    Raises:
        OSError: disk full, read-only folder; the old file is untouched.
    """
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    fsync_folder(path.parent)


class _Hashed:
    """A binary file that hashes and counts what is written to it."""

    def __init__(self, file: BinaryIO):
        self.file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.hash.update(view)
        self.size += len(view)
        self.file.write(view)
        return len(view)

    def flush(self) -> None:
        self.file.flush()


def save_tensors(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """``torch.save`` as a whole file or none; gives ``{"sha256": ..., "size": bytes}`` of what was written.

    Raises:
        OSError, RuntimeError: disk full or read-only folder (torch reports some of them as RuntimeError).
    """
    with replacing(path) as file:
        hashed: Any = _Hashed(file)
        torch.save(state, hashed)
    return {"sha256": hashed.hash.hexdigest(), "size": hashed.size}


def load_tensors(path: Path) -> dict[str, Any]:
    """Plain tensors and numbers of a file that ``save_tensors`` wrote, on the CPU; no code in it is ever run."""
    return torch.load(path, map_location="cpu", weights_only=True)


def fingerprint(path: Path) -> dict[str, Any]:
    """``{"sha256": ..., "size": bytes}`` of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
        size = file.tell()
    return {"sha256": digest.hexdigest(), "size": size}


def commit_folder(temporary: Path, final: Path) -> None:
    """Rename a fully written folder into place, replacing one of the same name."""
    fsync_folder(temporary)
    if final.exists():
        aside = final.with_name(ASIDE + final.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(final, aside)
        os.rename(temporary, final)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(temporary, final)
    fsync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once: killed halfway, it is no longer found under its name."""
    aside = folder.with_name(ASIDE + folder.name)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)

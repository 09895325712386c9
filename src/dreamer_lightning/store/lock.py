"""One process at a time works on a run folder."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dreamer_lightning.types import UserError

try:
    import fcntl
except ImportError:  # not on Windows: there nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


def take(folder: Path) -> int:
    """Lock a run folder for this process; it is made if it is missing.

    The system gives the lock back when the process ends, however it ends: a killed run leaves a file and no lock.

    Returns:
        What ``give_back`` takes.

    Raises:
        UserError: another process works on it, or nothing can be written there.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"--run_dir: {folder} cannot be written to ({error.strerror}); name another folder") from None
    try:
        if fcntl:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = _holder(path)
        os.close(handle)
        raise UserError(f"--run_dir: {folder} is in use{holder}; wait for its end, or name another folder") from None
    except OSError:  # a file system without locks
        return handle
    if not path.exists() or not os.path.samestat(os.fstat(handle), os.stat(path)):  # given back a moment ago
        os.close(handle)
        return take(folder)
    who = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # a full disk
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(who).encode())
    return handle


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text("utf-8"))
        return f" by process {who['process']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"


def give_back(folder: Path, handle: int) -> None:
    """Unlock a run folder."""
    with suppress(OSError):
        (folder / LOCK).unlink()
    os.close(handle)


@contextmanager
def held(folder: Path, fabric: Any) -> Iterator[None]:
    """Hold the lock of a run folder; one process does for all ranks.

    Args:
        folder: of the run.
        fabric: launched Fabric.

    Raises:
        UserError: on all ranks, see ``take``.
    """
    handle, problem = None, None
    if fabric.is_global_zero:
        try:
            handle = take(folder)
        except UserError as error:
            problem = str(error)
    if problem := fabric.broadcast(problem):
        raise UserError(problem)
    try:
        yield
    finally:
        if handle is not None:
            give_back(folder, handle)

"""What a process should be told before it trains: how to keep memory, and how threads should wait."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_process = os.getpid()  # a forked child finds its parent's
SPIN, SPIN_SHARED = 3000, 1000  # turns of OpenMP's waiting loop, about 10 ns each: 30 and 10 microseconds


def wait_politely(args: list[str]) -> None:
    """Let an idle OpenMP thread spin for some microseconds, then sleep; must run before torch is imported.

    By default it spins for milliseconds, which is fastest alone; beside one busy process an update then takes 4 times
    as long. To sleep at once costs 1.9 times alone, 1.8 times beside. 3000 turns cost 1.1 times alone and 3.1 beside,
    1000 turns 1.7 and 2.0 (`benchmarks/spin.py`): the latter are for a machine that is busy now, and for a command
    line that asks for worker processes or several devices.

    Args:
        args: the command line. What the user set of OpenMP is kept.
    """
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1)
    shared = busy or "process" in args or any(arg.startswith("--fabric.devices") for arg in args)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_SHARED if shared else SPIN))
        if shared:  # for an OpenMP that is not GNU's
            os.environ.setdefault("KMP_BLOCKTIME", "0")


def keep_memory() -> None:
    """Let glibc reuse freed memory: by default every tensor above 128 KB is a fresh mapping, zeroed page by page."""
    libc = _glibc()
    if libc:
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def trim_memory() -> None:
    """Give glibc's free pages back to the system; the next update takes its own again."""
    libc = _glibc()
    if libc:
        libc.malloc_trim(0)


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Torch as it begins, whatever the caller has set: float32, with gradients, outside of inference mode.

    A process that was forked computes in one thread: OpenMP's others stayed in the parent, and torch would wait for
    them without end.
    """
    import torch

    global _process
    if os.getpid() != _process:
        torch.set_num_threads(1)
        _process = os.getpid()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def take_any_letter(anew: bool) -> None:
    """Paths and tables may hold any letter, whatever the locale.

    Args:
        anew: start this process again in Python's UTF-8 mode, where the locale makes no text of such paths.
    """
    if anew and sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None

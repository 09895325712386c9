"""What a process should be told before it trains: how to keep memory, and how threads should wait."""

from __future__ import annotations

import ctypes
import os
import sys


def wait_politely(args: list[str]) -> None:
    """Let idle OpenMP threads sleep where other processes want the cores; must run before torch is imported.

    Alone, threads that spin are 1.2 to 1.5 times faster; beside busy processes, many times slower. So they sleep
    on a machine that is busy now, and where the command line asks for worker processes or several devices.

    Args:
        args: the command line. A value of OMP_WAIT_POLICY that the user set is kept.
    """
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)
    if busy or "process" in args or any(arg.startswith("--fabric.devices") for arg in args):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def repeatable(everywhere: bool) -> None:
    """Let torch take the same way through every computation each time, also where a faster one exists (GPUs).

    Args:
        everywhere: True refuses operations that have no such way; False leaves torch as it is by default.
    """
    import torch

    if everywhere:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(everywhere)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # finds errors, costs time


def keep_memory() -> None:
    """Let glibc reuse freed memory: by default every tensor above 128 KB is a fresh mapping, zeroed page by page."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)

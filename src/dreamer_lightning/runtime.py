"""What a process should be told before it trains: how to keep memory, and how threads should wait."""

from __future__ import annotations

import ctypes
import os
import sys


def wait_politely() -> None:
    """Let idle OpenMP threads sleep at once; must run before torch is imported. A value that the user set is kept.

    By default they spin, and then two threads beside busy worker processes are slower than one thread alone.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_memory() -> None:
    """Let glibc reuse freed memory: by default every tensor above 128 KB is a fresh mapping, zeroed page by page."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)

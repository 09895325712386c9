"""Memory over a long run: trains the debug agent and fits a line to the resident memory after the buffer is full.

Usage: python benchmarks/soak.py [ENV_STEPS=200000] [FOLDER=/tmp/soak] [CAPACITY=20000]

Prints a Markdown row: env steps, resident memory at the start and the end of the fit in MB, slope in percent per 100K
env steps. A run that leaks shows here within minutes; the slope of one that does not is noise, well below 1%.
FOLDER/memory.csv has the samples, and beside them what the allocator has given out (glibc): where only the resident
memory grows, nothing leaks, but the heap has holes.
"""

from __future__ import annotations

import csv
import ctypes
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(WANDB_MODE="disabled", MUJOCO_GL="disabled")

import numpy as np

import dreamer_lightning


class Heap(ctypes.Structure):
    """glibc's mallinfo2, in bytes."""

    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]  # noqa: RUF012


def given_out() -> int:
    """Bytes that the allocator has given out, of its heap and as mappings."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Heap
    found = libc.mallinfo2()
    return found.field7 + found.field4  # uordblks, hblkhd


class Memory:
    """Memory at an iteration's end, thinned to one sample per 500 env steps: (env step, resident MB, in use MB)."""

    samples: list[tuple[int, float, float]] = []  # noqa: RUF012

    def on_iteration_end(self, loop) -> None:
        if not self.samples or loop.clocks.env_step >= self.samples[-1][0] + 500:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            self.samples.append((loop.clocks.env_step, resident, given_out() / 1e6))


def main() -> None:
    sys.modules["soak"] = sys.modules["__main__"]
    steps, folder, capacity = (*sys.argv[1:], *["200000", "/tmp/soak", "20000"][len(sys.argv) - 1 :])
    dreamer_lightning.fit(
        "gym.yaml",
        "debug.yaml",
        run_dir=folder,
        env_steps=int(steps),
        replay={"capacity": int(capacity)},
        train_ratio=4,
        evaluation={"every": int(steps) // 8},
        checkpoint={"every": int(steps) // 20},
        fabric={"callbacks": [{"class_path": "soak.Memory"}]},
    )
    with open(Path(folder) / "memory.csv", "w", newline="") as file:
        csv.writer(file).writerows([("env_step", "resident_mb", "in_use_mb"), *Memory.samples])
    env_step, megabytes, _ = np.array([s for s in Memory.samples if s[0] > 1.25 * int(capacity)]).T
    slope, start = np.polyfit(env_step, megabytes, 1)
    first, last = start + slope * env_step[0], start + slope * env_step[-1]
    print("| env steps | resident at first, MB | at last, MB | slope, % per 100K |\n|---|---|---|---|")
    print(f"| {env_step[0]:.0f} to {env_step[-1]:.0f} | {first:.0f} | {last:.0f} | {1e7 * slope / first:+.2f} |")


if __name__ == "__main__":
    main()

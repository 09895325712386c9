"""Memory over a long run: trains the debug agent and fits a line to the resident memory after the buffer is full.

Usage: python benchmarks/soak.py [ENV_STEPS=200000] [FOLDER=/tmp/soak] [CAPACITY=20000]

Prints a Markdown row: env steps, resident memory at the start and the end of the fit in MB, slope in percent per 100K
env steps. A run that leaks shows here within minutes; the slope of one that does not is noise, well below 1%.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(WANDB_MODE="disabled", MUJOCO_GL="disabled")

import numpy as np

import dreamer_lightning


class Memory:
    """Resident memory (MB) at every iteration's end, thinned to one sample per 500 env steps."""

    samples: list[tuple[int, float]] = []  # noqa: RUF012

    def on_iteration_end(self, loop) -> None:
        if not self.samples or loop.clocks.env_step >= self.samples[-1][0] + 500:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.samples.append((loop.clocks.env_step, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))


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
    env_step, megabytes = np.array([s for s in Memory.samples if s[0] > 1.25 * int(capacity)]).T
    slope, start = np.polyfit(env_step, megabytes, 1)
    first, last = start + slope * env_step[0], start + slope * env_step[-1]
    print("| env steps | resident at first, MB | at last, MB | slope, % per 100K |\n|---|---|---|---|")
    print(f"| {env_step[0]:.0f} to {env_step[-1]:.0f} | {first:.0f} | {last:.0f} | {1e7 * slope / first:+.2f} |")


if __name__ == "__main__":
    main()

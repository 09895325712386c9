"""Two CPU processes of one thread, half a batch each, against one process of two threads: updates per second.

    python benchmarks/ddp.py [--updates 30] [--rounds 3]

Runs `fit` in turns, reads the time between updates from a callback, and times the all-reduce of as many numbers as the
agent has parameters between two processes. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PARAMETERS = 640_867
SETTINGS = {
    "one process, two threads": ["--threads", "2", "--num_envs", "4"],
    "two processes, one thread each": ["--threads", "1", "--num_envs", "2", "--fabric.devices", "2"],
}


class Stamps:
    """A callback that writes when each update ended.

    Args:
        path: file of one time a line.
    """

    def __init__(self, path: str):
        self.path = path

    def on_train_batch_end(self, loop) -> None:
        if loop.fabric.is_global_zero:
            with Path(self.path).open("a") as file:
                file.write(f"{time.perf_counter()} {loop.timers['train']}\n")


def fit(options: list[str], updates: int) -> tuple[float, float]:
    """Median seconds from update to update, and median seconds inside an update."""
    with tempfile.TemporaryDirectory() as folder:
        stamps = Path(folder) / "stamps"
        config = Path(folder) / "stamps.yaml"
        callback = {"class_path": "ddp.Stamps", "init_args": {"path": str(stamps)}}
        config.write_text(json.dumps({"fabric": {"callbacks": [callback]}}))
        quiet = ["--evaluation.every", "0", "--evaluation.random_episodes", "0", "--wandb.mode", "disabled"]
        command = [sys.executable, "-m", "dreamer_lightning", "fit", "--config", "dmc.yaml", "--config", str(config)]
        command += [
            *quiet,
            "--learning_starts",
            "64",
            "--updates",
            str(updates),
            "--run_dir",
            f"{folder}/run",
            *options,
        ]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL)
        rows = [[float(x) for x in line.split()] for line in stamps.read_text().splitlines()][3:]
    between = [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(rows, rows[1:], strict=False)]
    return tuple(statistics.median(column) for column in zip(*between, strict=True))


def reduce(rank: int, port: int, results) -> None:
    """Times the all-reduce between two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    gradient, times = torch.randn(PARAMETERS), []
    for _ in range(30):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(gradient)
        times.append(time.perf_counter() - start)
    if rank == 0:
        results.put(statistics.median(times[5:]))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(given.rounds):
        for name, options in SETTINGS.items():
            found[name].append(fit(options, given.updates))
            print(name, found[name][-1], file=sys.stderr, flush=True)
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(reduce, (29_517, results), nprocs=2)
    one, two = (statistics.median(inside for _, inside in rows) for rows in found.values())
    communication = results.get()
    print(json.dumps({"one_s": one, "two_s": two, "efficiency": one / two, "all_reduce_s": communication,
                      "communication_share": communication / two, "rounds": found}))  # fmt: skip


if __name__ == "__main__":
    main()

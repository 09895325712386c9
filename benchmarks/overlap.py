"""What collecting beside the update gains: env steps per second with and without `collector.overlap`.

    python benchmarks/overlap.py [--train_ratio 32] [--env_steps 16000] [--rounds 3]

Runs `fit --config dmc.yaml --actor_critic.imag_last 16` in turns, and takes the speed over the second half of each
run from its metrics.csv. Prints one JSON object: medians over the rounds, and the median of the rounds' ratios.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def speed(overlap: bool, train_ratio: float, env_steps: int) -> float:
    """Env steps per second over the second half of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = {
            "actor_critic.imag_last": 16,
            "train_ratio": train_ratio,
            "env_steps": env_steps,
            "log_every": 1000,
            "evaluation.every": 0,
            "checkpoint.every": 10 * env_steps,
            "collector.overlap": str(overlap).lower(),
            "wandb.mode": "disabled",
            "run_dir": run,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "dreamer_lightning", "fit", "--config", "dmc.yaml", *words]
        subprocess.run(command, check=True, capture_output=True)
        with (run / "metrics.csv").open() as file:
            clocks = [(int(row["env_step"]), float(row["seconds"])) for row in csv.DictReader(file)]
    late = [clock for clock in clocks if clock[0] >= env_steps / 2]
    return (late[-1][0] - late[0][0]) / (late[-1][1] - late[0][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_ratio", type=float, default=32)
    parser.add_argument("--env_steps", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = vars(parser.parse_args())
    rounds = options.pop("rounds")
    found = [[speed(overlap, **options) for overlap in (False, True)] for _ in range(rounds)]
    alone, beside = zip(*found, strict=True)
    row = {"env_steps_per_s": statistics.median(alone), "with_overlap": statistics.median(beside)}
    row["gain"] = statistics.median(b / a for a, b in found)
    print(json.dumps({**options, **row, "rounds": found}))


if __name__ == "__main__":
    main()

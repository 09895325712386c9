"""How the cost of an update grows: over model size, sequence length, imagination, environments and replay.

    python benchmarks/curves.py [--threads 1] [--date 2026-11-22] [--sweeps size batch_length]

Runs `bench` once for each point (minutes for the large models), and writes benchmarks/curves/DATE.csv, .md and .png.
"""

import argparse
import csv
import datetime
import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BASE = [
    "--config",
    "dmc.yaml",
    "--actor_critic.imag_last",
    "16",
    "--repeats",
    "3",
    "--seconds",
    "1",
    "--wandb.mode",
    "disabled",
]
SWEEPS = {  # what varies: (points, options of a point, what is drawn over it)
    "size": (["1m", "12m", "25m", "50m"], lambda x: ["--config", f"size/{x}.yaml"], "update_ms"),
    "batch_length": ([16, 32, 64, 128], lambda x: ["--batch_length", x], "update_ms"),
    "imag_length": ([15, 30, 50], lambda x: ["--actor_critic.imag_length", x], "update_ms"),
    "num_envs": ([1, 4, 16], lambda x: ["--num_envs", x], "collector_env_steps_per_s"),
    "replay_steps": (["10K", "100K", "1M"], lambda x: ["--replay_steps", x], "replay_sample_ms"),
}
COLUMNS = [
    "sweep",
    "point",
    "update_ms",
    "floor_ms",
    "update_floor_ratio",
    "gflop",
    "peak_rss_mb",
    "imagined_steps_per_s",
]
COLUMNS += ["act_ms_1", "act_ms_8", "collector_env_steps_per_s", "replay_sample_ms", "replay_add_us", "replay_steps"]
COLUMNS += ["params", "threads", "device_name", "torch"]


def measure(options: list[str], threads: int) -> dict:
    """The row of ``bench`` that ``fit`` would use."""
    command = [sys.executable, "-m", "dreamer_lightning", "bench", *BASE, "--threads", str(threads), "--json", *options]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return next(row for row in map(json.loads, lines) if row["default"])


def write(rows: list[dict], path: Path) -> None:
    """The points so far, as CSV and as a table for people."""
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    shown = COLUMNS[:14]
    text = [f"# Cost curves, {path.name}", "", f"{rows[0]['device_name']}, {rows[0]['threads']} threads, float32.", ""]
    text += ["| " + " | ".join(shown) + " |", "|---|---|" + "--:|" * (len(shown) - 2)]
    form = lambda x: f"{x:,.3g}" if isinstance(x, float) and x < 100 else f"{x:,.0f}" if isinstance(x, float) else x  # noqa: E731
    text += ["| " + " | ".join(str(form(row.get(key, ""))) for key in shown) + " |" for row in rows]
    path.with_suffix(".md").write_text("\n".join(text) + "\n")


def kept(path: Path, sweeps: list[str]) -> list[dict]:
    """Rows of an earlier call on the same date, but those of sweeps that are measured again."""
    table = path.with_suffix(".csv")
    if not table.exists():
        return []
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sweep"] not in sweeps]
    numbers = set(COLUMNS[2:14])
    return [{key: float(x) if key in numbers and x else x for key, x in row.items()} for row in rows]


def draw(rows: list[dict], path: Path) -> None:
    """One panel a sweep: the cost beside its floor, or the rate."""
    figure, axes = plt.subplots(1, len(SWEEPS), figsize=(3.2 * len(SWEEPS), 3.2), layout="constrained")
    for axis, (sweep, (_points, _options, what)) in zip(axes, SWEEPS.items(), strict=True):
        found = [row for row in rows if row["sweep"] == sweep]
        if not found:
            continue
        axis.plot([str(row["point"]) for row in found], [row[what] for row in found], "o-", label=what)
        if what == "update_ms":
            axis.plot([str(row["point"]) for row in found], [row["floor_ms"] for row in found], "o:", label="floor_ms")
        axis.set(xlabel=sweep, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle("dmc.yaml (size1m, 16x64, imag_last 16, 15 dreamed steps, 4 envs) unless varied; one CPU process")
    figure.savefig(path.with_suffix(".png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="the others keep their rows")
    given = parser.parse_args()
    path = HERE / "curves" / given.date
    path.parent.mkdir(exist_ok=True)
    rows = kept(path, given.sweeps)
    for sweep in given.sweeps:
        points, options, _ = SWEEPS[sweep]
        for point in points:
            found = measure([str(option) for option in options(point)], given.threads)
            rows.append({"sweep": sweep, "point": point, **found})
            print(sweep, point, f"{found['update_ms']:.0f} ms, floor {found['floor_ms']:.0f} ms", flush=True)
            write(rows, path)
    draw(rows, path)


if __name__ == "__main__":
    main()

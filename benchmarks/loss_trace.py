"""Loss traces: what a change that says "same numbers" must leave equal bit for bit.

    python benchmarks/loss_trace.py --record before.json            in the checkout before the change
    python benchmarks/loss_trace.py --check before.json             in the checkout after it, on the same machine
    python benchmarks/loss_trace.py --check before.json --only walker atari

Each case trains a small agent for 200 updates on one thread, with the compiled kernels and without, and keeps every
loss and the gradient's norm of each update. Processors round differently, so that a record holds on its own machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CASES: dict[str, list[str]] = {
    "walker": ["dmc.yaml", "faithful.yaml", "debug.yaml"],
    "mix": ["dmc.yaml", "debug.yaml", "--actor_critic.imag_last=8", "--collector.explore=null"],
    "dynamics": ["dmc.yaml", "faithful.yaml", "debug.yaml", "--actor_critic.gradient=Pathwise"],
    "cartpole": ["gym.yaml", "faithful.yaml", "debug.yaml"],
    "atari": ["atari100k.yaml", "debug.yaml"],
    "v1": ["dreamer_v1.yaml", "debug.yaml", "--env.pixels=false", "--env.vectors=true"],
    "v2": ["dreamer_v2.yaml", "debug.yaml", "--env.pixels=false", "--env.vectors=true"],
    "v2_atari": ["dreamer_v2.yaml", "dreamer_v2_atari.yaml", "debug.yaml"],
    "v3_2023": ["dreamer_v3_2023.yaml", "debug.yaml"],
}
SHORT = ["--env_steps=null", "--evaluation.every=0", "--evaluation.random_episodes=0", "--wandb.mode=disabled"]


class Trace:
    """A callback that keeps each update's losses and gradient norm.

    Args:
        path: JSON file that it writes: per update a dict of floats in hexadecimal.
    """

    def __init__(self, path: str):
        self.path, self.rows = Path(path), []

    def on_train_batch_end(self, metrics) -> None:
        wanted = {name: value for name, value in metrics.items() if name.startswith("loss/") or name == "opt/grad_norm"}
        self.rows.append({name: float(value).hex() for name, value in sorted(wanted.items())})

    def on_fit_end(self) -> None:
        self.path.write_text(json.dumps(self.rows))


def run(case: str, kernels: bool, updates: int) -> list[dict[str, str]]:
    """The trace of one case, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "trace.json"
        words = [part for name in CASES[case] for part in (["--config", name] if name.endswith(".yaml") else [name])]
        callback = {"class_path": "loss_trace.Trace", "init_args": {"path": str(out)}}
        words += [*SHORT, f"--updates={updates}", "--threads=1", f"--run_dir={folder}/run"]
        words += [f"--fabric.callbacks={json.dumps([callback])}"]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "DREAMER_KERNELS": "on" if kernels else "off"}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "dreamer_lightning", "fit", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode or not out.exists():
            raise SystemExit(f"{case}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return json.loads(out.read_text())


def difference(old: list[dict[str, str]], new: list[dict[str, str]]) -> str:
    """The first number that differs, in words; empty if none does."""
    for update, (before, after) in enumerate(zip(old, new, strict=False)):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                was, now = (float.fromhex(x[name]) if name in x else None for x in (before, after))
                return f"update {update}: {name} was {was!r}, is {now!r}"
    return "" if len(old) == len(new) else f"{len(old)} updates before, {len(new)} now"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="write the traces to this file")
    parser.add_argument("--check", type=Path, help="compare with this file; the exit code is 1 where a number differs")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="cases")
    parser.add_argument("--updates", type=int, default=200)
    options = parser.parse_args()
    if bool(options.record) == bool(options.check):
        parser.error("give one of --record and --check")
    before = json.loads(options.check.read_text()) if options.check else {}
    traces, bad = {}, 0
    for case in options.only:
        for kernels in (True, False):
            name = f"{case}, kernels {'on' if kernels else 'off'}"
            traces[name] = run(case, kernels, options.updates)
            if options.check:
                found = difference(before[name][: options.updates], traces[name])
                bad += bool(found)
                print(f"{name}: {found or 'equal'}", flush=True)
    if options.record:
        options.record.write_text(json.dumps(traces))
        print(f"wrote {options.record}: {', '.join(traces)}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

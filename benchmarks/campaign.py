"""Works through the queue of runs in `benchmarks/campaign.csv`: takes its next open rows, keeps what they measured.

    python benchmarks/campaign.py --max_time 150m [--jobs 2] [--threads 1] [--commit] [--gpu] [--dry]

A row's run lies in `runs/campaign/TASK/OVERLAY/seedK`; its metrics.csv and config.yaml are copied to
`benchmarks/results/TASK/OVERLAY/seedK` when it is finished, or paused because the time is up: the next call resumes it.
A later row of the same run with more env steps goes on with it. `--commit` commits each row's files at once.
`--adopt RUN OVERLAY COMMIT` takes a run that was started by hand for its row.

States: open; running (open again if its process is gone); paused; done; failed (the end of its log is printed);
gpu (an open row taken with --gpu alone); blocked (something it needs is missing).
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
OVERLAYS: dict[str, str] = yaml.safe_load((ROOT / "benchmarks" / "overlays" / "commands.yaml").read_text())


@dataclass(frozen=True)
class Paths:
    """Where the queue, the runs and what is kept of them lie."""

    queue: Path = ROOT / "benchmarks" / "campaign.csv"
    runs: Path = ROOT / "runs" / "campaign"
    results: Path = ROOT / "benchmarks" / "results"


def folder(row: dict[str, str]) -> Path:
    return Path(row["task"].replace(":", "_")) / row["overlay"] / f"seed{row['seed']}"


def read(queue: Path) -> list[dict[str, str]]:
    with queue.open(newline="") as file:
        return list(csv.DictReader(file))


def write(queue: Path, rows: list[dict[str, str]]) -> None:
    temporary = queue.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(queue)


def lock(path: Path, wait: bool) -> Any:
    """An open, locked file; None where another process holds it. It is free again when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        handle.close()
        return None
    return handle


def take(paths: Paths, commit: str, gpu: bool, tried: set[int]) -> tuple[int, dict[str, str], Any] | None:
    """Mark the next open row as running: its number, the row as it was and the lock on its run; None if there is none.

    Args:
        paths: the queue and the runs.
        commit: written into the row.
        gpu: take rows that need a GPU, too.
        tried: numbers of the rows that this call of the script has had already.
    """
    with lock(paths.runs / "queue.lock", wait=True):
        rows = read(paths.queue)
        for number, row in enumerate(rows):
            if number in tried or row["state"] not in {"open", "paused", "running", *(["gpu"] if gpu else [])}:
                continue
            held = lock(paths.runs / folder(row).parent / f"{folder(row).name}.lock", wait=False)
            if held:
                before = dict(row)
                row |= {"state": "running", "commit": commit}
                write(paths.queue, rows)
                return number, before, held
    return None


def settle(paths: Paths, number: int, state: str) -> None:
    with lock(paths.runs / "queue.lock", wait=True):
        rows = read(paths.queue)
        rows[number]["state"] = state
        write(paths.queue, rows)


def progress(run: Path) -> tuple[int, float]:
    """Env steps and seconds of a run so far."""
    path = run / "metrics.csv"
    with path.open(newline="") if path.is_file() else open(os.devnull) as file:
        rows = list(csv.DictReader(file))
    return (int(rows[-1]["env_step"]), float(rows[-1]["seconds"])) if rows else (0, 0.0)


def resumable(row: dict[str, str], run: Path) -> bool:
    return OVERLAYS[row["overlay"]].startswith("fit ") and (run / "config.yaml").is_file()


def command(row: dict[str, str], run: Path, threads: int, seconds: float) -> list[str]:
    """The command line of a row, with ``seconds`` left for it."""
    line = OVERLAYS[row["overlay"]]
    words = shlex.split(line.format(task=row["task"]))
    resume = resumable(row, run)
    where = os.path.relpath(run, ROOT)  # configs are published: they name no folder of this machine
    if resume:
        options = ["--resume", where]
    else:
        task = [] if "{task}" in line else ["--env.task", row["task"]]
        options = [*words[1:], *task, "--seed", row["seed"], "--run_dir", where]
        options += ["--wandb.mode", "disabled"] if words[0] == "fit" else []
    limit = int(seconds + (progress(run)[1] if resume else 0))
    limits = ["--env_steps", row["env_steps"], "--max_time", str(limit), "--threads", str(threads)]
    return [sys.executable, "-m", "dreamer_lightning", words[0], *options, *limits]


def keep(paths: Paths, row: dict[str, str]) -> Path:
    """Copy what a run measured to the results."""
    target = paths.results / folder(row)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.csv", "config.yaml"):
        text = (paths.runs / folder(row) / name).read_text()
        (target / name).write_text(text.replace(f"{ROOT}/", ""))
    return target


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def revision() -> str:
    """The commit at hand; ``+`` behind it where sources or configs differ from it."""
    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "src", "configs") else "")


def commit_row(paths: Paths, target: Path, text: str) -> None:
    """Commit a row's results and the queue, and nothing else."""
    files = [str(target), str(paths.queue)]
    for attempt in range(10):
        try:
            git("add", "--", *files)
            git("commit", "-q", "-m", text, "--", *files)
            return
        except subprocess.CalledProcessError as error:
            if attempt == 9:
                print(f"not committed: {error.stderr.strip()}", flush=True)
            time.sleep(1)


def finish(paths: Paths, number: int, row: dict[str, str], code: int, commit: bool) -> str:
    """Settle a row whose process has ended; its new state."""
    run = paths.runs / folder(row)
    steps, seconds = progress(run)
    state = "failed" if code else "done" if steps >= int(row["env_steps"]) else "paused"
    settle(paths, number, state)
    print(f"{folder(row)}: {state} at {steps} of {row['env_steps']} env steps, {seconds / 60:.0f} minutes", flush=True)
    if state == "failed":
        print("\n".join((run.with_suffix(".log")).read_text().splitlines()[-5:]), flush=True)
    elif steps:
        target = keep(paths, row)
        if commit:
            commit_row(paths, target, f"Campaign: {folder(row)} to {steps} env steps")
    return state


def work(paths: Paths, max_time: float, jobs: int, threads: int, commit: bool, gpu: bool) -> dict[int, str]:
    """Run rows until none is open or the time is up; the new states by row number."""
    deadline, revised = time.monotonic() + max_time, revision()
    running: dict[int, tuple[dict[str, str], Any, subprocess.Popen]] = {}
    states: dict[int, str] = {}
    try:
        while True:
            left = deadline - time.monotonic()
            tried = set(states) | set(running)
            while len(running) < jobs and left > min(120, max_time / 2):
                taken = take(paths, revised, gpu, tried)
                if taken is None:
                    break
                number, row, held = taken
                tried.add(number)
                run = paths.runs / folder(row)
                if not resumable(row, run):
                    shutil.rmtree(run, ignore_errors=True)
                words = command(row, run, threads, left)
                print(" ".join(words[1:]), flush=True)
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
                with run.with_suffix(".log").open("a") as log:
                    process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=ROOT)
                running[number] = (row, held, process)
            if not running:
                return states
            time.sleep(min(1.0, max_time / 20))
            for number in [n for n, (_, _, process) in running.items() if process.poll() is not None]:
                row, held, process = running.pop(number)
                states[number] = finish(paths, number, row, process.returncode, commit)
                held.close()
    finally:  # stopped from outside: the runs save themselves and stop
        for _, _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for number, (row, held, process) in running.items():
            process.wait()
            states[number] = finish(paths, number, row, 0, commit)
            held.close()


def adopt(paths: Paths, run: Path, overlay: str, revised: str, commit: bool) -> str:
    """Take a run that was started by hand for the first unfinished row of its task, seed and overlay; its new state."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    wanted = (str(config["env"]["init_args"]["task"]), str(config["seed"]), overlay)
    rows = read(paths.queue)
    found = [n for n, row in enumerate(rows) if (row["task"], row["seed"], row["overlay"]) == wanted]
    numbers = [n for n in found if rows[n]["state"] in ("open", "paused", "gpu", "failed")]
    if not numbers:
        raise SystemExit(f"no open row {', '.join(wanted)} in {paths.queue}")
    row, home = rows[numbers[0]], paths.runs / folder(rows[numbers[0]])
    if home.exists():
        raise SystemExit(f"{home} is a run already")
    shutil.copytree(run, home)
    row["commit"] = revised
    write(paths.queue, rows)
    return finish(paths, numbers[0], row, 0, commit)


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+\.?\d*)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 150m or 2h, got {text}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max_time", type=seconds, default=seconds("150m"), help="90s, 150m, 2h")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    parser.add_argument("--commit", action="store_true", help="commit each row at once")
    parser.add_argument("--gpu", action="store_true", help="take rows in state gpu, too")
    parser.add_argument("--dry", action="store_true", help="print the rows that are open, and run nothing")
    parser.add_argument("--adopt", nargs=3, metavar=("RUN", "OVERLAY", "COMMIT"), help="a run that was started by hand")
    options = vars(parser.parse_args())
    paths, adopted = Paths(), options.pop("adopt")
    if adopted:
        adopt(paths, Path(adopted[0]), *adopted[1:], commit=options["commit"])
        return
    if options.pop("dry"):
        states = {"open", "paused", "running", *(["gpu"] if options["gpu"] else [])}
        for row in (row for row in read(paths.queue) if row["state"] in states):
            words = command(row, paths.runs / folder(row), options["threads"], options["max_time"])
            print(f"{row['state']:8}", " ".join(words[1:]))
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        work(paths, **options)
    except KeyboardInterrupt:
        print("stopped; paused rows go on with the next call", flush=True)


if __name__ == "__main__":
    main()

"""Breaks a training run at random moments, again and again, and tells what it cost.

Usage: python benchmarks/faults/faults.py [ROUNDS=200] [FOLDER=/tmp/faults] [SEED=0] [TWO=0]

One run of a tiny agent goes on through all rounds. Each round is forked from this process, which has done the imports;
it resumes the run, one fault strikes at a random moment, and then the newest whole checkpoint is loaded here: weights,
optimiser, random states and replay, by their checksums. TWO rounds more kill one of two processes.
Appends a line for each round to FOLDER/rounds.jsonl, and prints a Markdown table of all that are there.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import signal
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(WANDB_MODE="disabled", MUJOCO_GL="disabled")

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

import dreamer_lightning
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.store.checkpoint import saved_replay
from dreamer_lightning.store.replay_files import ReplayFiles

OPTIONS = {
    "num_envs": 2,
    "train_ratio": 16,
    "batch_size": 2,
    "batch_length": 8,
    "learning_starts": 20,
    "imag_length": 3,
    "log_every": 20,
    "env_steps": 10_000_000,
    "evaluation": {"every": 120, "random_episodes": 0, "episodes": 1, "starts": 2},
    "checkpoint": {"every": 40, "keep": 3},
    "faults": {"numbers": "mask", "update": "skip", "env_failures": 3},
    "replay": {"capacity": 2000},
    "wandb": {"mode": "disabled"},
}
CHILD = (
    "kill",
    "kill at the start",
    "disk full",
    "read-only folder",
    "environment raises",
    "NaN observation",
    "NaN loss",
    "SIGTERM",
)
FILES = ("truncated file", "altered file")
DAMAGED: set[str] = set()  # files that were, and may still lie there
SHARED = mmap.mmap(-1, 32)  # updates of the running child, whether its fault has struck, updates when it did


def shared() -> tuple[int, int, int]:
    return struct.unpack("3q", SHARED[:24])


class Walk(gymnasium.Env):
    """A random walk of 25 steps that may be told to fail."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    fault = ""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.walk, self.time = self.np_random.normal(size=2), 0
        return self.walk.astype(np.float32), {}

    def step(self, action):
        self.time += 1
        self.walk = self.walk + 0.1 * self.np_random.normal(size=2) + action
        fault, Walk.fault = Walk.fault, ""
        if fault == "environment raises":
            raise OSError("the simulator's server is gone")
        walk = self.walk * (np.nan if fault == "NaN observation" else 1.0)
        return walk.astype(np.float32), float(-abs(self.walk[0])), False, self.time == 25, {}

    def get_state(self):
        return {"walk": self.walk, "time": self.time}

    def set_state(self, state):
        self.walk, self.time = state["walk"], state["time"]


class Strike:
    """The fault of a round, from within the run: at its update ``after``, for ``span`` updates."""

    def __init__(self, fault: str, after: int, span: int = 60):
        self.fault, self.after, self.span, self.count, self.undo = fault, after, span, 0, None

    def on_train_batch_end(self, loop) -> None:
        self.count += 1
        struck = self.count >= self.after
        SHARED[:24] = struct.pack(
            "3q",
            loop.clocks.update,
            int(struck),
            shared()[2] if struck and self.count > self.after else loop.clocks.update,
        )
        if self.count == self.after:
            self.strike(loop)
        if self.count == self.after + self.span:
            if self.undo:
                self.undo()
            if self.fault not in ("kill", "kill at the start"):
                os.kill(os.getpid(), signal.SIGKILL)

    def strike(self, loop) -> None:
        if self.fault == "disk full":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
            self.undo = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        elif self.fault == "read-only folder":
            make = Path.mkdir

            def refuse(*args, **kwargs):
                raise PermissionError(13, "Permission denied")

            Path.mkdir = refuse  # type: ignore[method-assign]  (root is refused by no folder)
            self.undo = lambda: setattr(Path, "mkdir", make)
        elif self.fault in ("environment raises", "NaN observation"):
            Walk.fault = self.fault
        elif self.fault == "NaN loss":
            reward = loop.replay.storage.arrays["reward"]
            slot = loop.replay.total[0] % loop.replay.slots  # some of the newest records, which are seen soon
            reward[max(0, slot - 8) : slot] = float("nan")
        elif self.fault == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)


def child(folder: Path, fault: str, after: int) -> None:
    """One stretch of the run, in a forked process."""
    log = open(folder.with_suffix(".log"), "ab", buffering=0)  # noqa: SIM115
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    code = 1
    try:
        strike = {"callbacks": [{"class_path": "faults.Strike", "init_args": {"fault": fault, "after": after}}]}
        if runfolder.is_run(folder):
            dreamer_lightning.fit(resume=str(folder), fabric=strike)
        else:
            env = {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "faults:Walk"}}
            dreamer_lightning.fit("gym.yaml", "debug.yaml", env=env, run_dir=str(folder), fabric=strike, **OPTIONS)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def whole(folder: Path) -> tuple[int | None, list[str]]:
    """Loads the newest whole checkpoint, all of it: its update (0 if there is none yet), and what was passed over."""
    said: list[str] = []
    found = runfolder.latest_complete(folder, said.append)
    if found is None:
        return 0, said
    state = atomic.load_tensors(found / "model.pt")["loop"]
    atomic.load_tensors(found / "rank-0.pt")
    weights = [v for v in state["dreamer"].values() if v.is_floating_point()]
    if not all(bool(v.isfinite().all()) for v in weights):
        return None, [*said, "weights are not finite"]
    for shard in saved_replay(found):
        replay = Replay(capacity=2000, batch_size=2, length=9, num_streams=shard.state["streams"])
        ReplayFiles(replay, shard.folder).load([shard])
        replay.sample()
    return runfolder.read_manifest(found)["update"], said


def damage(folder: Path, fault: str, chance: random.Random) -> str:
    """Truncate or alter a file of the newest checkpoint; returns its name."""
    newest = runfolder.latest_complete(folder, lambda _: None)
    if newest is None:
        return ""
    older = [path for path in runfolder.checkpoints(folder) if path != newest and not runfolder.damage(path)]
    mine = set(runfolder.read_manifest(newest)["replay"])
    for other in older[-1:]:
        mine -= set(runfolder.read_manifest(other)["replay"])
    files = [*newest.iterdir(), *(folder / runfolder.REPLAY / name for name in mine)]
    path = chance.choice(sorted(files))
    data = bytearray(path.read_bytes())
    if fault == "truncated file":
        data = data[: chance.randrange(len(data))]
    else:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    DAMAGED.add(str(path))
    return path.name


def round_of(folder: Path, fault: str, chance: random.Random) -> tuple[bool, int, str]:
    """One round: whether the run can go on, the updates that are lost, and a note."""
    SHARED[:24] = struct.pack("3q", 0, 0, 0)
    before, _ = whole(folder)
    process = os.fork()
    if not process:
        child(folder, "kill" if fault in FILES else fault, chance.randrange(5, 60))
    begin, limit = time.monotonic(), 240.0
    if fault == "kill at the start":
        time.sleep(chance.uniform(0.05, 3.0))
        os.kill(process, signal.SIGKILL)
    elif fault == "kill" or fault in FILES:
        while not shared()[1] and time.monotonic() - begin < limit:
            if os.waitpid(process, os.WNOHANG)[0]:
                return False, 0, "the run ended by itself"
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 1.0))  # anywhere: collecting, training, saving, evaluating, logging
        os.kill(process, signal.SIGKILL)
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            break
        if time.monotonic() - begin > limit:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return False, 0, "the run hung"
        time.sleep(0.005)
    reached, _, struck = shared()
    if fault == "SIGTERM" and status != 0:
        return False, 0, f"exit {status}"
    if fault not in ("kill", "kill at the start", "SIGTERM", *FILES) and reached < struck + 50:
        return False, 0, f"stopped {reached - struck} updates after the fault"
    note = damage(folder, fault, chance) if fault in FILES else ""
    update, said = whole(folder)
    unknown = [line for line in said if not any(path in line for path in DAMAGED)]
    if update is None or (note and not said) or unknown or update < (0 if note else before or 0):
        return False, 0, f"{note} {said} {before} {update}"
    return True, max(0, reached - update) if reached else 0, ""


def two(folder: Path, chance: random.Random) -> tuple[bool, int, str]:
    """Kill one of two processes at a random moment: the other must end within a minute, the run must go on."""
    here = str(Path(__file__).parent)
    env = {**os.environ, "PYTHONPATH": here}
    flat = [f"--{k}={v}" for k, v in OPTIONS.items() if not isinstance(v, dict)]
    flat += [f"--{k}.{n}={x}" for k, v in OPTIONS.items() if isinstance(v, dict) for n, x in v.items()]
    start = ["--config", "gym.yaml", "--config", "debug.yaml", "--run_dir", str(folder), *flat]
    start += [
        "--env",
        "dreamer_lightning.envs.Custom",
        "--env.path",
        "faults:Walk",
        "--fabric.devices",
        "2",
        "--fabric.accelerator",
        "cpu",
    ]
    command = [
        sys.executable,
        "-m",
        "dreamer_lightning",
        "fit",
        *(["--resume", str(folder)] if runfolder.is_run(folder) else start),
    ]
    before, _ = whole(folder)
    with open(folder.with_suffix(".log"), "ab") as log:
        main = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        count, begin = len(runfolder.checkpoints(folder)), time.monotonic()
        newest = runfolder.checkpoints(folder)[-1:]
        while runfolder.checkpoints(folder)[-1:] == newest and time.monotonic() - begin < 240 and main.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 2))
        others = Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()
        victim = chance.choice([main.pid, *map(int, others[:1])])
        os.kill(victim, signal.SIGKILL)
        begin = time.monotonic()
        rest = [p for p in (main.pid, *map(int, others[:1])) if p != victim]
        while any(running(p) for p in rest) and time.monotonic() - begin < 60:
            main.poll()
            time.sleep(0.1)
        took = time.monotonic() - begin
        main.poll()
    for process in rest:
        if running(process):
            os.kill(process, signal.SIGKILL)
    update, said = whole(folder)
    good = took < 60 and update is not None and update >= (before or 0) and not said
    return good, 0, "" if good else f"{took:.0f} s, {said}, {count}"


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    sys.modules["faults"] = sys.modules["__main__"]
    rounds, folder, seed, pairs = (*sys.argv[1:], *["200", "/tmp/faults", "0", "0"][len(sys.argv) - 1 :])
    torch.set_num_threads(1)
    chance, base = random.Random(int(seed)), Path(folder)
    base.mkdir(parents=True, exist_ok=True)
    faults = ["kill", *CHILD, *FILES]  # kills twice as often
    jobs = [faults[i % len(faults)] for i in range(int(rounds))] + ["kill, 2 processes"] * int(pairs)
    for i, fault in enumerate(jobs):
        begin = time.monotonic()
        good, lost, note = two(base / "pair", chance) if "2" in fault else round_of(base / "run", fault, chance)
        entry = {"fault": fault, "survived": good, "lost": lost, "note": note, "seconds": time.monotonic() - begin}
        with open(base / "rounds.jsonl", "a") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{i:4} {fault:20} {'ok' if good else 'FAILED'} lost {lost} {note}", file=sys.stderr, flush=True)
    table([json.loads(line) for line in (base / "rounds.jsonl").read_text().splitlines()])


def table(entries: list[dict]) -> None:
    """Prints what all rounds found."""
    results: dict[str, list[dict]] = {}
    for entry in entries:
        results.setdefault(entry["fault"], []).append(entry)
    print(f"{len(entries)} rounds, {sum(e['seconds'] for e in entries) / 60:.0f} minutes, torch {torch.__version__}\n")
    print("| fault | rounds | survived | lost updates, median | maximum |\n|---|---|---|---|---|")
    for fault, of_it in sorted(results.items()):
        lost = [entry["lost"] for entry in of_it if entry["survived"]] or [0]
        survived, middle = sum(entry["survived"] for entry in of_it), statistics.median(lost)
        print(f"| {fault} | {len(of_it)} | {survived} | {middle:g} | {max(lost)} |")


if __name__ == "__main__":
    main()

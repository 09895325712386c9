"""Run by test_resume.py: three runs of one config, forked from one process: undisturbed, killed, resumed.

Usage: exact_resume.py FOLDER NAME...    (names of ENVS)
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

import dreamer_lightning
from dreamer_lightning.store import runfolder

ENVS = {
    "reacher": ["dmc.yaml", {"init_args": {"task": "reacher_easy", "time_limit": 60}}],
    "cartpole": ["gym.yaml", {"init_args": {"task": "CartPole-v1", "time_limit": 30}}],
    "v2": [  # draws episodes, plays blindly at first, owes its updates in bursts
        "dreamer_v2.yaml",
        {"init_args": {"task": "cartpole_balance", "time_limit": 40, "pixels": False, "vectors": True}},
        {"prefill": 60, "pretrain": 3, "burst": 2},
    ],
    "corners": [
        "gym.yaml",
        {"init_args": {"task": "CartPole-v1", "time_limit": 30}},
        {"collector": {"explore": {"class_path": "HeldCorners", "init_args": {"first": 40, "share": 0.5}}}},
    ],
    "forgets": [
        "gym.yaml",
        {
            "class_path": "dreamer_lightning.envs.Custom",
            "init_args": {"path": "test_environment:Forgets", "time_limit": 30},
        },
    ],
}
OPTIONS = {
    "num_envs": 2,
    "train_ratio": 11,
    "batch_size": 3,
    "batch_length": 8,
    "learning_starts": 30,
    "imag_length": 3,
    "log_every": 20,
    "env_steps": 300,
    "evaluation": {"every": 110, "random_episodes": 0, "starts": 4},
    "checkpoint": {"every": 1_000_000},
    "wandb": {"mode": "disabled"},
}


class Interrupt:
    """Saves in the middle of the run, and dies a few steps later, as if by kill -9."""

    save_at, kill_at = 170, 200

    def __init__(self, kill: bool = True):
        self.kill, self.done = kill, False

    def on_iteration_end(self, loop) -> None:
        if not self.done and loop.clocks.env_step >= self.save_at:
            self.done = True
            next(cb for cb in loop.callbacks if type(cb).__name__ == "Checkpoint").save(loop)
        if self.kill and loop.clocks.env_step >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(function, *args, **options) -> int:
    child = os.fork()
    if not child:
        code = 1
        try:
            function(*args, **options)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(child, 0)[1]


def main(folder: Path, env: str) -> None:
    preset, factory, *more = ENVS[env]
    options = {**OPTIONS, **(more[0] if more else {})}
    callbacks = lambda kill: {"callbacks": [{"class_path": "exact_resume.Interrupt", "init_args": {"kill": kill}}]}  # noqa: E731
    whole = {"env": factory, "run_dir": str(folder / "whole"), "fabric": callbacks(False)}
    cut = {"env": factory, "run_dir": str(folder / "cut"), "fabric": callbacks(True)}
    if env != "forgets":
        assert forked(dreamer_lightning.fit, preset, "debug.yaml", **options, **whole) == 0
    assert forked(dreamer_lightning.fit, preset, "debug.yaml", **options, **cut) == signal.SIGKILL
    found = runfolder.latest_complete(folder / "cut")
    assert 170 <= runfolder.read_manifest(found)["env_step"] < 200
    assert forked(dreamer_lightning.fit, resume=str(folder / "cut"), fabric={"callbacks": []}) == 0


if __name__ == "__main__":
    for name in sys.argv[2:]:
        main(Path(sys.argv[1]) / name, name)

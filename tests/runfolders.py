"""Run folders as the tests of curves and figures want them, written in a moment."""

from __future__ import annotations

from pathlib import Path

import yaml


def write_run(folder: Path, scores: list[float], seed: int = 0, task: str = "reacher_easy", **config) -> Path:
    """A run folder: one episode every 2000 env steps, a greedy evaluation every 10K."""
    folder.mkdir(parents=True)
    env = {"class_path": "dreamer_lightning.envs.DMC", "init_args": {"task": task, "repeat": 2, "pixels": False}}
    usual = {"env": env, "seed": seed, "train_ratio": 512.0, "num_envs": 4, "size": {"deter": 512}, "imag_last": 16}
    (folder / "config.yaml").write_text(yaml.safe_dump({**usual, **config}))
    with (folder / "metrics.csv").open("w") as file:
        file.write("env_step,agent_step,update,seconds,loss/dyn,episode/score,eval/greedy_score\n")
        for i, score in enumerate(scores, 1):
            step = 2000 * i
            greedy = f"{score + 1}" if step % 10_000 == 0 else ""
            file.write(
                f"{step},{step // 2},{i},{i * 60.0},,{score},\n{step},{step // 2},{i},{i * 60.0},1.0,,{greedy}\n"
            )
    return folder

"""A model-free yardstick: an algorithm of stable-baselines3 on the same environment, with its own defaults."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import yaml
from gymnasium import spaces

from dreamer_lightning.callbacks.metrics import RowFile
from dreamer_lightning.commands.fit import check_run_dir, default_run_dir
from dreamer_lightning.commands.run import Run
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.view import GymView
from dreamer_lightning.schedule import Limits
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.types import UserError

USED = ("env", "seed", "run_dir", "env_steps", "max_time", "threads", "log_every", "algo")  # of all options
MODEL = (
    "train_ratio",
    "batch_size",
    "batch_length",
    "learning_starts",
    "replay",
    "size",
)  # and what mbpo's model takes
EVERY = 60.0  # seconds between two lines of progress


def yardstick(
    options: dict[str, Any], algo: Literal["ppo", "sac", "dqn", "mbpo"] = "ppo", config_text: str = ""
) -> Run:
    """Train a model-free algorithm of stable-baselines3, with its defaults, on the environment of a config.

    Of the options of ``fit`` these count: env, seed, run_dir, env_steps, max_time, threads, log_every. One environment
    is played, as the library's defaults are made for; ``compare`` reads the run folder.

    mbpo is the library's SAC with 20 updates a step, 95% of each batch from dreams of 1 to 5 steps: the longer, the
    more of env_steps is played. They begin at replayed states of a world model that is trained beside it: the
    config's own, by its networks, optimizer, replay, batches and train_ratio.

    Args:
        options: options of ``fit``.
        algo: ppo, sac (continuous actions), dqn (one discrete action) or mbpo (numbers seen, continuous actions).
        config_text: the resolved config.

    Returns:
        The run: config.yaml and metrics.csv, with the rows of training episodes that ``fit`` writes.

    Raises:
        UserError: the library is not installed, or the algorithm does not take the environment.
    """
    library = import_library()
    env, seed = options["env"], options["seed"]
    steps, max_time = options["env_steps"], options["max_time"]
    name = default_run_dir(env, algo, seed)
    folder = check_run_dir(options["run_dir"] or name, None, Limits(steps, None, max_time), resumable=False)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    view = GymView(env.make(seed))
    check_actions(algo, env, view)
    decisions = -(-steps // env.repeat) if steps else sys.maxsize
    more: Callable[[], dict[str, float]] = dict
    if algo == "mbpo":
        from dreamer_lightning.workshop.mbpo import build_mbpo

        model, source = build_mbpo(library, view, options, decisions, folder / runfolder.REPLAY)
        more = source.metrics
    else:
        model = build_model(library, algo, view, seed, decisions)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        key: value
        for key, value in (yaml.safe_load(config_text) or {}).items()
        if key in USED + MODEL * (algo == "mbpo")
    }
    config |= {"algo": algo, "library": f"stable-baselines3 {library.__version__}"}
    atomic.write_atomic(folder / runfolder.CONFIG, yaml.safe_dump(config, sort_keys=False))
    rows = RowFile(folder / runfolder.METRICS)
    watch = make_watch(library, rows, env, decisions, max_time, options["log_every"], more)
    try:
        model.learn(decisions, callback=watch)
    finally:
        watch.flush()
        view.close()
    returns = watch.returns[-10:]
    last = f"mean return of the last {len(returns)} episodes {np.mean(returns):.1f}" if returns else "no episode ended"
    return Run(folder, f"{algo} on {env.name}: {watch.num_timesteps * env.repeat:,} env steps, {last}; {folder}")


def import_library() -> Any:
    """stable-baselines3.

    Raises:
        UserError: it is not installed.
    """
    try:
        import stable_baselines3
    except ImportError as error:
        text = "yardstick needs stable-baselines3, an optional extra: pip install 'dreamer-lightning[yardstick]'"
        raise UserError(text) from error
    return stable_baselines3


def check_actions(algo: str, env: EnvFactory, view: GymView) -> None:
    """Whether an algorithm takes an environment's actions.

    Raises:
        UserError: it does not; says which does.
    """
    wanted: dict[str, type[spaces.Space]] = {"sac": spaces.Box, "mbpo": spaces.Box, "dqn": spaces.Discrete}
    if algo in wanted and not isinstance(view.action_space, wanted[algo]):
        other = "ppo or dqn" if isinstance(view.action_space, spaces.Discrete) else "ppo"
        other = "ppo, sac or mbpo" if isinstance(view.action_space, spaces.Box) else other
        raise UserError(f"--algo: {algo} does not take the actions of {env.name} ({view.action_space}); take {other}")


def build_model(library: Any, algo: str, view: GymView, seed: int, decisions: int) -> Any:
    """The library's model with its defaults; a replay never longer than the run, which changes no number."""
    image = isinstance(view.observation_space, spaces.Box) and len(view.observation_space.shape) == 3
    policy = "CnnPolicy" if image else "MlpPolicy" if view.single else "MultiInputPolicy"
    replay = {} if algo == "ppo" else {"buffer_size": min(1_000_000, decisions)}
    return getattr(library, algo.upper())(policy, view, seed=seed, verbose=0, **replay)


def make_watch(
    library: Any,
    rows: RowFile,
    env: EnvFactory,
    decisions: int,
    max_time: float | None,
    log_every: int,
    more: Callable[[], dict[str, float]] = dict,
) -> Any:
    """A callback of the library that writes ``metrics.csv``, ``more`` with each log row, and stops at the limits."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        def __init__(self):
            super().__init__()
            self.returns: list[float] = []
            self.began = self.shown = time.monotonic()
            self.logged, self.next_log = 0, log_every

        def clocks(self) -> dict[str, float]:
            seconds = time.monotonic() - self.began
            updates = int(getattr(self.model, "_n_updates", 0))
            return {
                "env_step": self.num_timesteps * env.repeat,
                "agent_step": self.num_timesteps,
                "update": updates,
                "seconds": seconds,
            }

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    score, length = float(info["episode"]["r"]), int(info["episode"]["l"])
                    self.returns.append(score)
                    rows.append({**self.clocks(), "episode/score": score, "episode/length": length * env.repeat})
            clocks = self.clocks()
            if clocks["env_step"] >= self.next_log:
                self.next_log = (int(clocks["env_step"]) // log_every + 1) * log_every
                self.flush()
            if time.monotonic() - self.shown > EVERY:
                self.shown = time.monotonic()
                last = " ".join(f"{score:.0f}" for score in self.returns[-3:])
                print(f"env steps {clocks['env_step']:,}, returns {last}", file=sys.stdout, flush=True)
            late = max_time is not None and clocks["seconds"] >= max_time
            return self.num_timesteps < decisions and not late

        def flush(self) -> None:
            if self.num_timesteps > self.logged:
                self.logged = self.num_timesteps
                clocks = self.clocks()
                rows.append({**clocks, "fps/env": clocks["env_step"] / max(clocks["seconds"], 1e-9), **more()})

    return Watch()

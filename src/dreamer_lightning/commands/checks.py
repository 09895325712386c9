"""What a run is refused for before anything of it is written."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.explain import nearest
from dreamer_lightning.store import runfolder
from dreamer_lightning.types import UserError

AT_LEAST = {
    1: (
        "num_envs batch_size batch_length log_every burst threads collector.steps losses.horizon losses.slow_every "
        "faults.env_failures"
    ),
    0: (
        "seed train_ratio prefill pretrain imag_last collector.noise evaluation.num_envs evaluation.starts "
        "evaluation.random_episodes checkpoint.keep losses.actent losses.lam losses.gradient_mix losses.slow_rate"
    ),
}
AT_MOST = {"seed": 2**32 - 1, "losses.lam": 1, "losses.gradient_mix": 1, "losses.slow_rate": 1}


def check_numbers(options: dict[str, Any]) -> None:
    """Whether the numbers among the options of ``fit`` are in their range, where they are given.

    Raises:
        UserError: one is not.
    """
    for least, names in AT_LEAST.items():
        for name in names.split():
            value = value_of(options, name)
            if value is not None and value < least:
                raise UserError(f"--{name}: {value} is too small; give {least} or more")
    for name, most in AT_MOST.items():
        if value_of(options, name) > most:
            raise UserError(f"--{name}: {value_of(options, name)} is too large; give {most} or less")
    if value_of(options, "evaluation.every") and value_of(options, "evaluation.episodes") < 1:
        raise UserError("--evaluation.episodes: give 1 or more, or --evaluation.every 0 for no evaluation")


def value_of(options: dict[str, Any], name: str) -> Any:
    """The value of a dotted option."""
    group, _, rest = name.partition(".")
    return getattr(options[group], rest) if rest else options[group]


def check_optimizer(folder: Path, config_text: str) -> None:
    """Whether a resumed run has the optimizer that it was saved with, whose state another cannot read.

    Raises:
        UserError: it has another.
    """
    texts = ((folder / runfolder.CONFIG).read_text(), config_text)
    before, now = (yaml.safe_load(text)["optimizer"]["class_path"] for text in texts)
    if before != now:
        raise UserError(f"--optimizer: {now}, but the run's state is of {before}; --init_from takes the weights alone")


def check_start(replay: Replay, learning_starts: int) -> None:
    """Whether learning can ever start.

    Raises:
        UserError: the replay never holds that many sequences.
    """
    most = replay.num_streams * (replay.slots - replay.length + 1)
    if learning_starts > most:
        raise UserError(
            f"--learning_starts: {learning_starts} sequences are waited for, and the replay of {replay.num_streams} "
            f"environments never holds more than {most}; lower it, or raise --replay.capacity"
        )


def check_callbacks(given: Iterable[Any] | None) -> list[Any]:
    """The callbacks as objects. What the parser could not build it leaves as data, because any object may be one.

    Raises:
        UserError: a class that is not there, or that does not take its ``init_args``.
    """
    return [_built(one) if isinstance(one, str | dict) else one for one in given or ()]


def _built(data: str | dict[str, Any]) -> Any:
    data = {"class_path": data} if isinstance(data, str) else data
    path, init_args = str(data.get("class_path", "")), data.get("init_args") or {}
    module, _, name = path.rpartition(".")
    if not module:
        raise UserError(f"--fabric.callbacks: expected class_path and init_args of each, got {data}")
    try:
        found = import_module(module)
    except ImportError as error:
        raise UserError(f"--fabric.callbacks: cannot import {module}: {error}") from error
    if not hasattr(found, name):
        raise UserError(f"--fabric.callbacks: {module} has no {name!r}{nearest(name, vars(found))}")
    try:
        return getattr(found, name)(**init_args)
    except TypeError as error:
        raise UserError(f"--fabric.callbacks: {path} cannot be made: {error}") from error

"""What a run is refused for before anything of it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.store import runfolder
from dreamer_lightning.types import UserError

AT_LEAST = {
    1: ("num_envs batch_size batch_length log_every burst threads collector.steps faults.env_failures"),
    0: (
        "seed train_ratio prefill pretrain evaluation.num_envs evaluation.starts "
        "evaluation.random_episodes checkpoint.keep"
    ),
}
AT_MOST = {"seed": 2**32 - 1}


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

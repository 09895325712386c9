"""What a run is refused for before anything of it is written."""

from __future__ import annotations

from pathlib import Path

import yaml

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.store import runfolder
from dreamer_lightning.types import UserError


def check_optimizer(folder: Path, config_text: str) -> None:
    """Whether a resumed run has the optimizer that it was saved with, whose state another cannot read.

    Raises:
        UserError: it has another.
    """
    texts = ((folder / runfolder.CONFIG).read_text("utf-8"), config_text)
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

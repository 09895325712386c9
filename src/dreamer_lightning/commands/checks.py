"""What a run is refused for before anything of it is written."""

from __future__ import annotations

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.types import UserError


def check_counts(**options: int | None) -> None:
    """Whether all of these are 1 or more, where they are given.

    Raises:
        UserError: one is not.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('__', '.')}: {value} is too few; give 1 or more")


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

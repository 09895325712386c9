"""What a callback is: any object with some of the hooks; this class adds a state that checkpoints keep.

Hooks, each called as ``fabric.call(name, loop=loop, ...)`` and needing only the arguments it names (``loop`` is a
``LoopView``): ``on_fit_start``, ``on_train_start``, ``on_collect_end(wire)``, ``on_train_batch_end(metrics)``,
``on_iteration_end``, ``on_validation_start``, ``on_validation_end(metrics, episodes)``, ``on_log(row)``,
``on_media(name, path)``, ``on_save_checkpoint(state)``, ``on_load_checkpoint(state)``, ``on_exception(error)``,
``on_train_end``, ``on_fit_end``.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, runtime_checkable

if TYPE_CHECKING:  # for signatures alone: whoever draws a curve from a file needs no torch
    from collections.abc import Callable

    from lightning.fabric import Fabric
    from torch import Tensor

    from dreamer_lightning.data.replay import Replay
    from dreamer_lightning.dreamer import Dreamer
    from dreamer_lightning.envs.base import EnvFactory
    from dreamer_lightning.sanity import Sanity
    from dreamer_lightning.schedule import Clocks, Limits, Ratio, Timers
    from dreamer_lightning.types import Specs

CLOCKS = ("env_step", "agent_step", "update", "seconds")


@runtime_checkable
class LoopView(Protocol):
    """What callbacks may read of the training loop, and what they may ask of it."""

    fabric: Fabric
    dreamer: Dreamer
    replay: Replay
    env_factory: EnvFactory
    specs: Specs
    clocks: Clocks
    limits: Limits
    ratio: Ratio
    timers: Timers  # seconds of all sessions by what took them
    waited: float  # seconds for the answers of other ranks
    run_dir: Path
    callbacks: list[Any]

    @property
    def sanity(self) -> Sanity:
        """What was found about the updates."""
        ...

    @property
    def should_stop(self) -> bool: ...

    def stop(self, reason: str) -> None:
        """End the run after the update at hand."""

    def log(self, metrics: dict[str, float | Tensor]) -> None:
        """Add to the next row."""

    def agreed(self, mine: bool, among: Callable[[list[bool]], bool]) -> bool:
        """One answer for all ranks; every rank must ask."""
        ...

    # What checkpoints are made of.

    def sound(self) -> bool:
        """Whether no bad update is in the weights."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def rank_state_dict(self) -> dict[str, Any]: ...

    def load_rank_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Returns the environments that begin new episodes, as their state is not saved."""
        ...


class Callback:
    """Base of the package's callbacks; a user's own need not derive from it."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings, lists and dicts that go on after a resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""


def is_episode(row: dict[str, Any]) -> bool:
    """Whether a row tells of one finished training episode (the others come from the loop's log cadence)."""
    return "episode/score" in row


def say(loop: LoopView, text: str) -> None:
    """One line for the user, from rank 0."""
    if loop.fabric.is_global_zero:
        tell(text)


def warn(text: str) -> None:
    """One line on stderr: something failed and training goes on."""
    tell(f"warning: {text}", sys.stderr)


def tell(text: str, file: TextIO | None = None) -> None:
    """Print a line; a log file on a full disk or a terminal that is gone does not end the run."""
    with suppress(OSError, ValueError):
        print(text, file=file, flush=True)

"""What a callback is: any object with some of the hooks; this class adds a state that checkpoints keep.

Hooks, each called as ``fabric.call(name, loop=loop, ...)`` and needing only the arguments it names:
``on_fit_start``, ``on_train_start``, ``on_collect_end(wire)``, ``on_train_batch_end(metrics)``, ``on_iteration_end``,
``on_validation_start``, ``on_validation_end(metrics, episodes)``, ``on_log(row)``, ``on_media(name, path)``,
``on_save_checkpoint(state)``, ``on_load_checkpoint(state)``, ``on_exception(error)``, ``on_train_end``, ``on_fit_end``.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, TextIO

CLOCKS = ("env_step", "agent_step", "update", "seconds")


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


def say(loop, text: str) -> None:
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

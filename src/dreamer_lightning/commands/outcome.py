"""What a command hands back to the command line when it has an exit code of its own."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """Text for stdout, the exit code, and lines for stderr."""

    text: str
    code: int = 0
    notes: tuple[str, ...] = ()

"""What a run's metrics say about it."""

from __future__ import annotations

import shlex
from pathlib import Path

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.types import UserError
from dreamer_lightning.workshop.results.diagnosis import report


def diagnose(runs: list[str] | None = None) -> Outcome:
    """Look at a run's metrics: eight values, the range each should lie in, and what to try.

    Args:
        runs: run folders.

    Returns:
        Eight lines a run: ok, ! (outside its range), or ? (not measured).

    Raises:
        UserError: not a run folder.
    """
    if not runs:
        raise UserError("diagnose needs a run folder: diagnose RUN")
    texts = [report(Path(run).expanduser()) for run in runs]
    if len(texts) > 1:
        texts = [f"{run}\n{text}" for run, text in zip(runs, texts, strict=True)]
    return Outcome("\n".join(texts))


def closing(folder: Path) -> str:
    """The same at the end of a run, which a broken file does not fail."""
    try:
        return f"diagnosis (diagnose {shlex.quote(str(folder))} repeats it)\n{report(folder)}"
    except Exception as error:  # the run itself is done
        return f"no diagnosis ({type(error).__name__}: {error})"

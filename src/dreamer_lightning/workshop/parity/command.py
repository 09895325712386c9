"""Compare our numbers with arrays recorded from the official DreamerV3."""

from __future__ import annotations

from pathlib import Path

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.errors import UserError
from dreamer_lightning.workshop.parity.run import run


def parity(folder: str | None = None, json: bool = False) -> Outcome:
    """Compare every number with arrays recorded from the official DreamerV3, in float32 on the CPU.

    Exit code 0 if all hold, 1 if any falls outside its tolerance, 2 if the folder is none of such arrays or a check
    could not be run.

    Args:
        folder: folder of the npz files (nets, rssm, heads, losses, optim, agent_*, init, counts); the repository has
            them in tests/data.
        json: print one JSON object per compared array (file, key, error, tolerance, ok) instead of the table.

    Raises:
        UserError: no folder is named, or it holds no such files.
    """
    if folder is None:
        raise UserError("parity needs a folder of recorded arrays: parity DIR (the repository has one in tests/data)")
    report = run(Path(folder).expanduser())
    return Outcome(report.lines() if json else report.table(), report.code, tuple(report.problems))

"""Where a command's files go, and what is said where they cannot be written."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from dreamer_lightning import agents
from dreamer_lightning.errors import UserError


def place(run: str, out: str | None) -> tuple[Path | None, str]:
    """The folder for what a command draws and writes, made where it is missing.

    Args:
        run: run folder, or the name of an agent that comes with the package.
        out: the folder that was asked for; None: the run's own.

    Returns:
        The folder, and nothing to say; or None and a line, where the run's own folder takes no files.

    Raises:
        UserError: ``out`` takes no files.
    """
    folder = Path(out).expanduser() if out else agents.home(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if out:
            raise UserError(f"--out: {folder} takes no files ({error.strerror})") from error
        return None, f"nothing was written: {folder} takes no files ({error.strerror}); --out FOLDER takes them"
    return folder, ""

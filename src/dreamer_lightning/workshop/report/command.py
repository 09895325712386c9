"""``report``: a run as one page of HTML; and what ``fit`` says and writes at its end."""

from __future__ import annotations

import shlex
from pathlib import Path

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.errors import UserError
from dreamer_lightning.store.atomic import write_atomic
from dreamer_lightning.workshop.diagnose import closing as diagnosis
from dreamer_lightning.workshop.report.page import page

NAME = "report.html"


def report(run: str = "", out: str | None = None) -> Outcome:
    """Tell the story of a run in one page of HTML: curve, dreams, how far they hold, diagnosis, speed, settings.

    The page holds its pictures and videos, needs no network, and opens from disk.

    Args:
        run: run folder.
        out: where to write; None: report.html in the run folder.

    Returns:
        Where the page lies.

    Raises:
        UserError: not a run folder, or the page cannot be written.
    """
    if not run:
        raise UserError("report needs a run folder: report RUN")
    folder = Path(run).expanduser()
    path = Path(out).expanduser() if out else folder / NAME
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"--out: '{out}' is no page; give a file that ends in .html")
    text = page(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        raise UserError(f"--out: cannot write {path} ({error.strerror})") from error
    return Outcome(f"wrote {path} ({len(text) / 1e6:.1f} MB); open it in a browser")


def closing(folder: Path) -> str:
    """The diagnosis with which a run ends, and where its report lies; neither fails the run."""
    try:
        write_atomic(folder / NAME, page(folder))
        line = f"report: {folder / NAME} (report {shlex.quote(str(folder))} writes it again)"
    except Exception as error:  # the run itself is done
        line = f"no report ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    return f"{diagnosis(folder)}\n{line}"

"""Runs every check of a folder of parity vectors and reports what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.table import Table

from dreamer_lightning.commands.tables import render
from dreamer_lightning.errors import UserError
from dreamer_lightning.workshop.parity import agent, counts, heads, init, losses, nets, optim, rssm
from dreamer_lightning.workshop.parity.record import Check, Job, NotRunnable, Vectors

FILES: dict[str, Callable[[Vectors], Iterable[Job]]] = {
    "nets.npz": nets.jobs,
    "rssm.npz": rssm.jobs,
    "heads.npz": heads.jobs,
    "losses.npz": losses.jobs,
    "optim.npz": optim.jobs,
    "agent_proprio.npz": agent.jobs,
    "agent_image.npz": agent.jobs,
    "agent_flags.npz": agent.jobs,
    "init.npz": init.jobs,
    "counts.npz": counts.jobs,
}


@dataclass
class Report:
    """Everything that was compared, and what could not be."""

    checks: list[Check] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        """1 if a number is outside its tolerance, else 2 if something could not be checked, else 0."""
        return 1 if any(not check.ok for check in self.checks) else 2 if self.problems else 0

    def lines(self) -> str:
        """One JSON object per compared array and line."""
        return "\n".join(check.as_json() for check in self.checks)

    def table(self, width: int = 120) -> str:
        """Group, quantity, largest error, tolerance and verdict; then the arrays that failed, and the sum of it all."""
        table = Table("group", "quantity", "arrays", "largest error", "tolerance", "verdict", title="parity")
        for column in table.columns[2:5]:
            column.justify = "right"
        rows: dict[tuple[str, str, float], list[Check]] = {}
        for check in self.checks:
            rows.setdefault((*place(check), check.tolerance), []).append(check)
        for (group, quantity, tolerance), checks in rows.items():
            worst = max(check.error for check in checks)
            verdict = "ok" if all(check.ok for check in checks) else "OUTSIDE"
            table.add_row(group, quantity, str(len(checks)), f"{worst:.1e}", f"{tolerance:.0e}", verdict)
        failed = [check for check in self.checks if not check.ok]
        lines = [
            f"outside: {check.file} {check.key}: error {check.error:.3g}, tolerance {check.tolerance:.0e}"
            for check in failed
        ]
        lines.append(f"{len(self.checks)} arrays compared, {len(failed)} outside their tolerance")
        return render(table, *lines, width=width)


def place(check: Check) -> tuple[str, str]:
    """The table row of an array: file and first part of its key, and what kind of array it is."""
    group, *rest = check.key.split("/")
    if group in ("proprio", "image", "flags") and rest:
        group, *rest = f"{group}/{rest[0]}", *rest[1:]
    quantity = "/".join(rest[:2] if len(rest) > 2 and rest[0].startswith(("step", "unimix")) else rest[:1])
    return f"{check.file.removesuffix('.npz')}/{group}", quantity or group


def run(folder: Path, dtype: torch.dtype = torch.float32, files: Iterable[str] = FILES) -> Report:
    """Run every check of a folder.

    Args:
        folder: a folder of parity vectors.
        dtype: floating type of the computation; the tolerances are meant for float32.
        files: names of the files to check.

    Raises:
        UserError: the folder holds none of these files.
    """
    if not any((folder / name).is_file() for name in files):
        raise UserError(f"parity: '{folder}' is not a folder of parity vectors (no {', '.join(files)})")
    report = Report()
    for name in files:
        try:
            vectors = Vectors.load(folder / name, dtype)
        except NotRunnable as problem:
            report.problems.append(str(problem))
            continue
        report.problems += run_file(vectors)
        report.checks += vectors.checks
    return report


def run_file(vectors: Vectors) -> list[str]:
    """Run one file's checks; returns what could not be run."""
    problems = []
    try:
        for label, job in FILES[vectors.name](vectors):
            try:
                job()
            except Exception as error:  # an altered file can fail in any way: the other groups still run
                problems.append(f"{vectors.name}: {label} could not be checked: {_one_line(error)}")
    except Exception as error:
        problems.append(f"{vectors.name} could not be checked: {_one_line(error)}")
    if not problems and (left := vectors.untouched()):
        problems.append(f"{vectors.name}: no check knows {len(left)} arrays: {', '.join(left[:5])}")
    return problems


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, (NotRunnable, UserError)) else f"{type(error).__name__}: {text}"

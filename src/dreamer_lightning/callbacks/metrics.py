"""``metrics.csv``: every row at full precision, none repeated or lost over a resume; loggers get the same rows."""

from __future__ import annotations

import csv
import errno
import io
import os
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamer_lightning.callbacks.base import CLOCKS, Callback, LoopView, is_episode, warn
from dreamer_lightning.store.atomic import write_atomic
from dreamer_lightning.store.runfolder import METRICS


class Mean:
    """Means of named scalars over the updates between two rows, summed on their device and read with one sync."""

    def __init__(self):
        self.groups: dict[tuple[str, ...], list] = {}  # names -> [sum over updates [names], number of updates]

    def add(self, metrics: dict[str, Tensor | float]) -> None:
        """Add one update's 0-d tensors (or floats)."""
        if not metrics:
            return
        device = next((value.device for value in metrics.values() if isinstance(value, Tensor)), None)
        vector = torch.stack(
            [torch.as_tensor(v, dtype=torch.float32, device=device).detach().reshape(()) for v in metrics.values()]
        )
        group = self.groups.setdefault(tuple(metrics), [torch.zeros_like(vector), 0])
        group[0] = group[0].to(vector.device) + vector  # sums of a resumed run come from the host
        group[1] += 1

    def pop(self, reduce=None) -> dict[str, float]:
        """Means since the last call, by name; forgets them.

        Args:
            reduce: averages a tensor over the ranks, None in one process.
        """
        totals: dict[str, list[float]] = {}
        for names, (vector, count) in self.groups.items():
            vector = vector if reduce is None else reduce(vector)
            for name, value in zip(names, vector.tolist(), strict=True):
                total = totals.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += count
        self.groups = {}
        return {name: value / count for name, (value, count) in totals.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"groups": [[list(names), vector.cpu(), count] for names, (vector, count) in self.groups.items()]}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        self.groups = {tuple(names): [vector.to(device), count] for names, vector, count in state["groups"]}


class RowFile:
    """A CSV file that grows by whole rows; columns that appear later are added to the header.

    A row that cannot be written (disk full) waits in memory and is tried again with the next one.

    Args:
        path: the file; created when missing.
        rows: number of rows to keep of an existing file; everything after them is cut off.
    """

    def __init__(self, path: Path, rows: int = 0):
        self.path, self.rows = Path(path), 0
        self.columns: list[str] = []
        self.pending: list[dict[str, Any]] = []
        self._failed = False
        self._keep(rows)

    def _keep(self, rows: int) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True) if rows and self.path.exists() else []
        lines = [line for line in lines if line.endswith(b"\n")][: rows + 1]
        if lines:
            self.columns = next(csv.reader([lines[0].decode()]))
        self.rows = max(0, len(lines) - 1)
        if self.rows < rows:
            warn(f"{self.path} has {self.rows} rows, the checkpoint knows {rows}; going on after those that are there")
        self._replace(b"".join(lines))

    def _replace(self, text: bytes) -> None:
        write_atomic(self.path, text)
        self.size = len(text)

    def append(self, row: dict[str, Any]) -> None:
        """Write one row of numbers: at once, or later if the disk refuses."""
        self.pending.append(dict(row))
        try:
            while self.pending:
                self._write(self.pending[0])
                self.pending.pop(0)
            self._failed = False
        except OSError as error:
            if not self._failed:
                warn(f"cannot write {self.path} ({error.strerror}); its rows wait in memory, training goes on")
            self._failed = True

    def _write(self, row: dict[str, Any]) -> None:
        new = [name for name in row if name not in self.columns]
        if new:
            lines = self.path.read_bytes().splitlines()[1:]
            columns = self.columns + new
            header = io.StringIO()
            csv.writer(header, lineterminator="").writerow(columns)
            padding = b"," * len(new)
            text = b"\n".join([header.getvalue().encode(), *(line + padding for line in lines)]) + b"\n"
            self._replace(text)
            self.columns = columns
        line = (",".join(_text(row.get(name)) for name in self.columns) + "\n").encode()
        try:
            with open(self.path, "ab", buffering=0) as file:  # one write a row; no handle stays open
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if self.path.exists():
                os.truncate(self.path, self.size)
            raise
        self.size += len(line)
        self.rows += 1

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        try:
            with open(self.path, "ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            warn(f"cannot sync {self.path} ({error.strerror}); training goes on")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Integral):
        return str(int(value))
    return repr(float(value))


class Metrics(Callback):
    """Means of the training metrics between two rows, written to ``metrics.csv`` and to Fabric's loggers.

    Rows arrive by ``on_log``; means of ``on_train_batch_end`` join every row of the loop's own cadence, in place, so
    that callbacks after this one see them too. Put callbacks that add to a row before this one.
    """

    def __init__(self):
        self.mean = Mean()
        self.file: RowFile | None = None
        self._state: dict[str, Any] | None = None

    def on_fit_start(self, loop: LoopView) -> None:
        if loop.fabric.is_global_zero and self.file is None:
            state = self._state or {"rows": 0, "pending": []}
            self.file = RowFile(Path(loop.run_dir) / METRICS, rows=state["rows"])
            for row in state["pending"]:
                self.file.append(row)

    def on_train_batch_end(self, metrics: dict[str, Tensor]) -> None:
        self.mean.add(metrics)

    def on_log(self, loop: LoopView, row: dict[str, Any]) -> None:
        if not is_episode(row):
            several = loop.fabric.world_size > 1
            means = self.mean.pop((lambda x: loop.fabric.all_reduce(x, reduce_op="mean")) if several else None)
            for name, value in means.items():
                row.setdefault(name, value)
        for name, value in row.items():
            row[name] = value.item() if isinstance(value, Tensor) else value
        if self.file is None:
            return
        first = {name: row[name] for name in CLOCKS if name in row}
        self.file.append(first | row)
        for logger in loop.fabric.loggers:
            logger.log_metrics({k: v for k, v in row.items() if v is not None}, step=row["env_step"])

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"mean": self.mean.state_dict(), "rows": 0, "pending": []}
        if self.file is not None:
            self.file.sync()
            state |= {"rows": self.file.rows, "pending": list(self.file.pending)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state
        self.mean.load_state_dict(state["mean"])
        if self.file is not None:
            self.file = RowFile(self.file.path, rows=state["rows"])

    def on_fit_end(self, loop: LoopView) -> None:
        if self.file is not None:
            self.file.sync()
        for logger in loop.fabric.loggers:
            logger.save()
            logger.finalize("success")

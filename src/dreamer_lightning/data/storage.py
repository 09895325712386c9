"""Where the replay buffer keeps its rows: one array per record entry, in memory, in memory-mapped files or on a GPU.

On the host, rows are read and written as contiguous slices through numpy views of the same memory: a call costs a
fraction of a microsecond there, several in torch. On a device one gather reads a whole batch.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreamer_lightning.data.records import STREAM
from dreamer_lightning.types import UserError

Key = str | tuple[str, str]
PAGE = 4096  # bytes
Piece = tuple[int, int, int, int]  # (row of a batch, slot, begin, end): batch[row, begin:end] lies from that slot on


def flatten(records: TensorDictBase | Mapping) -> dict[Key, Tensor]:
    """One level of nesting to tuple keys."""
    flat: dict[Key, Tensor] = {}
    for key, value in records.items():
        if isinstance(value, (TensorDictBase, Mapping)):
            flat.update({(key, name): leaf for name, leaf in value.items()})
        else:
            flat[key] = value
    return flat


def nested(rows: Mapping[Key, Tensor], size: tuple[int, ...]) -> TensorDict:
    """Tuple keys back to one level of nesting."""
    tree: dict = {}
    for key, value in rows.items():
        if isinstance(key, tuple):
            tree.setdefault(key[0], {})[key[1]] = value
        else:
            tree[key] = value
    return TensorDict({k: TensorDict(v, size) if isinstance(v, dict) else v for k, v in tree.items()}, size)


def one_table(records: TensorDictBase | Sequence[TensorDictBase | Mapping]) -> dict[Key, Tensor]:
    """One flat table of records, with their stream, from one TensorDict or from one of each stream."""
    if isinstance(records, TensorDictBase):
        return flatten(records)
    tables = [flatten(table) for table in records]
    counts = [len(next(iter(table.values()))) for table in tables]
    tables = [table for table, count in zip(tables, counts, strict=True) if count]
    if not tables:
        return {STREAM: torch.zeros(0, dtype=torch.int64)}
    rows = {key: torch.cat([table[key] for table in tables]) for key in tables[0] if key != STREAM}
    return rows | {STREAM: torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))}


class Storage:
    """Rows of records, addressed by slot.

    Args:
        kind: ``memory``, ``memmap``, or ``device``, see ``make_storage``.
        folder: where ``memmap`` puts its files.
    """

    device = torch.device("cpu")

    def __init__(self, kind: str = "memory", folder: str | Path | None = None):
        if kind not in ("memory", "memmap", "device"):
            raise UserError(f"replay.storage: {kind!r} is unknown; right are memory, memmap and device")
        if kind == "memmap" and folder is None:
            raise UserError("replay.storage memmap needs a folder for its files (replay.folder)")
        self.kind, self.folder = kind, Path(folder or "")
        self.arrays: dict[Key, Tensor] = {}
        self._views: dict[Key, np.ndarray] = {}

    @staticmethod
    def row_bytes(rows: Mapping[Key, Tensor]) -> int:
        """Bytes of one row of the given table [m, ...]."""
        return sum(prod(value.shape[1:]) * value.element_size() for value in rows.values())

    @property
    def bytes_per_step(self) -> int:
        return self.row_bytes(self.arrays)

    def entries(self) -> dict[str, list]:
        """[dtype, event shape] by name, nested names joined by a newline; plain data."""
        return {
            key if isinstance(key, str) else "\n".join(key): [str(v.dtype).removeprefix("torch."), list(v.shape[1:])]
            for key, v in sorted(self.arrays.items(), key=str)
        }

    def allocate(self, rows: Mapping[Key, Tensor], slots: int) -> None:
        """Reserve ``slots`` rows like the given ones; pages are touched only when they are written."""
        needed, free = self.row_bytes(rows) * slots, self.free()
        if needed > free:
            place, way = {
                "memory": ("memory", ", or use replay.storage memmap"),
                "memmap": ("disk space", ""),
                "device": (f"memory on {self.device}", ", or use replay.storage memory"),
            }[self.kind]
            raise UserError(
                f"replay.capacity: {slots} steps need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB of {place} are "
                f"free; lower replay.capacity or set replay.capacity_gb{way}"
            )
        for key, value in rows.items():
            self.reserve(key, (slots, *value.shape[1:]), value.dtype)

    def free(self) -> float:
        """Bytes that may still be reserved."""
        return free_bytes(self.folder if self.kind == "memmap" else None)

    def reserve(self, key: Key, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """The array of one entry."""
        if self.kind == "memory":
            array = self._memory(shape, dtype)
        else:
            name = key if isinstance(key, str) else ".".join(key)
            array = self._mapped(self.folder / (name.replace("/", "_") + ".rows"), shape, dtype)
        self.arrays[key], self._views[key] = array, _numpy(array)

    @staticmethod
    def _memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Rows in memory; rows of a page and more in huge pages, for which NumPy asks the system and torch does not.

        An image then needs new pages once in a hundred steps, not three in each. Narrow rows would hold megabytes of
        huge pages for kilobytes of steps.
        """
        if prod(shape[1:]) * dtype.itemsize < PAGE:
            return torch.empty(shape, dtype=dtype)
        return torch.from_numpy(np.empty(prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)

    @staticmethod
    def _mapped(file: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A memory-mapped file, its disk space reserved: a disk that fills up later cannot kill the process."""
        size = prod(shape)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        with open(file, "wb") as handle:
            try:
                if hasattr(os, "posix_fallocate"):  # not on macOS: there the disk may still fill up later
                    os.posix_fallocate(handle.fileno(), 0, max(1, size) * dtype.itemsize)
                else:
                    handle.truncate(max(1, size) * dtype.itemsize)
            except OSError as error:
                file.unlink()
                raise UserError(
                    f"replay.folder: {file} cannot have {size * dtype.itemsize / 1e9:.1f} GB ({error.strerror}); "
                    "lower replay.capacity or set replay.capacity_gb"
                ) from None
        return torch.from_file(str(file), shared=True, size=max(1, size), dtype=dtype)[:size].view(shape)

    def write(self, rows: Mapping[Key, Tensor], slots: Sequence[int] | np.ndarray) -> None:
        """Copy rows [m] to their slots."""
        at = slice(slots[0], slots[0] + 1) if len(slots) == 1 else slots
        for key, value in rows.items():
            self._views[key][at] = _numpy(value.to(self.arrays[key].dtype))

    def write_pieces(self, rows: Mapping[Key, Tensor], pieces: Sequence[Piece]) -> None:
        """Copy pieces of a batch [b, t] to their slots."""
        for key, value in rows.items():
            view, source = self._views[key], _numpy(value.to("cpu", self.arrays[key].dtype))
            for row, slot, begin, end in pieces:
                view[slot : slot + end - begin] = source[row, begin:end]

    def read_pieces(self, size: tuple[int, int], pieces: Sequence[Piece], pinned: bool) -> dict[Key, Tensor]:
        """A batch [b, t] that is covered by pieces, in page-locked memory if ``pinned``."""
        shapes = {key: (*size, *value.shape[1:]) for key, value in self.arrays.items()}
        batch = {k: torch.empty(shapes[k], dtype=v.dtype, pin_memory=pinned) for k, v in self.arrays.items()}
        for key, view in self._views.items():
            target = _numpy(batch[key])
            for row, slot, begin, end in pieces:
                target[row, begin:end] = view[slot : slot + end - begin]
        return batch


class DeviceStorage(Storage):
    """Rows in the memory of a device, so that no batch crosses to it; what is written is copied without waiting.

    Args:
        device: that of training.
    """

    def __init__(self, device: torch.device):
        super().__init__("device")
        self.device = device

    def free(self) -> float:
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else free_bytes()

    def reserve(self, key: Key, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.arrays[key] = torch.empty(shape, dtype=dtype, device=self.device)

    def write(self, rows: Mapping[Key, Tensor], slots: Sequence[int] | np.ndarray) -> None:
        at = torch.as_tensor(slots).to(self.device, non_blocking=True)
        for key, value in rows.items():
            array = self.arrays[key]
            array[at] = value.to(self.device, array.dtype, non_blocking=True)

    def write_pieces(self, rows: Mapping[Key, Tensor], pieces: Sequence[Piece]) -> None:
        if not pieces:
            return
        t = next(iter(rows.values())).shape[1]
        places = np.concatenate([np.arange(row * t + begin, row * t + end) for row, _, begin, end in pieces])
        slots = np.concatenate([np.arange(slot, slot + end - begin) for _, slot, begin, end in pieces])
        slots, newest = np.unique(slots[::-1], return_index=True)  # of windows that overlap the last one counts
        chosen = torch.as_tensor(places[::-1][newest]).to(self.device, non_blocking=True)
        self.write({key: value.to(self.device).flatten(0, 1)[chosen] for key, value in rows.items()}, slots)

    def read_pieces(self, size: tuple[int, int], pieces: Sequence[Piece], pinned: bool) -> dict[Key, Tensor]:
        slots = np.empty(size, np.int64)
        for row, slot, begin, end in pieces:
            slots[row, begin:end] = np.arange(slot, slot + end - begin)
        at = torch.as_tensor(slots).to(self.device, non_blocking=True)
        return {key: array[at] for key, array in self.arrays.items()}


def make_storage(kind: str, folder: str | Path | None, device: torch.device) -> Storage:
    """Storage in ``memory``, in memory-mapped files (``memmap``), or on the ``device``.

    Args:
        kind: one of these.
        folder: where ``memmap`` puts its files.
        device: that of training.

    Raises:
        UserError: another kind, or no folder.
    """
    return DeviceStorage(device) if kind == "device" else Storage(kind, folder)


def _numpy(tensor: Tensor) -> np.ndarray:
    """A view of the same memory; bfloat16, which numpy lacks, as its bits."""
    tensor = tensor.detach()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def free_bytes(folder: Path | None = None) -> float:
    """Free disk space of a folder that need not exist yet, or else the memory that this process may still take."""
    if folder is not None:
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free
    limits: list[float] = [math.inf]  # where the system does not say, as on macOS, nothing is refused
    with suppress(AttributeError, ValueError, OSError):
        limits = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text("utf-8").splitlines())
        limits = [int(fields["MemAvailable"].split()[0]) * 1024]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text("utf-8").strip() != "max":
        limits.append(int(limit.read_text("utf-8")) - int(used.read_text("utf-8")))
    return min(limits)

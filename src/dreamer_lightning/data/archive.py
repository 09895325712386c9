"""The replay buffer on disk: incremental, checksummed, safe to kill.

A save writes only what is new: the records that arrived since the last save (``records-*.pt``), the latents that were
written or rewritten since then (``latents-*.pt``), and a manifest (``replay-*.json``) that names every file the buffer
now consists of, with its checksum, beside the counters, the online queue and the sampler's random state. Files are
never changed: an older manifest stays loadable as long as its files are kept. A manifest's own checksum is in its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.data.storage import Key
from dreamer_lightning.types import LATENT, UserError

if TYPE_CHECKING:
    from dreamer_lightning.data.replay import Replay

FORMAT = 1
FILE_BYTES = 64_000_000  # a file holds about so much, and loading needs so much memory on top
NAME = re.compile(r"(records|latents|replay)-(\d{8})-.*\.(pt|json)")


class Saved(NamedTuple):
    """What the folder already holds: files by kind, and the next record of each stream that is to be written."""

    folder: Path
    files: dict[str, list[dict]]
    upto: list[int]


def save(replay: Replay, folder: str | Path) -> list[str]:
    """Write what is new since the last save into ``folder``.

    Args:
        replay: the buffer.
        folder: the same one each time; created if needed.

    Returns:
        Names in ``folder`` of all files that this state of the buffer needs, the manifest last.

    Raises:
        OSError: the disk refuses; the older state stays whole, and the next save writes all that is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(m[2]) for m in map(NAME.fullmatch, os.listdir(folder)) if m), default=0)
    first = [replay.first(stream) for stream in range(replay.num_streams)]
    known = replay.saved if replay.saved and replay.saved.folder == folder.resolve() else None
    files = dict(known.files) if known else {"records": [], "latents": []}
    written: list[Path] = []
    try:
        begin = [max(a, b) for a, b in zip(first, known.upto, strict=True)] if known else first
        live = [f for f in files["records"] if any(s + n > first[stream] for stream, s, n in f["segments"])]
        files["records"] = live + [
            _write(folder, f"records-{number:08d}-{i:04d}.pt", content, written)
            for i, content in enumerate(_new_records(replay, begin))
        ]
        dirty = replay.dirty.nonzero()[0] if replay.slots else np.zeros(0, np.int64)
        deltas = sum(f["rows"] for f in files["latents"]) + len(dirty)
        if known is None or deltas > 2 * replay.steps:  # start over with all latents rather than pile up changes
            files["latents"], dirty = [], _held(replay) if replay.slots else dirty
        files["latents"] = files["latents"] + [
            _write(folder, f"latents-{number:08d}-{i:04d}.pt", content, written)
            for i, content in enumerate(_latents(replay, dirty))
        ]
        manifest = _manifest(replay, files)
        text = json.dumps(manifest).encode()
        name = f"replay-{number:08d}-{hashlib.sha256(text).hexdigest()[:16]}.json"
        _write_bytes(folder / name, text, written)
        _sync(folder)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    replay.saved = Saved(folder.resolve(), files, list(replay.total))
    replay.dirty[:] = False
    return [f["name"] for kind in ("records", "latents") for f in files[kind]] + [name]


def prune(folder: str | Path, keep: Iterable[str]) -> None:
    """Delete the files of saved buffers that no kept state needs, and what killed saves left behind.

    Args:
        folder: as given to ``save``.
        keep: names that ``save`` returned, of all states to keep.
    """
    keep = set(keep)
    for path in Path(folder).iterdir():
        if path.name not in keep and (NAME.fullmatch(path.name) or path.name.startswith(".tmp-")):
            path.unlink(missing_ok=True)


# ---- contents ----------------------------------------------------------------------------------------------------


def _new_records(replay: Replay, begin: list[int]) -> Iterator[dict]:
    """Files' worth of records from ``begin`` (per stream) to the present, without latents."""
    if not replay.slots:
        return
    keys = [key for key in replay.storage.arrays if key[0] != LATENT]
    limit = max(1, FILE_BYTES // max(1, replay.bytes_per_step))
    segments: list[list[int]] = []
    slots: list[int] = []
    for stream in range(replay.num_streams):
        number = begin[stream]
        while number < replay.total[stream]:
            count = min(limit - len(slots), replay.total[stream] - number)
            segments.append([stream, number, count])
            slots += [stream * replay.slots + n % replay.slots for n in range(number, number + count)]
            number += count
            if len(slots) == limit:
                yield {"segments": segments, "rows": _rows(replay, keys, slots)}
                segments, slots = [], []
    if slots:
        yield {"segments": segments, "rows": _rows(replay, keys, slots)}


def _latents(replay: Replay, slots: np.ndarray) -> Iterator[dict]:
    """Files' worth of latents in the given slots, with the record that each belongs to."""
    keys = [key for key in replay.storage.arrays if key[0] == LATENT]
    size = replay.storage.row_bytes({key: replay.storage.arrays[key] for key in keys})
    limit = max(1, FILE_BYTES // max(1, size))
    newest = np.array(replay.total) - 1
    for begin in range(0, len(slots), limit):
        part = slots[begin : begin + limit]
        stream, offset = part // replay.slots, part % replay.slots
        number = newest[stream] - (newest[stream] - offset) % replay.slots
        yield {"stream": torch.tensor(stream), "number": torch.tensor(number), "rows": _rows(replay, keys, part)}


def _rows(replay: Replay, keys: list[Key], slots: Sequence[int] | np.ndarray) -> dict[Key, Tensor]:
    index = torch.as_tensor(np.asarray(slots))
    return {key: replay.storage.arrays[key][index].cpu() for key in keys}


def _held(replay: Replay) -> np.ndarray:
    """All slots that hold a record."""
    held = [np.arange(replay.first(i), total) % replay.slots + i * replay.slots for i, total in enumerate(replay.total)]
    return np.concatenate(held)


def _manifest(replay: Replay, files: dict) -> dict:
    sampler = replay.state_dict()
    sampler["generator"] = sampler["generator"].numpy().tobytes().hex()
    return {
        "format": FORMAT,
        "streams": replay.num_streams,
        "slots": replay.slots,
        "total": sampler.pop("total"),
        "first": [replay.first(stream) for stream in range(replay.num_streams)],
        "sampler": sampler,
        "entries": replay.storage.entries(),
        "files": files,
    }


# ---- files -------------------------------------------------------------------------------------------------------


def _write(folder: Path, name: str, content: dict, written: list[Path]) -> dict:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    _write_bytes(folder / name, data, written)
    entry = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
    return entry | ({"segments": content["segments"]} if "segments" in content else {"rows": len(content["number"])})


def _write_bytes(path: Path, data: bytes | memoryview, written: list[Path]) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    written += [temporary, path]
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"replay file {path} cannot be read ({error.strerror}); use an older checkpoint") from None
    if not hashlib.sha256(data).hexdigest().startswith(sha256):
        raise UserError(f"replay file {path} is truncated or altered (its checksum differs); use an older checkpoint")
    return data

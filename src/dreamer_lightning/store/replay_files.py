"""The replay buffer on disk: incremental, checksummed, safe to kill.

A save writes only what is new: the records that arrived since the last one (``records-*.pt``) and the latents that were
written or rewritten since then (``latents-*.pt``). Files are never changed, and what a checkpoint's manifest names is
the buffer of that moment, so that checkpoints share their files. Counters, online queue and the sampler's random state
are ``state_dict`` of the buffer, which the checkpoint keeps.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import migration
from dreamer_lightning.store.atomic import TEMPORARY, fsync_folder, save_tensors
from dreamer_lightning.types import IS_FIRST, IS_LAST, UserError

FILE_BYTES = 64_000_000  # a file holds about so much, and loading needs so much memory on top
NAME = re.compile(r"(records|latents|replay)-(\d{8})-.*\.(pt|json)")  # replay-*.json are of checkpoints of format 1

Rows = dict[Any, Tensor]  # records [m] by entry; an entry is a name or a pair of names
Portion = tuple[np.ndarray, np.ndarray, Rows]  # stream [m], number [m], rows
Entry = dict[str, Any]  # "sha256" and "size" of a file


class Buffer(Protocol):
    """What a replay buffer offers to be saved; ``data.Replay`` says more."""

    num_streams: int
    slots: int
    total: list[int]
    writes: int

    @property
    def steps(self) -> int: ...
    def first(self, stream: int) -> int: ...
    def rows(self, stream: np.ndarray, number: np.ndarray, latents: bool = False) -> Rows: ...
    def changed(self, since: int = 0) -> tuple[np.ndarray, np.ndarray]: ...
    def allocate(self, example: Rows) -> None: ...
    def fill(self, total: Sequence[int], first: Sequence[int], portions: Iterable[Portion]) -> None: ...
    def clear(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Shard(NamedTuple):
    """A saved buffer: its folder, its files by name, and the ``state_dict`` of that moment."""

    folder: Path
    files: Mapping[str, Entry]
    state: Mapping[str, Any]


@dataclass
class Known:
    """What the folder holds of this buffer.

    Args:
        files: by name, with their checksums.
        ends: for each file of records, the number after its last record, by stream.
        rows: for each file of latents, how many it holds.
        upto: the next record of each stream that is to be written.
        writes: the buffer's count of writes when it was saved.
    """

    files: dict[str, Entry] = field(default_factory=dict)
    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    upto: list[int] = field(default_factory=list)
    writes: int = 0

    def add(self, name: str, entry: Entry, content: Mapping[str, Any]) -> None:
        """Note a file and what it holds."""
        self.files[name] = entry
        if "segments" in content:
            self.ends[name] = {stream: first + count for stream, first, count in content["segments"]}
        else:
            self.rows[name] = len(content["number"])


class ReplayFiles:
    """Writes a replay buffer to a folder and reads it back.

    Args:
        replay: the buffer.
        folder: of this buffer alone; created when something is saved.
    """

    def __init__(self, replay: Buffer, folder: str | Path):
        self.replay, self.folder = replay, Path(folder)
        self.known = Known()

    def save(self) -> dict[str, Entry]:
        """Write what is new since the last save.

        Returns:
            All files in the folder that this state of the buffer needs: ``{name: {"sha256": ..., "size": bytes}}``.

        Raises:
            OSError, RuntimeError: the disk refuses; the older state stays whole, the next save writes what is missing.
        """
        replay, known = self.replay, self.known
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(m[2]) for m in map(NAME.fullmatch, os.listdir(self.folder)) if m), default=0)
        first = [replay.first(stream) for stream in range(replay.num_streams)]
        begin = [max(a, b) for a, b in zip(first, known.upto, strict=True)] if known.upto else first
        new = Known(upto=list(replay.total), writes=replay.writes)
        for name, ends in known.ends.items():
            if any(end > first[stream] for stream, end in ends.items()):
                new.ends[name] = ends
        stream, record = replay.changed(known.writes)
        if sum(known.rows.values()) + len(stream) > 2 * replay.steps:  # all latents anew rather than pile up changes
            stream, record = replay.changed()
        else:
            new.rows = dict(known.rows)
        new.files = {name: known.files[name] for name in (*new.ends, *new.rows)}
        written: list[str] = []
        try:
            for kind, contents in (("records", self._records(begin)), ("latents", self._latents(stream, record))):
                for i, content in enumerate(contents):
                    written.append(f"{kind}-{number:08d}-{i:04d}.pt")
                    new.add(written[-1], save_tensors(self.folder / written[-1], content), content)
            fsync_folder(self.folder)
        except BaseException:
            for name in written:
                (self.folder / name).unlink(missing_ok=True)
            raise
        self.known = new
        return new.files

    def _records(self, begin: list[int]) -> Iterator[dict[str, Any]]:
        """Files' worth of records from ``begin`` (per stream) to the present, without latents."""
        replay = self.replay
        segments: list[list[int]] = []
        room = limit = self._limit(latents=False)
        for stream, number in enumerate(begin):
            count = replay.total[stream] - number
            while count:
                some = min(room, count)
                segments.append([stream, number, some])
                number, count, room = number + some, count - some, room - some
                if not room:
                    yield {"segments": segments, "rows": replay.rows(*_places(segments))}
                    segments, room = [], limit
        if segments:
            yield {"segments": segments, "rows": replay.rows(*_places(segments))}

    def _latents(self, stream: np.ndarray, number: np.ndarray) -> Iterator[dict[str, Any]]:
        """Files' worth of latents, with the record that each belongs to."""
        limit = self._limit(latents=True)
        for begin in range(0, len(stream), limit):
            some = stream[begin : begin + limit], number[begin : begin + limit]
            of = {"stream": torch.tensor(some[0]), "number": torch.tensor(some[1])}
            yield of | {"rows": self.replay.rows(*some, latents=True)}

    def _limit(self, latents: bool) -> int:
        """How many records a file holds."""
        none = np.zeros(0, np.int64)
        rows = self.replay.rows(none, none, latents).values()
        row = sum(value.shape[1:].numel() * value.element_size() for value in rows)
        return max(1, FILE_BYTES // max(1, row))

    def load(self, shards: Sequence[Shard], rank: int = 0, world: int = 1) -> None:
        """Fill the buffer from saved ones; what it held is dropped.

        Args:
            shards: of all processes that saved.
            rank: of the process that loads.
            world: number of processes that load. As many as there are shards, with as many streams in each as here,
                get their own shard each, exactly; otherwise all streams are dealt round-robin.

        Raises:
            UserError: a file is missing, truncated or altered, or holds other observations or actions.
        """
        replay, self.known = self.replay, Known()
        exact = len(shards) == world and all(shard.state["streams"] == replay.num_streams for shard in shards)
        mine = [shards[rank]] if exact else list(shards)
        for shard in mine:
            if shard.state["slots"]:
                self._prepare(shard)
        if exact:
            state = mine[0].state
            known, seats = Known(), {(0, stream): (stream, 0) for stream in range(replay.num_streams)}
            replay.fill(state["total"], state["first"], _portions(mine, seats, known))
            replay.load_state_dict(state)
            if mine[0].folder.resolve() == self.folder.resolve():
                known.upto, known.writes = list(replay.total), replay.writes
                self.known = known
            return
        seats, total = _dealt(mine, replay.num_streams, rank, world)
        replay.fill(total, [0] * replay.num_streams, _portions(mine, seats, Known(), anew=True))

    def _prepare(self, shard: Shard) -> None:
        """Reserve the rings for records like those of a shard, or find that they hold others."""
        replay, there = self.replay, shard.state["entries"]
        replay.allocate(_no_rows(there))
        here = replay.state_dict()["entries"]
        if here != there:
            odd = next(key for key in {**here, **there} if here.get(key) != there.get(key))
            raise UserError(
                f"replay in {shard.folder}: {odd} is {there.get(odd)} there and {here.get(odd)} here; "
                "right is the replay of a run with the same observations, actions and model size"
            )


def prune(folder: str | Path, keep: Iterable[str]) -> None:
    """Delete the files of saved buffers that no kept state needs, and what killed saves left behind.

    Args:
        folder: of a ``ReplayFiles``.
        keep: names that ``save`` returned, of all states to keep.
    """
    keep = set(keep)
    for path in Path(folder).iterdir():
        if path.name not in keep and (NAME.fullmatch(path.name) or path.name.startswith(TEMPORARY)):
            path.unlink(missing_ok=True)


def saved_episodes(shards: Sequence[Shard]) -> Iterator[Rows]:
    """The records of each saved episode [m], one after the other, without latents; those still open end where they are.

    Raises:
        UserError: a file is missing, truncated or altered.
    """
    for shard in shards:
        files = {name: entry for name, entry in shard.files.items() if not name.startswith("latents")}
        seats = {(0, stream): (stream, 0) for stream in range(shard.state["streams"])}
        open_: dict[int, list[Rows]] = {stream: [] for stream, _ in seats.values()}
        for stream, _, rows in _portions([shard._replace(files=files)], seats, Known(), anew=True):
            bounds = [0, *(rows[IS_FIRST].nonzero()[:, 0].tolist()), len(stream)]
            for begin, end in pairwise(bounds):
                if begin < end:
                    parts = open_[int(stream[0])]
                    if parts and rows[IS_FIRST][begin]:
                        yield _joined(parts)
                        parts.clear()
                    parts.append({key: value[begin:end] for key, value in rows.items()})
        yield from (_joined(parts) for parts in open_.values() if parts)


def _joined(parts: list[Rows]) -> Rows:
    """Pieces of an episode as one; its first record begins it and its last one ends it."""
    rows = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    rows[IS_LAST][-1] = True
    return rows


def state_of_format_1(path: Path) -> dict[str, Any]:
    """The state of a buffer from ``replay-*.json``, which checkpoints of format 1 have beside the records.

    Raises:
        UserError: it is truncated or altered.
    """
    return migration.replay_state(json.loads(_read(path, path.stem.rsplit("-", 1)[1])))


# ---- reading -------------------------------------------------------------------------------------------------------


def _dealt(
    shards: Sequence[Shard], streams: int, rank: int, world: int
) -> tuple[dict[tuple[int, int], tuple[int, int]], list[int]]:
    """Deal the streams of all shards: (shard, its stream) -> (stream here, shift of numbers); records of each here."""
    seats: dict[tuple[int, int], tuple[int, int]] = {}
    total, dealt = [0] * streams, 0
    for i, shard in enumerate(shards):
        for stream, (first, held) in enumerate(zip(shard.state["first"], shard.state["total"], strict=True)):
            here, owner = divmod(dealt % (streams * world), world)  # every process gets one before a second
            dealt += 1
            if owner == rank:
                seats[i, stream] = (here, total[here] - first)
                total[here] += held - first
    return seats, total


def _portions(
    shards: Sequence[Shard], seats: Mapping[tuple[int, int], tuple[int, int]], known: Known, anew: bool = False
) -> Iterator[Portion]:
    """What the files of shards hold, at its place here, read one by one: records, then latents, the newest last.

    Args:
        shards: the saved buffers.
        seats: (shard, its stream) -> (stream here, shift of numbers).
        known: filled with what was read.
        anew: the first record of each stream does not follow what lies before it here.
    """
    for i, shard in enumerate(shards):
        for name in sorted(shard.files, key=lambda name: (name.startswith("latents"), name)):
            path = shard.folder / name
            if path.parent != shard.folder or not NAME.fullmatch(path.name):
                raise UserError(f"replay in {shard.folder} names a file outside itself ({name})")
            if path.suffix == ".json":
                continue
            entry = shard.files[name]
            content = torch.load(io.BytesIO(_read(path, entry["sha256"])), weights_only=True)
            known.add(name, entry, content)
            if "segments" in content:
                stream, number = _places(content["segments"])
            else:
                stream, number = content["stream"].numpy(), content["number"].numpy()
            for source in np.unique(stream).tolist():
                if (i, source) in seats:
                    here, shift = seats[i, source]
                    first = shard.state["first"][source]
                    held = (stream == source) & (number >= first) & (number < shard.state["total"][source])
                    rows = {key: value[torch.as_tensor(held)] for key, value in content["rows"].items()}
                    if anew and IS_FIRST in rows:
                        rows[IS_FIRST] |= torch.as_tensor(number[held] == first)
                    yield np.full(held.sum(), here), number[held] + shift, rows


def _places(segments: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Stream and number of the records of segments (stream, first number, count)."""
    stream = np.concatenate([np.full(count, stream) for stream, _, count in segments])
    return stream, np.concatenate([np.arange(first, first + count) for _, first, count in segments])


def _no_rows(entries: Mapping[str, Sequence]) -> Rows:
    """An empty table of ``entries``: [dtype, shape] by name, nested names joined by a newline."""
    rows: Rows = {}
    for name, (kind, shape) in entries.items():
        dtype = getattr(torch, kind, None)
        if not isinstance(dtype, torch.dtype):
            raise UserError(f"replay: {kind!r} is no type of numbers; the saved replay is of another version")
        group, _, leaf = name.partition("\n")
        rows[(group, leaf) if leaf else name] = torch.empty((0, *shape), dtype=dtype)
    return rows


def _read(path: Path, sha256: str) -> bytes:
    """The content of a file with this checksum, or one that begins so.

    Raises:
        UserError: there is none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"replay file {path} cannot be read ({error.strerror}); use an older checkpoint") from None
    if not hashlib.sha256(data).hexdigest().startswith(sha256):
        raise UserError(f"replay file {path} is truncated or altered (its checksum differs); use an older checkpoint")
    return data

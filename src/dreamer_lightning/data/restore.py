"""Reading saved replay buffers: one's own exactly, or several dealt out to other streams and processes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dreamer_lightning.data.archive import FORMAT, NAME, Saved, read
from dreamer_lightning.types import IS_FIRST, IS_LAST, UserError

if TYPE_CHECKING:
    from dreamer_lightning.data.replay import Replay

Shard = tuple[str | Path, str | Iterable[str] | None]


def load(replay: Replay, shards: Sequence[Shard], rank: int = 0, world: int = 1) -> None:
    """Fill a buffer from saved ones.

    Args:
        replay: the buffer to fill; what it held is dropped.
        shards: folders, each with the manifest to load (its name, or names among which it is; None: the newest).
        rank: of the process that loads.
        world: number of processes that share the shards. With as many shards as processes, and as many streams in each
            as here, each process gets its own shard, exactly; otherwise all streams are dealt round-robin.

    Raises:
        UserError: a file is missing, truncated or altered, or holds other observations or actions.
    """
    manifests = [_read_manifest(Path(folder), wanted) for folder, wanted in shards]
    exact = len(shards) == world and all(m["streams"] == replay.num_streams for m in manifests)
    chosen = [rank] if exact else list(range(len(shards)))
    replay.clear()
    place: dict[tuple[int, int], tuple[int, int]] = {}  # (shard, its stream) -> (stream here, shift of record numbers)
    starts: list[tuple[int, int]] = []
    total = [0] * replay.num_streams
    dealt = 0
    for shard in chosen:
        manifest = manifests[shard]
        for stream, held in enumerate(manifest["total"]):
            if exact:
                place[shard, stream], total[stream] = (stream, 0), held
                continue
            here, owner = divmod(dealt % (replay.num_streams * world), world)  # every process gets one before a second
            dealt += 1
            if owner == rank:
                first = manifest["first"][stream]
                place[shard, stream] = (here, total[here] - first)
                starts.append((here, total[here]))
                total[here] += held - first
    try:
        for shard in chosen:
            _load_rows(replay, Path(shards[shard][0]), manifests[shard], shard, place, total)
    except BaseException:
        replay.clear()
        raise
    for stream, number in starts:  # what was dealt to one stream here does not follow from what lies before it
        if replay.first(stream) <= number < total[stream]:
            replay.storage.arrays[IS_FIRST][stream * replay.slots + number % replay.slots] = True
    if exact:
        manifest = manifests[rank]
        replay.oldest = list(manifest["first"])
        replay.load_state_dict({**manifest["sampler"], "total": total})
        replay.saved = Saved(Path(shards[rank][0]).resolve(), manifest["files"], list(total))
        if manifest["slots"] == replay.slots:
            replay.dirty[:] = False


def close_streams(replay: Replay, streams: Iterable[int]) -> None:
    """Mark the newest record of streams as their episode's last, not terminal: the episode was cut off."""
    for stream in streams:
        if replay.total[stream] > replay.first(stream):
            slot = stream * replay.slots + (replay.total[stream] - 1) % replay.slots
            replay.storage.arrays[IS_LAST][slot] = True


def _read_manifest(folder: Path, wanted: str | Iterable[str] | None) -> dict:
    if wanted is None:
        wanted = os.listdir(folder) if folder.is_dir() else []
    names = [wanted] if isinstance(wanted, str) else wanted
    names = sorted(name for name in names if NAME.fullmatch(name) and name.endswith(".json"))
    if not names:
        raise UserError(f"replay folder {folder} holds no saved replay; right is a folder that a run has written")
    manifest = json.loads(read(folder / names[-1], names[-1].removesuffix(".json").rsplit("-", 1)[1]))
    if manifest["format"] != FORMAT:
        raise UserError(
            f"replay file {folder / names[-1]} has format {manifest['format']}; this version reads {FORMAT}"
        )
    return manifest


def _load_rows(replay: Replay, folder: Path, manifest: dict, shard: int, place: Mapping, total: list[int]) -> None:
    """Read a shard's files into the slots that their records have here."""
    if not manifest["slots"]:
        return
    replay.allocate(replay.storage.like(manifest["entries"]))
    held = replay.storage.entries()
    if held != manifest["entries"]:
        odd = [key for key in {**held, **manifest["entries"]} if held.get(key) != manifest["entries"].get(key)]
        raise UserError(
            f"replay in {folder}: {odd[0]} is {manifest['entries'].get(odd[0])} there and {held.get(odd[0])} here; "
            "right is the replay of a run with the same observations, actions and model size"
        )
    replay.total = list(total)
    gone = manifest["first"]
    for kind in ("records", "latents"):
        for file in manifest["files"][kind]:
            path = folder / file["name"]
            if path.parent != folder or not NAME.fullmatch(path.name):
                raise UserError(f"replay in {folder} names a file outside itself ({file['name']})")
            content = torch.load(io.BytesIO(read(path, file["sha256"])), weights_only=True)
            if kind == "records":
                stream = np.concatenate([np.full(n, s) for s, _, n in content["segments"]])
                number = np.concatenate([np.arange(b, b + n) for _, b, n in content["segments"]])
            else:
                stream, number = content["stream"].numpy(), content["number"].numpy()
            for source in np.unique(stream):
                if (shard, int(source)) not in place:
                    continue
                here, shift = place[shard, int(source)]
                mine = (stream == source) & (number >= gone[source])
                mine &= (number + shift >= replay.first(here)) & (number < manifest["total"][source])
                slots = here * replay.slots + (number[mine] + shift) % replay.slots
                chosen = torch.as_tensor(mine.nonzero()[0])
                if len(slots):
                    replay.storage.write({key: value[chosen] for key, value in content["rows"].items()}, slots.tolist())
                    replay.dirty[slots] = True

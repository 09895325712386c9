"""The replay buffer: uniform windows of records over per-stream rings, the online queue, latents written back.

Every environment is a stream with a ring of its own, so that any ``length`` consecutive records of a stream are a valid
window: windows cross episode borders and never cross the write head. Records are addressed by their absolute number in
their stream; ``index = number * num_streams + stream`` names a record for ever, and a slot that has been overwritten in
the meantime is recognised by its number alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreamer_lightning.data import archive, restore
from dreamer_lightning.data.records import STREAM
from dreamer_lightning.data.storage import Key, Storage, flatten, make_storage, nested, one_table
from dreamer_lightning.types import IS_FIRST, IS_LAST, LATENT, UserError

DETER = (LATENT, "deter")


class Replay:
    """A TensorDict replay buffer of records (DreamerV3, `embodied/core/replay.py@e3f0224`, in its behaviour).

    Args:
        capacity: steps kept, over all streams.
        capacity_gb: memory budget in GB (1e9 bytes); the smaller of the two limits wins. None: no such limit.
        batch_size: windows in a batch.
        length: records in a window: one context step and the training steps.
        num_streams: environments, each with an equal share of the capacity.
        seed: of the sampler's own random generator.
        online: batches first drain each stream's new, non-overlapping windows, so that fresh steps are seen soon.
        storage: ``memory``, ``memmap`` for files in ``folder`` (page cache, not resident memory), or ``device``.
        folder: of ``memmap``.
        device: of ``device``; batches then lie there.
        pin_memory: batches lie in page-locked memory, for copies to a GPU that do not wait.
        deter_dtype: in which stored deterministic states are kept; batches have float32 in any case.
        latents: sequences go on from the latents stored with their context step; otherwise they begin like an episode.

    Raises:
        UserError: the capacity holds no window, or does not fit into the memory (or disk) that is free.
    """

    def __init__(
        self,
        capacity: int = 5_000_000,
        capacity_gb: float | None = None,
        batch_size: int = 16,
        length: int = 65,
        num_streams: int = 1,
        seed: int = 0,
        online: bool = True,
        storage: Literal["memory", "memmap", "device"] = "memory",
        folder: str | Path | None = None,
        device: torch.device = Storage.device,
        pin_memory: bool = False,
        deter_dtype: Literal["float32", "bfloat16"] = "float32",
        latents: bool = True,
    ):
        self.capacity, self.capacity_gb = capacity, capacity_gb
        self.batch_size, self.length, self.num_streams = batch_size, length, num_streams
        self.online, self.pin_memory, self.latents = online, pin_memory, latents
        self.generator = torch.Generator().manual_seed(seed)
        self.storage = make_storage(storage, folder, device)
        self.deter_dtype = getattr(torch, deter_dtype)
        self.slots = 0  # of each stream's ring; known with the first records
        self.total = [0] * num_streams  # records ever written, per stream
        self.oldest = [0] * num_streams  # no record before this one was ever here
        self.queue: deque[tuple[int, int]] = deque()  # (stream, number of the window's first record)
        self.dirty = np.zeros(0, bool)  # slots whose latents changed since the last save
        self.saved: archive.Saved | None = None

    # ---- sizes ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Windows that can be sampled."""
        return sum(self._windows())

    @property
    def steps(self) -> int:
        """Records held."""
        return sum(total - self.first(stream) for stream, total in enumerate(self.total))

    @property
    def bytes_per_step(self) -> int:
        """Bytes of one stored record; 0 before the first records."""
        return self.storage.bytes_per_step

    @property
    def data(self) -> TensorDict:
        """The rings as one TensorDict [num_streams, slots], without a copy."""
        return nested(self.storage.arrays, (self.num_streams * self.slots,)).view(self.num_streams, self.slots)

    def memory_forecast(self, example: TensorDictBase | Mapping | None = None) -> dict[str, int | float]:
        """Steps and bytes of the full buffer.

        Args:
            example: records [m], needed before the first ``extend``.
        """
        row = self.storage.row_bytes(self._kept(example)) if example is not None else self.bytes_per_step
        slots = self._slots(row)
        steps = slots * self.num_streams
        return {"steps": steps, "bytes_per_step": row, "bytes": steps * row, "gb": steps * row / 1e9}

    def allocate(self, example: TensorDictBase | Mapping) -> None:
        """Reserve the rings for records like ``example`` [m]; ``extend`` does so by itself."""
        if self.slots:
            return
        rows = self._kept(example)
        slots = self._slots(self.storage.row_bytes(rows))
        if slots < self.length:
            raise UserError(
                f"replay.capacity: {slots} steps for each of {self.num_streams} environments hold no window of "
                f"{self.length} records; needed: at least {self.length * self.num_streams} steps "
                "(raise replay.capacity or replay.capacity_gb, or lower batch_length)"
            )
        self.storage.allocate(rows, slots * self.num_streams)
        self.slots, self.dirty = slots, np.zeros(slots * self.num_streams, bool)

    def _kept(self, example: TensorDictBase | Mapping) -> dict:
        """Rows as they are stored."""
        rows = {key: value[:1] for key, value in flatten(example).items() if key != STREAM}
        return {key: value.to(self.deter_dtype) if key == DETER else value for key, value in rows.items()}

    def _slots(self, row_bytes: int) -> int:
        capacity = self.capacity
        if self.capacity_gb is not None:
            capacity = min(capacity, int(self.capacity_gb * 1e9 / max(1, row_bytes)))
        return capacity // self.num_streams

    def first(self, stream: int) -> int:
        """Number of the oldest record that a stream still holds."""
        return max(self.oldest[stream], self.total[stream] - self.slots)

    def _windows(self) -> list[int]:
        return [max(0, total - self.first(stream) - self.length + 1) for stream, total in enumerate(self.total)]

    # ---- writing -------------------------------------------------------------------------------------------------

    def extend(self, records: TensorDictBase | Sequence[TensorDictBase | Mapping]) -> None:
        """Add records.

        Args:
            records: [m] with an int64 entry ``"stream"`` [m], as ``to_records`` gives them: sorted by stream, in order
                of time within each. Or a list with one TensorDict [n_i] per stream.
        """
        rows = one_table(records)
        streams = rows.pop(STREAM).tolist()
        if not streams:
            return
        self.allocate(rows)
        numbers, slots = [], []
        total = list(self.total)
        for stream in streams:
            number = total[stream]
            total[stream] = number + 1
            numbers.append(number)
            slots.append(stream * self.slots + number % self.slots)
        if len(streams) > self.slots:  # more than a ring holds may arrive at once: keep the newest of each slot
            keep = [i for i, (s, n) in enumerate(zip(streams, numbers, strict=True)) if n >= total[s] - self.slots]
            rows = {key: value[keep] for key, value in rows.items()}
            slots = [slots[i] for i in keep]
        self.storage.write(rows, slots)
        self.dirty[slots] = True
        for stream, before in enumerate(self.total):
            if self.online:
                for window in range(before // self.length, total[stream] // self.length):
                    self.queue.append((stream, window * self.length))
        self.total = total

    def write_latents(self, index: Tensor, latents: Mapping[str, Tensor]) -> int:
        """Replace stored latents by fresher ones; records that have been overwritten are skipped.

        Args:
            index: [b, length] as sampled; the last t columns are meant.
            latents: packed ``{"deter": [b, t, d], "stoch": [b, t, ...]}``.

        Returns:
            How many records were replaced.
        """
        if not self.latents:
            return 0
        new: dict[Key, Tensor] = {(LATENT, name): value.detach() for name, value in latents.items()}
        steps = next(iter(new.values())).shape[1]
        pieces, written = [], 0
        for row, code in enumerate(index[:, -steps].tolist()):
            number, stream = divmod(code, self.num_streams)
            skip = min(steps, max(0, self.first(stream) - number))
            for slot, begin, end in self._pieces(stream, number + skip, steps - skip):
                pieces.append((row, slot, skip + begin, skip + end))
                self.dirty[slot : slot + end - begin] = True
            written += steps - skip
        self.storage.write_pieces(new, pieces)
        return written

    def _pieces(self, stream: int, number: int, count: int) -> list[tuple[int, int, int]]:
        """The one or two contiguous pieces (slot, begin, end) of ``count`` records from ``number`` on."""
        if count <= 0:
            return []
        offset = number % self.slots
        base, fits = stream * self.slots, min(count, self.slots - offset)
        pieces = [(base + offset, 0, fits)]
        return pieces if fits == count else [*pieces, (base, fits, count)]

    # ---- sampling ------------------------------------------------------------------------------------------------

    def sample(self) -> TensorDict:
        """Draw a batch of windows.

        Returns:
            records [batch_size, length] with ``"index"`` [batch_size, length] int64. Element 0 has ``is_first`` (it is
            the context step); ``is_last`` holds wherever the next record begins an episode, also if one was abandoned.

        Raises:
            RuntimeError: no stream holds a whole window yet.
        """
        windows = self._draw()
        starts = torch.tensor([number * self.num_streams + stream for stream, number in windows])
        pieces, after, known = [], [], []
        for row, (stream, number) in enumerate(windows):
            pieces += [(row, *piece) for piece in self._pieces(stream, number, self.length)]
            following = number + self.length
            known.append(following < self.total[stream])
            after.append(stream * self.slots + following % self.slots)
        batch = self.storage.read_pieces((self.batch_size, self.length), pieces, self.pin_memory)
        followed, follows = (torch.tensor(x).to(self.storage.device, non_blocking=True) for x in (known, after))
        follows = self.storage.arrays[IS_FIRST][follows] & followed
        is_first = batch[IS_FIRST]
        batch[IS_LAST] |= torch.cat([is_first[:, 1:], follows.unsqueeze(1)], 1)
        is_first[:, : 1 if self.latents else 2] = True
        if DETER in batch:
            batch[DETER] = batch[DETER].float()
        batch["index"] = starts[:, None] + torch.arange(self.length) * self.num_streams
        return nested(batch, (self.batch_size, self.length))

    def _draw(self) -> list[tuple[int, int]]:
        windows: list[tuple[int, int]] = []
        while self.queue and len(windows) < self.batch_size:
            stream, number = self.queue.popleft()
            if number >= self.first(stream):
                windows.append((stream, number))
        missing = self.batch_size - len(windows)
        if missing:
            ends = list(accumulate(self._windows()))
            if ends[-1] == 0:
                raise RuntimeError(f"replay holds no window of {self.length} records yet ({self.steps} steps)")
            for drawn in torch.randint(ends[-1], (missing,), generator=self.generator).tolist():
                stream = bisect_right(ends, drawn)
                begin = drawn - (ends[stream - 1] if stream else 0)
                windows.append((stream, self.first(stream) + begin))
        return windows

    # ---- state ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all records."""
        self.total, self.oldest, self.saved = [0] * self.num_streams, [0] * self.num_streams, None
        self.queue.clear()
        self.dirty[:] = False

    def state_dict(self) -> dict:
        """Counters, queue and the sampler's random state; the records themselves go through ``save``."""
        queue = [list(window) for window in self.queue]
        return {"total": list(self.total), "queue": queue, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping) -> None:
        """Restore what ``state_dict`` gave; the queue only if the buffer holds the same records (see ``load``)."""
        generator = state["generator"]
        if isinstance(generator, str):
            generator = torch.frombuffer(bytearray.fromhex(generator), dtype=torch.uint8)
        self.generator.set_state(generator)
        if list(state["total"]) == self.total:
            self.queue = deque((stream, number) for stream, number in state["queue"])

    def save(self, folder: str | Path) -> list[str]:
        """Write what is new since the last save; see ``archive.save``."""
        return archive.save(self, folder)

    def load(self, folder: str | Path, names: str | Iterable[str] | None = None) -> None:
        """Fill the buffer with a saved one, by default the newest in ``folder``; see ``restore.load``.

        Args:
            folder: as given to ``save``.
            names: what ``save`` returned then (or the manifest among it), to load an older state.
        """
        restore.load(self, [(folder, names)])

    @staticmethod
    def prune(folder: str | Path, keep: Iterable[str]) -> None:
        """Delete what no kept state needs; see ``archive.prune``."""
        archive.prune(folder, keep)

"""The replay buffer: uniform windows of records over per-stream rings, the online queue, latents written back.

Every environment is a stream with a ring of its own, so that any ``length`` consecutive records of a stream are a valid
window: windows cross episode borders and never cross the write head. Records are addressed by their absolute number in
their stream; ``index = number * num_streams + stream`` names a record for good, and a slot that has been overwritten in
the meantime is recognised by its number alone.

Another way of sampling is a subclass with ``draw`` of its own, and ``after_update`` where it depends on the losses. The
buffer knows nothing of files: ``store.replay_files`` reads and fills it through the methods under "saving".
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreamer_lightning.data.records import STREAM
from dreamer_lightning.data.storage import Key, Storage, flatten, make_storage, nested, one_table
from dreamer_lightning.types import IS_FIRST, IS_LAST, LATENT, OBS, Count, Specs, UserError

Portion = tuple[np.ndarray, np.ndarray, dict[Key, Tensor]]  # of records: stream [m], number [m], rows [m]


class Replay:
    """A TensorDict replay buffer of records (DreamerV3, `embodied/core/replay.py@e3f0224`, in its behaviour).

    Args:
        capacity: most records kept, over all environments of a rank (1e6, 500K), each with an equal share.
        capacity_gb: most gigabytes (1e9 bytes) kept; the smaller of the two limits wins. None: no such limit.
        batch_size: windows in a batch.
        length: records in a window: one context step and the training steps.
        num_streams: environments.
        seed: of the sampler's own random generator.
        online: train on fresh sequences once, right after they are collected, before those that are drawn.
        storage: memory, memmap (files, which need page cache and no memory), or device (no batch is copied to it).
        folder: of memmap's files.
        device: that of training; batches for a GPU lie in page-locked memory, or with storage device there.
        deter: type in which floating-point parts of latents are stored; bfloat16 takes half the room and rounds them.
            Batches have float32 in any case.
        latents: sequences go on from the latents stored with them; false: each begins like an episode (V1 to V3-2023).

    Raises:
        UserError: the capacity holds no window, or does not fit into the memory (or disk) that is free.
    """

    def __init__(
        self,
        capacity: Count = Count(1_000_000),
        capacity_gb: float | None = None,
        batch_size: int = 16,
        length: int = 65,
        num_streams: int = 1,
        seed: int = 0,
        online: bool = True,
        storage: Literal["memory", "memmap", "device"] = "memory",
        folder: str | Path | None = None,
        device: torch.device = Storage.device,
        deter: Literal["float32", "bfloat16"] = "float32",
        latents: bool = True,
    ):
        self.capacity, self.capacity_gb = capacity, capacity_gb
        self.batch_size, self.length, self.num_streams = batch_size, length, num_streams
        self.online, self.latents = online, latents
        self.pinned = device.type == "cuda" and storage != "device"
        self.generator = torch.Generator().manual_seed(seed)
        self.storage = make_storage(storage, folder, device)
        self.deter = getattr(torch, deter)
        self.slots = 0  # of each stream's ring; known with the first records
        self.total = [0] * num_streams  # records ever written, per stream
        self.oldest = [0] * num_streams  # no record before this one was ever here
        self.queue: deque[tuple[int, int]] = deque()  # (stream, number of the window's first record)
        self.writes = 0  # calls that wrote records or latents
        self.written = np.zeros(0, np.int64)  # for each slot, which of them was the last there; 0 for none

    # ---- sizes ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Windows that can be sampled."""
        return sum(self.windows())

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
        self.slots, self.written = slots, np.zeros(slots * self.num_streams, np.int64)

    def _kept(self, example: TensorDictBase | Mapping) -> dict:
        """Rows as they are stored."""
        rows = {key: value[:1] for key, value in flatten(example).items() if key != STREAM}
        return {key: value.to(self.deter) if floating_latent(key, value) else value for key, value in rows.items()}

    def _slots(self, row_bytes: int) -> int:
        capacity: int = self.capacity
        if self.capacity_gb is not None:
            capacity = min(capacity, int(self.capacity_gb * 1e9 / max(1, row_bytes)))
        return capacity // self.num_streams

    def first(self, stream: int) -> int:
        """Number of the oldest record that a stream still holds."""
        return max(self.oldest[stream], self.total[stream] - self.slots)

    def windows(self) -> list[int]:
        """Windows that each stream holds; the first begins with its record number ``first(stream)``."""
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
        self._stamp(slots)
        for stream, before in enumerate(self.total):
            if self.online:
                for window in range(before // self.length, total[stream] // self.length):
                    self.queue.append((stream, window * self.length))
        self.total = total

    def write_latents(self, index: Tensor, latents: Mapping[str, Tensor]) -> int:
        """Replace stored latents by fresher ones; records that have been overwritten are skipped.

        Args:
            index: [b, length] as sampled; the last t columns are meant.
            latents: packed [b, t, ...], by the names of their parts.

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
            written += steps - skip
        self.storage.write_pieces(new, pieces)
        self._stamp(*(slice(slot, slot + end - begin) for _, slot, begin, end in pieces))
        return written

    def _stamp(self, *slots: slice | Sequence[int] | np.ndarray) -> None:
        self.writes += 1
        for some in slots:
            self.written[some] = self.writes

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
        windows = self._fresh()
        if missing := self.batch_size - len(windows):
            windows += zip(*self.draw(missing), strict=True)
        starts = torch.tensor([number * self.num_streams + stream for stream, number in windows])
        pieces, after, known = [], [], []
        for row, (stream, number) in enumerate(windows):
            pieces += [(row, *piece) for piece in self._pieces(stream, number, self.length)]
            following = number + self.length
            known.append(following < self.total[stream])
            after.append(stream * self.slots + following % self.slots)
        batch = self.storage.read_pieces((self.batch_size, self.length), pieces, self.pinned)
        followed, follows = (torch.tensor(x).to(self.storage.device, non_blocking=True) for x in (known, after))
        follows = self.storage.arrays[IS_FIRST][follows] & followed
        is_first = batch[IS_FIRST]
        batch[IS_LAST] |= torch.cat([is_first[:, 1:], follows.unsqueeze(1)], 1)
        is_first[:, : 1 if self.latents else 2] = True
        batch = {key: value.float() if floating_latent(key, value) else value for key, value in batch.items()}
        batch["index"] = starts[:, None] + torch.arange(self.length) * self.num_streams
        return nested(batch, (self.batch_size, self.length))

    def _fresh(self) -> list[tuple[int, int]]:
        """New windows (stream, number of the first record) from the online queue, a batch at most."""
        windows: list[tuple[int, int]] = []
        while self.queue and len(windows) < self.batch_size:
            stream, number = self.queue.popleft()
            if number >= self.first(stream):
                windows.append((stream, number))
        return windows

    def draw(self, count: int) -> tuple[Sequence[int], Sequence[int]]:
        """Choose windows, all with the same probability. The method to override for another way of sampling.

        Draws come from ``self.generator``, whose state checkpoints keep. What else a sampler must remember joins
        ``state_dict`` and ``load_state_dict``.

        Args:
            count: how many.

        Returns:
            The stream of each window, and the number of its first record there: from ``first(stream)`` on as many as
            ``windows()`` says.

        Raises:
            RuntimeError: no stream holds a whole window yet.
        """
        ends = list(accumulate(self.windows()))
        if ends[-1] == 0:
            raise RuntimeError(f"replay holds no window of {self.length} records yet ({self.steps} steps)")
        drawn = torch.randint(ends[-1], (count,), generator=self.generator).tolist()
        streams = [bisect_right(ends, place) for place in drawn]
        begins = [0, *ends]
        return streams, [self.first(s) + place - begins[s] for s, place in zip(streams, drawn, strict=True)]

    def after_update(self, streams: Tensor, starts: Tensor, losses: Mapping[str, Tensor]) -> None:
        """Hear how well a batch was known already. Override it where ``draw`` depends on that; called only then.

        Args:
            streams: stream of each window [b], int64 on the host.
            starts: number of its first record [b].
            losses: means over each window's steps [b], by the names of the losses such as ``dyn`` or ``recon/image``;
                on a GPU they were fetched while the next update ran.
        """

    @property
    def wants_losses(self) -> bool:
        """Whether ``after_update`` is overridden."""
        return type(self).after_update is not Replay.after_update

    # ---- saving --------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all records."""
        self.total, self.oldest = [0] * self.num_streams, [0] * self.num_streams
        self.queue.clear()
        self.written[:] = 0

    def cut(self, streams: Iterable[int]) -> None:
        """Mark the newest record of streams as their episode's last, not terminal: the episode was cut off."""
        for stream in streams:
            if self.total[stream] > self.first(stream):
                slot = stream * self.slots + (self.total[stream] - 1) % self.slots
                self.storage.arrays[IS_LAST][slot] = True

    def clamp(self, specs: Specs) -> dict[str, int]:
        """Bring observations that are outside their classes to the nearest class: every update would die of them.

        Returns:
            How many numbers of each observation were changed, by its name.
        """
        changed, held = {}, torch.as_tensor(self.written.nonzero()[0])
        for name, space in specs.obs.items():
            if space.classes and (OBS, name) in self.storage.arrays:
                values = self.storage.arrays[OBS, name]
                given = values[held]
                values[held] = inside = given.clamp(0, space.classes - 1)
                changed[name] = int((inside != given).sum())
        return {name: count for name, count in changed.items() if count}

    def rows(self, stream: np.ndarray, number: np.ndarray, latents: bool = False) -> dict[Key, Tensor]:
        """Records [m] by stream and number, on the CPU: the latents alone, or all but them."""
        index = torch.as_tensor(stream * self.slots + number % max(1, self.slots))
        return {k: v[index].cpu() for k, v in self.storage.arrays.items() if (k[0] == LATENT) == latents}

    def changed(self, since: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Stream and number of the records held whose latents were written later than ``writes`` was ``since``."""
        stream, offset = np.divmod((self.written > since).nonzero()[0], max(1, self.slots))
        newest = np.array(self.total)[stream] - 1
        return stream, newest - (newest - offset) % max(1, self.slots)

    def fill(self, total: Sequence[int], first: Sequence[int], portions: Iterable[Portion]) -> None:
        """Take saved records in place of those that are held; ``allocate`` comes first.

        Args:
            total: records ever written, per stream.
            first: number of the oldest of them that there is, per stream.
            portions: stream [m], number [m] and rows [m] as ``rows`` gave them, in the order of writing. What is older
                than what the rings hold is passed over.
        """
        self.clear()
        self.total, self.oldest = list(total), list(first)
        begin = np.array([self.first(stream) for stream in range(self.num_streams)])
        try:
            for stream, number, rows in portions:
                held = (number >= begin[stream]).nonzero()[0]
                if len(held):
                    slots = stream[held] * self.slots + number[held] % self.slots
                    chosen = torch.as_tensor(held)
                    self.storage.write({key: value[chosen] for key, value in rows.items()}, slots.tolist())
                    self._stamp(slots)
        except BaseException:
            self.clear()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Counters, queue and the sampler's random state, without the records themselves; plain data."""
        return {
            "streams": self.num_streams,
            "slots": self.slots,
            "total": list(self.total),
            "first": [self.first(stream) for stream in range(self.num_streams)],
            "entries": self.storage.entries(),
            "queue": [list(window) for window in self.queue],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the sampler go on as ``state_dict`` says; its queue only if the buffer holds the same records."""
        self.generator.set_state(state["generator"])
        if list(state["total"]) == self.total:
            self.queue = deque((stream, number) for stream, number in state["queue"])


def floating_latent(key: Key, value: Tensor) -> bool:
    """Whether an entry of the records is a part of the latent that is no class index."""
    return key[0] == LATENT and value.is_floating_point()

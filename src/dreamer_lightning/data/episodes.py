"""A replay buffer whose windows each lie within one complete episode (V1, V2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.types import IS_FIRST, IS_LAST


class Span(NamedTuple):
    """An episode that can be sampled: its stream, and the numbers of its first record and of the one after its last."""

    stream: int
    begin: int
    end: int


class EpisodeReplay(Replay):
    """Draws an episode, all alike, then a window of ``length - 1`` training steps within it, all alike.

    The context record before them belongs to whatever came before. Episodes that are still played, or shorter than the
    training steps, are left out. Of the oldest record of a stream no window begins: it has nothing before it.

    Args:
        prioritize_ends: draw the window's place from as many more places as it has training steps, all of which mean
            the last one: an episode's end is seen as often as its middle.
        options: of ``Replay``; ``online`` has no effect.
    Source: danijar/dreamerv2@07d906e common/replay.py; danijar/dreamer@56d4d44 tools.py (where the last place is left
        out).
    """

    def __init__(self, *args: Any, prioritize_ends: bool = False, **options: Any):
        super().__init__(*args, **options)
        self.online, self.prioritize_ends = False, prioritize_ends
        self._forget()

    def _forget(self) -> None:
        self.starts: list[list[int]] = [[] for _ in range(self.num_streams)]  # numbers of records with is_first
        self.scanned = [0] * self.num_streams
        self.seen: list[int] | None = None  # totals for which ``spans`` holds
        self.spans: list[Span] = []

    def clear(self) -> None:
        super().clear()
        self._forget()

    def episodes(self) -> list[Span]:
        """The episodes that a window fits into."""
        if self.seen != self.total:
            self.spans = [span for stream in range(self.num_streams) for span in self._spans(stream)]
            self.seen = list(self.total)
        return self.spans

    def _spans(self, stream: int) -> list[Span]:
        first, total = self.first(stream), self.total[stream]
        if first == total:
            return []
        base, starts = stream * self.slots, self.starts[stream]
        for number in range(max(first, self.scanned[stream]), total):
            if self.storage.arrays[IS_FIRST][base + number % self.slots]:
                starts.append(number)
        self.scanned[stream] = total
        self.starts[stream] = starts = [number for number in starts if number >= first]
        ends = starts[1:]
        if starts and self.storage.arrays[IS_LAST][base + (total - 1) % self.slots]:
            ends = [*ends, total]
        spans = [Span(stream, max(begin, first + 1), end) for begin, end in zip(starts, ends, strict=False)]
        return [span for span in spans if self._places(span) > 0]

    def _places(self, span: Span) -> int:
        return span.end - span.begin - (self.length - 1) + 1

    def windows(self) -> list[int]:
        """Windows that lie within one episode, by stream."""
        counts = [0] * self.num_streams
        for span in self.episodes():
            counts[span.stream] += self._places(span)
        return counts

    def draw(self, count: int) -> tuple[list[int], list[int]]:
        """An episode for each window, then its place there."""
        episodes = self.episodes()
        if not episodes:
            raise RuntimeError(f"replay holds no whole episode of {self.length - 1} steps yet ({self.steps} records)")
        extra = self.length - 1 if self.prioritize_ends else 0
        streams, starts = [], []
        for chosen in torch.randint(len(episodes), (count,), generator=self.generator).tolist():
            span = episodes[chosen]
            places = self._places(span)
            place = int(torch.randint(places + extra, (), generator=self.generator))
            streams.append(span.stream)
            starts.append(span.begin + min(place, places - 1) - 1)
        return streams, starts

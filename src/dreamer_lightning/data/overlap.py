"""Collecting in the background: the next steps are played in a thread while the caller trains on the last ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn


class Overlap:
    """A collector that is always one batch ahead, with weights as old as that batch.

    Tensor work and simulators release Python's lock, so that both threads progress. Which weights act no longer depends
    on the updates alone, and the batch in flight is lost to a checkpoint: runs repeat only without this.

    Args:
        make: makes an iterator of wires, in the thread that plays: pictures can be drawn in one thread only. All else
            about the iterator is passed through.
        refresh: copies the newest weights to those that act; called while nothing is in flight.
        device: where the policy acts.
    """

    def __init__(self, make: Callable[[], Any], refresh: Callable[[], None], device: torch.device):
        self.refresh = refresh
        self.thread = ThreadPoolExecutor(1, "collect", initializer=torch.set_num_threads, initargs=(1,))
        self.collector = self.thread.submit(make).result()
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.flying: Future[TensorDictBase] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collector, name)

    def __iter__(self) -> Iterator[TensorDictBase]:
        steps = iter(self.collector)
        while True:
            self.flying = self.flying or self.thread.submit(self.play, steps)
            wire = self.flying.result()
            self.refresh()
            if self.stream is not None:
                self.stream.wait_stream(torch.cuda.current_stream())
            self.flying = self.thread.submit(self.play, steps)
            yield wire

    def play(self, steps: Iterator[TensorDictBase]) -> TensorDictBase:
        """The next batch; on a GPU in a stream of its own."""
        with torch.cuda.stream(self.stream):  # None changes nothing
            return next(steps)

    def settle(self) -> None:
        """Wait for the batch in flight; it is still handed out next."""
        if self.flying is not None:
            self.flying.exception()

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Let the batch in flight end, then end the collector, in its thread, too."""
        ended = self.thread.submit(self.collector.shutdown, *args, **kwargs)
        self.thread.shutdown(wait=True)
        ended.result()


def copier(source: nn.Module, target: nn.Module) -> Callable[[], None]:
    """A function that copies all parameters and buffers of one module to its twin."""
    pairs = [(target.state_dict()[name], value) for name, value in source.state_dict().items()]
    mine, theirs = [list(side) for side in zip(*pairs, strict=True)]

    @torch.no_grad()
    def copy() -> None:
        torch._foreach_copy_(mine, theirs)

    return copy

"""Processes of one run that watch one another: where one dies, the others would wait for it for ever."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import torch

from dreamer_lightning.callbacks.base import Callback, LoopView, warn

EXIT = 3  # code of a process that ends because another one is gone


class Peers(Callback):
    """With several ranks: one that is gone brings its machine's others down within seconds, with a line that says so.

    Ranks on other machines learn of it by their broken connections.

    Args:
        every: seconds between two looks.
    """

    def __init__(self, every: float = 2.0):
        self.every = every
        self.others: dict[int, int] = {}  # rank -> process id, on this machine
        self.over = threading.Event()

    def on_fit_start(self, loop: LoopView) -> None:
        if loop.fabric.world_size == 1:
            return
        known: list = [None] * loop.fabric.world_size
        torch.distributed.all_gather_object(known, (socket.gethostname(), os.getpid()))
        self.others = {r: p for r, (host, p) in enumerate(known) if host == socket.gethostname() and p != os.getpid()}
        self.folder = str(loop.run_dir)
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def _watch(self) -> None:
        while not self.over.wait(self.every):
            rank = self.gone()
            if rank is not None:
                self._say(rank)
                os._exit(EXIT)  # the main thread may be waiting inside a collective, where nothing reaches it

    def gone(self) -> int | None:
        """The first rank whose process is no longer there."""
        return next((rank for rank, process in self.others.items() if not alive(process)), None)

    def _say(self, rank: int) -> None:
        again = f"go on from the last checkpoint by --resume {self.folder}"
        warn(f"rank {rank} (process {self.others[rank]}) is gone, so this rank ends too; {again}")

    def on_exception(self) -> None:
        if self.others and not self.over.is_set():
            time.sleep(0.2)  # a peer that was killed has broken the connection before it is gone
            rank = self.gone()
            if rank is not None:
                self._say(rank)
        self.over.set()

    def on_fit_end(self, loop: LoopView) -> None:
        if loop.fabric.world_size > 1:
            loop.fabric.barrier()  # nobody leaves before all are done
        self.over.set()


def alive(process: int) -> bool:
    """Whether a process runs; a dead child that nobody has waited for does not."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return not Path("/proc/self/stat").exists()

"""Processes of one run that watch one another: where one dies, the others would wait for it for ever."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import torch

from dreamer_lightning.callbacks.base import Callback, LoopView, is_episode, warn

EXIT = 3  # code of a process that ends because another one is gone
SLOW = 0.25  # share of the time that others wait for a rank until it is called slow


class Peers(Callback):
    """With several ranks: one that is gone brings its machine's others down within seconds, with a line that says so.

    Machines tell one another that they are alive through the store that torch.distributed met at: one that has been
    silent for a minute ends the others, with a line, too. A rank that the others wait for is named.

    Args:
        every: seconds between two looks.
        silence: seconds without a sign of life after which another machine counts as gone.
    """

    def __init__(self, every: float = 2.0, silence: float = 60.0):
        self.every, self.silence = every, silence
        self.others: dict[int, int] = {}  # rank -> process id, on this machine
        self.hosts: list[str] = []  # of each rank
        self.heard: dict[int, float] = {}  # rank on another machine -> when its last sign of life came
        self.pulsed = time.monotonic()  # when the store last answered
        self.slow: int | None = None
        self.before = (0.0, 0.0)
        self.over = threading.Event()

    def on_fit_start(self, loop: LoopView) -> None:
        if loop.fabric.world_size == 1:
            return
        known: list = [None] * loop.fabric.world_size
        torch.distributed.all_gather_object(known, (socket.gethostname(), os.getpid()))
        here, self.hosts = socket.gethostname(), [host for host, _ in known]
        self.others = {r: p for r, (host, p) in enumerate(known) if host == here and p != os.getpid()}
        self.heard = {rank: time.monotonic() for rank, host in enumerate(self.hosts) if host != here}
        self.pulsed = time.monotonic()
        self.folder, self.before = str(loop.run_dir), (time.monotonic(), loop.waited)
        if self.heard:
            store: Any = torch.distributed.distributed_c10d._get_default_store()
            pulse = (store.clone(), loop.fabric.global_rank)
            threading.Thread(target=self._pulse, args=pulse, name="pulse", daemon=True).start()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def _pulse(self, store: Any, rank: int) -> None:
        """Give signs of life and hear those of others; where the store is silent, so are all."""
        count, last = 0, dict.fromkeys(self.heard, b"")
        while not self.over.is_set():
            try:
                count += 1
                store.set(f"peers/{rank}", str(count))
                for other in self.heard:
                    if store.check([f"peers/{other}"]) and (sign := store.get(f"peers/{other}")) != last[other]:
                        last[other], self.heard[other] = sign, time.monotonic()
                self.pulsed = time.monotonic()
            except RuntimeError:  # its connection is broken; the silence is counted
                return
            self.over.wait(self.every)

    def _watch(self) -> None:
        while not self.over.wait(self.every):
            rank = self.gone()
            if rank is not None:
                self._say(rank)
                os._exit(EXIT)  # the main thread may be waiting inside a collective, where nothing reaches it
            silent = self.silent()
            if silent:
                what = f"for {self.silence:.0f} s, so this machine's ranks end too"
                warn(f"{', '.join(silent)} did not give a sign of life {what}; {self._again()}")
                os._exit(EXIT)

    def silent(self) -> list[str]:
        """Machines without a sign of life for too long."""
        now = time.monotonic()
        if self.heard and now - self.pulsed > self.silence:
            return [self.hosts[0]]  # which keeps the store: nothing is heard of the others, either
        return sorted({self.hosts[rank] for rank, heard in self.heard.items() if now - heard > self.silence})

    def on_log(self, loop: LoopView, row: dict[str, Any]) -> None:
        """Name the rank that waits least, where the others wait for it a good part of the time."""
        if loop.fabric.world_size == 1 or is_episode(row):
            return
        now, before = (time.monotonic(), loop.waited), self.before
        self.before = now
        waits: list = [None] * loop.fabric.world_size
        torch.distributed.all_gather_object(waits, now[1] - before[1])
        slow = waits.index(min(waits))
        share = (max(waits) - waits[slow]) / max(now[0] - before[0], 1e-6)
        if share > SLOW and slow != self.slow and loop.fabric.is_global_zero:
            warn(f"rank {slow} on {self.hosts[slow]} is slow: others wait {share:.0%} of the time for it")
        self.slow = slow if share > SLOW else None

    def gone(self) -> int | None:
        """The first rank whose process is no longer there."""
        return next((rank for rank, process in self.others.items() if not alive(process)), None)

    def _again(self) -> str:
        return f"go on from the last checkpoint by --resume {self.folder}"

    def _say(self, rank: int) -> None:
        warn(f"rank {rank} (process {self.others[rank]}) is gone, so this rank ends too; {self._again()}")

    def on_exception(self, error: BaseException) -> None:
        if self.heard and isinstance(error, RuntimeError) and re.search("gloo|nccl|connection", str(error), re.I):
            time.sleep(3 * self.every)  # the ranks of the machine that broke it have been silent since
            now = time.monotonic()
            lost = sorted({self.hosts[rank] for rank, heard in self.heard.items() if now - heard > 2 * self.every})
            names = ", ".join(lost) or "another machine"
            warn(f"the connection to {names} broke, so this rank ends too; {self._again()}")
            os._exit(EXIT)
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

"""A run's copy elsewhere, kept while it trains; ``store.mirror`` copies."""

from __future__ import annotations

import threading
from pathlib import Path

from dreamer_lightning.callbacks.base import Callback, LoopView, say, warn
from dreamer_lightning.store.mirror import Copy, first_line
from dreamer_lightning.types import UserError


class Mirror(Callback):
    """Copies the run folder to a URL after each checkpoint, in a thread; ``fit --resume URL`` goes on from there.

    What cannot be copied now is copied with the next checkpoint: a broken connection never stops training. With ranks
    on several hosts the run folder must be one that they share.

    Args:
        to: a folder of runs, at any URL that fsspec knows: s3://bucket/runs, gs://bucket/runs, /mnt/copies. The copy
            lies in it under the run folder's name. Keys come from the environment or the cloud's own files.
        patience: seconds that the end of a run waits for the last copy.

    Raises:
        UserError: no such protocol, the package for it is missing, or another run's copy lies there.
    """

    def __init__(self, to: str, patience: float = 600.0):
        self.to, self.patience = to.rstrip("/"), patience
        Copy(self.to, "Mirror.to")
        self.saved = False  # a checkpoint was written since the thread was last told
        self.due, self.ended = threading.Event(), False
        self.problem: str | None = None  # why the last copy failed
        self.thread: threading.Thread | None = None

    def on_fit_start(self, loop: LoopView) -> None:
        if not loop.fabric.is_global_zero:
            return
        run = Path(loop.run_dir)
        copy = Copy(f"{self.to}/{run.name}", "Mirror.to")
        if not loop.clocks.agent_step and self.holds_another(copy):
            raise UserError(f"Mirror.to: {copy.url} holds a run already; go on with it by --resume {copy.url}")
        self.thread = threading.Thread(target=self.work, args=(copy, run), daemon=True)
        self.thread.start()

    def holds_another(self, copy: Copy) -> bool:
        try:
            return bool(copy.checkpoints())
        except Exception as error:  # of the connection: each protocol has errors of its own
            self.note(copy, first_line(error))
            return False

    def on_save_checkpoint(self) -> None:
        self.saved = True

    def on_iteration_end(self) -> None:
        if self.saved:
            self.saved = False
            self.due.set()

    def work(self, copy: Copy, run: Path) -> None:
        """Copy whenever a checkpoint was written, and once more at the end."""
        last = False
        while not last:
            self.due.wait()
            self.due.clear()
            last = self.ended
            try:
                copy.send(run)
            except Exception as error:
                self.note(copy, first_line(error))
            else:
                self.problem = None

    def note(self, copy: Copy, problem: str) -> None:
        """Say it once for each outage."""
        if self.problem is None:
            warn(f"{copy.url}: not copied ({problem}); training goes on, the next checkpoint tries again")
        self.problem = problem

    def on_fit_end(self, loop: LoopView) -> None:
        self.end(loop)

    def on_exception(self, loop: LoopView) -> None:
        self.end(loop)

    def end(self, loop: LoopView) -> None:
        """Copy what is left, and say how it went."""
        if self.thread is None:
            return
        thread, self.thread, self.ended = self.thread, None, True
        self.due.set()
        thread.join(self.patience)
        where = f"{self.to}/{Path(loop.run_dir).name}"
        if thread.is_alive() or self.problem:
            why = self.problem or f"not done after {self.patience:.0f} s"
            warn(f"{where}: the newest checkpoint is not there ({why}); it is in {loop.run_dir}")
        else:
            say(loop, f"copied to {where}; fit --resume {where} goes on from there")

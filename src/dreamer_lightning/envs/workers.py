"""Environments in worker processes, which may raise, hang or die: they are replaced, and the others play on."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing
from torchrl.envs import EnvBase, ParallelEnv
from torchrl.envs.batched_envs import CloudpickleWrapper, _run_worker_pipe_shared_mem

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.guarded import Failures, Guard
from dreamer_lightning.types import EnvFailure, UserError

_NAP = 2e-5  # seconds between looks at the workers
_START = 120.0  # seconds that a new worker may take until its environment is there
_LOOKS = 2_000  # looks until it is checked whether the workers live, a fraction of a second

SAVING = 30  # seconds that a worker stays after SIGTERM, for the main process to ask for its state


class Workers(ParallelEnv):
    """TorchRL's ParallelEnv, which tells a worker's UserError here and leaves this process its threads.

    A worker that dies, or does not answer in time, is replaced: its environment begins anew, and the episode that was
    playing ends as truncated, with the last observation once more and a reward of zero.

    Args:
        num_envs: how many worker processes.
        factory: makes the environment of each.
        kwargs: for ``factory.make``, one for each worker.
        failures: where failures are told, how many may follow one another, and how long an answer may take; None:
            the first one raises.
    """

    def __init__(self, num_envs: int, factory: EnvFactory, kwargs: list[dict], failures: Failures | None = None):
        note = Path(tempfile.gettempdir()) / f"dreamer-lightning-{uuid.uuid4().hex}"
        self.__dict__.update(failed=False, note=note, failures=failures, doing="reset", in_a_row=[0] * num_envs)
        self.__dict__["replaced"] = [0] * num_envs
        worker = _Worker(factory, list(sys.path), self.note, failures)
        numbered = [{**options, "index": i} for i, options in enumerate(kwargs)]
        super().__init__(num_envs, worker, create_env_kwargs=numbered, daemon=True, num_threads=torch.get_num_threads())

    def _start_workers(self) -> None:
        with self._told():
            super()._start_workers()

    def _step(self, tensordict):
        self.__dict__["doing"] = "step"
        with self._told():
            return super()._step(tensordict)

    def _reset(self, tensordict, **kwargs):
        self.__dict__["doing"] = "reset"
        with self._told():
            return super()._reset(tensordict, **kwargs)

    def _wait_for_workers(self, workers_range) -> None:
        """Sleeps between looks: TorchRL's own loop keeps a whole core busy, which few machines can spare.

        It also sees a worker that has died within a second, and one that takes too long.
        """
        if not self._use_buffers:
            return super()._wait_for_workers(workers_range)
        flags, waiting = self._shm_done_flags, [self._worker_indices[i] for i in workers_range]
        begin, looks, again = time.monotonic(), 0, set()
        while any(not flags[i] for i in waiting):
            time.sleep(_NAP)
            looks += 1
            if looks % _LOOKS == 0:
                late = self.failures is not None and time.monotonic() - begin > self.failures.timeout
                for i in [i for i in waiting if not flags[i]]:
                    if late or not self._workers[i].is_alive():
                        self._replace(i, late and self._workers[i].is_alive())
                        again.add(i)
                        begin = time.monotonic()
        for i in waiting:
            flags[i] = 0
            if i not in again and self.doing == "step":
                self.in_a_row[i] = 0

    def _replace(self, i: int, hung: bool) -> None:
        """Put a new worker in the place of one that died or hangs, and finish what it was doing."""
        if self.note.exists():
            raise RuntimeError("a worker left a note")
        if self.failures is None:
            raise RuntimeError("a worker process of the environments has died; its message is above")
        while True:
            self._workers[i].kill()
            self._workers[i].join()
            how = "was ended by a signal" if (self._workers[i].exitcode or 0) < 0 else "ended"
            what = f"did not answer for {self.failures.timeout:g} s" if hung else f"is gone: its process {how}"
            self.failures.tell(i, what)
            self.in_a_row[i] += 1
            if self.in_a_row[i] >= self.failures.limit:
                raise EnvFailure(f"environment {i} failed {self.in_a_row[i]} times in a row; the last time it {what}")
            if self._start(i):
                break
            hung = self._workers[i].is_alive()
        if self.doing == "step":
            self._cut(i)
        else:
            self.parent_channels[i].send(("reset", (False, {})))

    def _start(self, i: int) -> bool:
        """Start worker ``i`` once more, as TorchRL does; whether it is there in time."""
        self.replaced[i] += 1
        options = dict(self.create_env_kwargs[i])
        options["seed"] = (options["seed"] + 104_729 * self.replaced[i]) % (2**31 - 1)  # not the same episodes again
        make = self.create_env_fn[i]
        context = multiprocessing.get_context(self._workers[i]._start_method)
        here, there = context.Pipe()
        self._workers[i] = context.Process(
            target=_run_worker_pipe_shared_mem,
            kwargs={
                "parent_pipe": here,
                "child_pipe": there,
                "env_fun": make if isinstance(make, CloudpickleWrapper) else CloudpickleWrapper(make),
                "env_fun_kwargs": options,
                "mp_event": self._events[i],
                "shared_tensordict": self.shared_tensordicts[i],
                "_selected_input_keys": self._selected_input_keys,
                "_selected_reset_keys": self._selected_reset_keys,
                "_selected_step_keys": self._selected_step_keys,
                "_non_tensor_keys": self._non_tensor_keys,
                "num_threads": self.num_sub_threads,
                "worker_idx": i,
                "shm_done_flags": self._shm_done_flags,
            },
            daemon=True,
        )
        self._workers[i].start()
        there.close()
        self.parent_channels[i].close()
        self.parent_channels[i] = here
        try:
            if not here.poll(max(_START, self.failures.timeout)):
                return False
            here.recv()
            here.send(("init", None))
        except (EOFError, OSError):
            return False
        return True

    def _cut(self, i: int) -> None:
        """The end of an episode that nobody can play on, where the worker would have written its step."""
        root, after = self.shared_tensordicts[i], self.shared_tensordicts[i].get("next")
        for key in after.keys(True, True):
            if key in root.keys(True, True):
                after.get(key).copy_(root.get(key))
        after.get("reward").zero_()
        for key, value in (("terminated", False), ("truncated", True), ("done", True)):
            after.get(key).fill_(value)
        self._shm_done_flags[i] = 1

    def ask(self, i: int, name: str, *args: Any) -> Any:
        """Call a method of one environment; None where it does not answer."""
        channel = self.parent_channels[i]
        try:
            channel.send((name, (args, {})))
            if channel.poll(self.failures.timeout if self.failures else None):
                return channel.recv()[1]
        except (EOFError, OSError):
            return None
        self._workers[i].kill()  # its answer would come at the wrong time; the next step finds it gone
        return None

    def close(self, *, raise_if_closed: bool = True) -> None:
        threads = torch.get_num_threads()
        try:
            super().close(raise_if_closed=raise_if_closed)
        except (RuntimeError, ValueError, OSError):
            if not self.failed:
                raise
            self.is_closed = True
        finally:
            torch.set_num_threads(threads)  # TorchRL adds one for each worker

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except (RuntimeError, EOFError, OSError) as error:
            if not self.note.exists() and not isinstance(error, EnvFailure):
                raise
            kind, message = type(error).__name__, str(error)
            if self.note.exists():
                kind, _, message = self.note.read_text().partition("\n")
                self.note.unlink()
            self.__dict__["failed"] = True
            self._terminate_and_join_workers(self._workers, timeout=5.0)  # before close, which would ask them to
            self.close(raise_if_closed=False)
            raise (EnvFailure if kind == "EnvFailure" else UserError)(message) from error


class _Worker:
    """Makes one environment in a worker process, which starts with neither our import path nor our thread count."""

    def __init__(self, factory: EnvFactory, path: list[str], note: Path, failures: Failures | None):
        self.factory, self.path, self.note, self.main = factory, path, note, os.getpid()
        self.failures = failures

    def __call__(self, index: int, **kwargs) -> EnvBase:
        if os.getpid() == self.main:  # TorchRL looks at the spaces
            return Guard(self.factory, kwargs, index)
        sys.path.extend(folder for folder in self.path if folder not in sys.path)
        torch.set_num_threads(1)
        for name in ("SIGINT", "SIGUSR1"):  # sent to the whole group; the main process answers and closes us
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, "alarm"):  # so is SIGTERM, but it may also be the main process that gives us up
            signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SAVING))
        env = self._telling(Guard)(self.factory, kwargs, index, self.failures)
        env.__dict__["patience"] = None  # the main process has it, and the alarm here is SIGTERM's
        env.__dict__["_step"] = self._telling(env._step)
        env.__dict__["_reset"] = self._telling(env._reset)
        return env

    def _telling(self, function: Callable) -> Callable:
        """The function; a UserError leaves a note for the main process and ends the worker without a traceback."""

        @functools.wraps(function)
        def told(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (UserError, EnvFailure) as error:
                self.note.write_text(f"{type(error).__name__}\n{error}")
                raise SystemExit(1) from error

        return told

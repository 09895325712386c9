"""Several environments of one task as one TorchRL environment, with the policy's state carried in time."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, EnvBase, InitTracker, ParallelEnv, SerialEnv, TensorDictPrimer, TransformedEnv

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.guarded import Failures, Guard
from dreamer_lightning.types import EnvFailure, UserError

_NAP = 2e-5  # seconds between looks at the workers
Primers = Mapping[str | tuple[str, ...], tuple[tuple[int, ...], torch.dtype]]


def make_batched(
    factory: EnvFactory,
    num_envs: int,
    seed: int,
    backend: Literal["serial", "process"] = "serial",
    primers: Primers | None = None,
    pixels_for_video: bool = False,
    failures: Failures | None = None,
) -> EnvBase:
    """``num_envs`` environments with batch size [num_envs], also for one.

    Args:
        factory: the task.
        num_envs: how many; environment ``i`` is seeded from ``seed`` and ``i``.
        seed: of the whole batch.
        backend: ``serial`` steps them in this process, ``process`` gives each a worker process.
        primers: what the policy carries from step to step, by key: (event shape, dtype). Zero after each reset;
            the policy writes the new value below ``next``.
        pixels_for_video: ``factory.frame`` will be asked for pictures (of the first one; not from workers).
        failures: where failures of environments are told and how many may follow one another; None: each one raises.

    Returns:
        The environment; it marks the first step of episodes by ``is_init`` [num_envs, 1].

    Raises:
        UserError: what the factory raises, also from within a worker.
        EnvFailure: an environment failed too often in a row.
    """
    factory.prepare()
    kwargs = [{"seed": env_seed(seed, i), "pixels_for_video": pixels_for_video} for i in range(num_envs)]
    if backend == "process":
        env = Workers(num_envs, factory, kwargs, failures)
    else:
        makers = [functools.partial(Guard, factory, kwargs[i], i, failures) for i in range(num_envs)]
        env = SerialEnv(num_envs, makers)
    transforms = [InitTracker(init_key="is_init")]
    if primers:
        carried = Composite(shape=(num_envs,))
        for key, (shape, dtype) in primers.items():
            carried[key] = Unbounded(shape=(num_envs, *shape), dtype=dtype)
        transforms.append(TensorDictPrimer(carried))
    return TransformedEnv(env, Compose(*transforms))


def env_seed(seed: int, index: int) -> int:
    """A seed for environment ``index`` that no neighbouring ``seed`` shares, below 2**31."""
    return (seed * 1_000_003 + index * 7919 + 1) % (2**31 - 1)


class Workers(ParallelEnv):
    """TorchRL's ParallelEnv, which tells a worker's UserError here and leaves this process its threads.

    Args:
        num_envs: how many worker processes.
        factory: makes the environment of each.
        kwargs: for ``factory.make``, one for each worker.
    """

    def __init__(self, num_envs: int, factory: EnvFactory, kwargs: list[dict], failures: Failures | None = None):
        self.__dict__["failed"] = False
        self.__dict__["note"] = Path(tempfile.gettempdir()) / f"dreamer-lightning-{uuid.uuid4().hex}"
        worker = _Worker(factory, list(sys.path), self.note, failures)
        numbered = [{**options, "index": i} for i, options in enumerate(kwargs)]
        super().__init__(num_envs, worker, create_env_kwargs=numbered, daemon=True, num_threads=torch.get_num_threads())

    def _start_workers(self) -> None:
        with self._told():
            super()._start_workers()

    def _step(self, tensordict):
        with self._told():
            return super()._step(tensordict)

    def _reset(self, tensordict, **kwargs):
        with self._told():
            return super()._reset(tensordict, **kwargs)

    def _wait_for_workers(self, workers_range) -> None:
        """Sleeps between looks: TorchRL's own loop keeps a whole core busy, which few machines can spare.

        It also sees a dead worker within a second and leaves the clearing up to ``close``.
        """
        if not self._use_buffers:
            return super()._wait_for_workers(workers_range)
        flags, waiting = self._shm_done_flags, [self._worker_indices[i] for i in workers_range]
        looks = 0
        while any(not flags[i] for i in waiting):
            time.sleep(_NAP)
            looks += 1
            if looks % 5_000 == 0 and not all(flags[i] or self._workers[i].is_alive() for i in waiting):
                raise RuntimeError("a worker process of the environments has died; its message is above")
        for i in waiting:
            flags[i] = 0

    def close(self, *, raise_if_closed: bool = True) -> None:
        threads = torch.get_num_threads()
        try:
            super().close(raise_if_closed=raise_if_closed)
        except (RuntimeError, ValueError):
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
            if not self.note.exists():
                raise
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
        env = self._telling(Guard)(self.factory, kwargs, index, self.failures)
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

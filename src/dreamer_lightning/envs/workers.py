"""An environment in a worker process, which may raise, hang or die: it is replaced, and the others play on."""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import connection, get_context
from typing import Any

import cloudpickle
import torch
from torchrl.data import TensorSpec

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.guarded import Failures, Guard, Row, another_seed, cut
from dreamer_lightning.types import EnvFailure, UserError

START = 120.0  # seconds that a new worker may take until its environment is there
SAVING = 30  # seconds that a worker stays after SIGTERM, for the main process to ask for its state
GUARD = (
    'a script that trains with worker processes runs only below `if __name__ == "__main__":`, '
    "and cannot come from standard input"
)


class Worker:
    """A ``Guard`` in a process of its own, asked and answered through a pipe: ``send``, then ``receive``.

    A process that dies, or does not answer in time, is replaced: its environment begins anew, and the episode that was
    playing ends as truncated, with the last observation once more and a reward of zero.

    Args:
        factory: makes the environment; it travels by value, so that it may come from a notebook.
        kwargs: for ``factory.make``.
        index: number of the environment in its batch.
        failures: where failures are told, how many may follow one another, and how long an answer may take; None:
            the first one raises.
    """

    def __init__(self, factory: EnvFactory, kwargs: Mapping[str, Any], index: int, failures: Failures | None = None):
        self.factory, self.kwargs, self.index, self.failures = cloudpickle.dumps(factory), kwargs, index, failures
        self.timeout = failures.timeout if failures else None
        self.in_a_row, self.replaced, self.doing = 0, 0, ""
        self.row: Row = {}
        self._start()

    def specs(self) -> tuple[TensorSpec, ...]:
        """As ``Guard.specs``; waits until the environment is made."""
        answer = self._answer(START)
        if isinstance(answer, str):
            raise UserError(f"env: worker process {self.index} {answer} before its environment was made; {GUARD}")
        return answer[0]

    def send(self, name: str, *args: Any) -> None:
        """Ask for a call of a method."""
        self.doing = name
        with suppress(OSError):  # it is gone; ``receive`` says so
            self.pipe.send_bytes(pickle.dumps((name, args), -1))

    def receive(self) -> Row:
        """What ``reset`` or ``step`` returned.

        Raises:
            UserError: the environment breaks its promises.
            EnvFailure: it failed ``failures.limit`` times in a row.
        """
        while isinstance(answer := self._answer(self.timeout), str):
            self._replace(answer)
            if self.doing == "step":
                return cut(self.row)
            self.send("reset")
        row = {key: torch.from_numpy(value) for key, value in answer[0].items()}
        self.row = {key: value for key, value in row.items() if key != "reward"}
        self.in_a_row = 0 if self.doing == "step" else self.in_a_row
        return row

    def ask(self, name: str, *args: Any) -> Any:
        """Call a method; None where it does not answer."""
        self.send(name, *args)
        answer = self._answer(self.timeout)
        if isinstance(answer, str):
            self.process.kill()  # its answer would come at the wrong time; the next step finds it gone
            return None
        return answer[0]

    def close(self) -> None:
        self.send("close")
        self.process.join(5.0)
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _start(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        kwargs = {**self.kwargs, "seed": another_seed(self.kwargs["seed"], self.replaced)}
        args = (theirs, self.factory, kwargs, self.index, self.failures, list(sys.path))
        self.process = context.Process(target=_serve, args=args, daemon=True)
        try:
            self.process.start()
        except RuntimeError as error:
            if "bootstrapping" not in str(error):
                raise
            raise SystemExit(1) from None  # this process is a worker that runs its parent's script; the parent tells
        theirs.close()

    def _answer(self, seconds: float | None) -> tuple[Any] | str:
        """What the process answers; else, in words, why it does not."""
        if not connection.wait([self.pipe, self.process.sentinel], seconds):
            return f"did not answer for {seconds:g} s"
        try:
            kind, value = pickle.loads(self.pipe.recv_bytes()) if self.pipe.poll() else ("gone", None)
        except (EOFError, OSError):
            kind = "gone"
        if kind == "gone":
            self.process.join()
            code = self.process.exitcode or 0
            return f"is gone: its process {f'was ended by signal {-code}' if code < 0 else f'ended with code {code}'}"
        if kind != "value":
            known = {"UserError": UserError, "EnvFailure": EnvFailure}
            raise known[kind](value) if kind in known else RuntimeError(f"environment {self.index}: {kind}: {value}")
        return (value,)

    def _replace(self, what: str) -> None:
        """Put a new process in the place of one that died or hangs."""
        while True:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            if self.failures is None:
                raise RuntimeError(f"environment {self.index} {what}; its message is above")
            self.failures.tell(self.index, what)
            self.in_a_row += 1
            if self.in_a_row >= self.failures.limit:
                story = f"environment {self.index} failed {self.in_a_row} times in a row"
                raise EnvFailure(f"{story}; the last time it {what}")
            self.replaced += 1
            self._start()
            answer = self._answer(max(START, self.failures.timeout))
            if not isinstance(answer, str):
                return
            what = answer


def _serve(
    pipe: connection.Connection,
    factory: bytes,
    kwargs: Mapping[str, Any],
    index: int,
    failures: Failures | None,
    path: list[str],
) -> None:
    """The worker process: makes the environment, then answers until it is told to close or the main process is gone."""
    sys.path.extend(folder for folder in path if folder not in sys.path)
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGUSR1"):  # sent to the whole group; the main process answers and closes us
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # so is SIGTERM, but it may also be the main process that gives us up
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SAVING))
    guard, name, args = None, "specs", ()
    try:
        guard = Guard(pickle.loads(factory), kwargs, index, failures)
        while name != "close":
            pipe.send_bytes(pickle.dumps(("value", _call(guard, name, args)), -1))
            name, args = pickle.loads(pipe.recv_bytes())
    except (EOFError, OSError):
        pass
    except Exception as error:
        pipe.send_bytes(pickle.dumps((type(error).__name__, str(error))))
    finally:
        if guard is not None:
            guard.close()


def _call(guard: Guard, name: str, args: tuple[Any, ...]) -> Any:
    args = tuple(torch.from_numpy(arg) if name == "step" else arg for arg in args)
    value = getattr(guard, name)(*args)
    return {key: x.numpy() for key, x in value.items()} if name in ("reset", "step") else value

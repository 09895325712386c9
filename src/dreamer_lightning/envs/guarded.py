"""One environment behind a guard: it may raise, and is made anew; its state can be saved and set."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import TensorSpec

from dreamer_lightning.envs.base import EnvFactory, told, wire_of
from dreamer_lightning.envs.transforms import finite
from dreamer_lightning.types import LOG_PREFIX, EnvFailure, UserError

Row = dict[Any, Tensor]  # what one environment returns at a step, by key
ENDS = ("terminated", "truncated", "done")


class Failures:
    """Failures of a batch of environments, told by its processes and read by the main one, through one file.

    Args:
        limit: failures in a row of one environment that end the run; those before are answered by a new one.
        timeout: seconds without an answer after which an environment counts as failed.
        mask: NaN and infinity in observations and rewards become 0; otherwise they end the run.
    """

    def __init__(self, limit: int = 5, timeout: float = 300.0, mask: bool = False):
        self.limit, self.timeout, self.mask = limit, timeout, mask
        self.path = Path(tempfile.gettempdir()) / f"dreamer-lightning-{uuid.uuid4().hex}.failures"
        self.seen = 0

    def tell(self, env: int, what: str, details: str = "", kind: str = "failed") -> None:
        """Add one failure: what happened in a line, and a traceback where there is one."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"env": env, "what": what, "details": details, "kind": kind}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """What was told since the last call."""
        try:
            if os.stat(self.path).st_size == self.seen:
                return []
        except FileNotFoundError:
            return []
        with open(self.path, encoding="utf-8") as file:
            file.seek(self.seen)
            text = file.read()
            self.seen = file.tell()
        return [json.loads(line) for line in text.splitlines()]

    def close(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Interrupt what takes longer, by the alarm signal.

    Code that does not come back to Python is not interrupted before it does. There is no limit outside of the main
    thread, on systems without interval timers, and where somebody else's alarm is due before.

    Args:
        seconds: None for no limit.

    Raises:
        TimeoutError: inside, once the time is over.
    """
    if not seconds or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError(f"no answer for {seconds:g} s")

    start, (theirs, interval) = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)
    if 0 < theirs <= seconds:
        yield
        return
    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        if theirs:
            left = theirs - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), interval)


class Guard:
    """One environment of a factory, which is replaced by a new one when it raises, exits, or takes too long.

    The episode that was playing ends as truncated, with the last observation once more and a reward of zero.

    Args:
        factory: makes the environment, and knows its state.
        kwargs: for ``factory.make``.
        index: number of the environment in its batch.
        failures: where failures are told; None lets them through.
        patience: seconds that a call may take; None for no limit.

    Raises:
        UserError: at once, whatever the limit: the environment breaks its promises.
        EnvFailure: it failed ``failures.limit`` times in a row.
    """

    def __init__(
        self,
        factory: EnvFactory,
        kwargs: Mapping[str, Any],
        index: int = 0,
        failures: Failures | None = None,
        patience: float | None = None,
    ):
        self.factory, self.kwargs, self.index, self.failures = factory, dict(kwargs), index, failures
        self.patience, self.in_a_row, self.made, self.steps = patience, 0, 1, 0
        self.seed, self.inner = self.kwargs["seed"], factory.make(**kwargs)
        self.row: Row = {}
        self.taken = False  # others have played in it since the last step
        self._watch()

    def specs(self) -> tuple[TensorSpec, ...]:
        """Of observations, actions, rewards and ends, without batch dimension."""
        env = self.inner
        return env.observation_spec, env.full_action_spec, env.full_reward_spec, env.full_done_spec

    def reset(self) -> Row:
        """The observation with which an episode begins."""
        self.steps, self.taken = 0, False
        while True:
            try:
                with within(self.patience):
                    return self._keep(self.inner.reset())
            except (Exception, SystemExit) as error:
                self._again(error)

    def step(self, action: Tensor) -> Row:
        """What a flat action [a] leads to."""
        if self.taken:
            self.taken = False
            return cut(self.row)
        self.steps += 1
        try:
            with within(self.patience):
                after = self.inner.step(TensorDict({**self.row, "action": action}))["next"]
            for name in self.floats:
                after.set(name, finite(str(name), after.get(name), self.steps, self.repair))
        except (Exception, SystemExit) as error:
            self._again(error)
            return cut(self.row)
        self.in_a_row = 0
        if self.wire is not None and self.wire.notes:
            notes, self.wire.notes[:] = list(self.wire.notes), []
            if self.failures is not None:
                for note in notes:
                    self.failures.tell(self.index, note, kind="note")
        return {**self._keep(after), "reward": after.get("reward")}

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Others play in it meanwhile; the episode that was playing then ends as truncated."""
        row = self.row
        try:
            yield
        finally:
            self.row, self.taken = row, True

    def _keep(self, after: TensorDict) -> Row:
        self.row = {key: after.get(key) for key in self.keys}
        return self.row

    def _again(self, error: BaseException) -> None:
        """Tell of a failure and make a new environment, unless it is one too many."""
        while True:
            if isinstance(error, UserError):
                raise UserError(f"environment {self.index}: {error}") from error
            if self.failures is None:
                raise error
            self.in_a_row += 1
            kind = "tried to end the process:" if isinstance(error, SystemExit) else "raised"
            what = f"{kind} {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
            details = "".join(traceback.format_exception(error))
            self.failures.tell(self.index, what, details)
            if self.in_a_row >= self.failures.limit:
                story = f"environment {self.index} failed {self.in_a_row} times in a row; the last time it {what}"
                raise EnvFailure(f"{story}\n{details}") from error
            self.made += 1
            try:  # another seed: not the same episodes again
                self._make(another_seed(self.kwargs["seed"], self.made - 1))
                return
            except (Exception, SystemExit) as failed:
                error = failed

    def _make(self, seed: int) -> None:
        with suppress(Exception, SystemExit), within(self.patience):
            self.inner.close()
        self.inner, self.seed = self.factory.make(**{**self.kwargs, "seed": seed}), seed
        self._watch()

    def _watch(self) -> None:
        """Have bad numbers looked for: by the environment's own transform, or here."""
        env = self.inner
        self.keys = [*env.observation_spec.keys(True, True), *env.full_done_spec.keys(True, True)]
        self.wire = wire_of(env)
        self.repair = self._masked if self.failures is not None and self.failures.mask else None
        if self.wire is not None:
            self.wire.repair = self.repair
        specs = {} if self.wire else {**dict(env.observation_spec.items(True, True)), "reward": env.reward_spec}
        floats = [name for name, spec in specs.items() if spec.dtype.is_floating_point]
        self.floats = [name for name in floats if not str(name).startswith(LOG_PREFIX)]  # those never reach the model

    def _masked(self, name: str, step: int) -> None:
        assert self.failures is not None
        self.failures.tell(self.index, f"{name} was NaN or infinite at step {step} of an episode, now 0", kind="masked")

    def told(self) -> dict[str, Any]:
        """What the environment's own spaces say beside TorchRL's, see ``base.told``."""
        return told(self.inner)

    def get_state(self) -> dict[str, Any] | None:
        """State of the environment inside, None if it has none."""
        if self.taken:
            return None
        with suppress(Exception):  # a user's get_state that fails costs an episode, not the run
            state = self.factory.get_state(self.inner)
            if state is not None:
                return {"state": state, "seed": self.seed, "made": self.made, "steps": self.steps, "row": self.row}
        return None

    def set_state(self, state: dict[str, Any]) -> bool:
        """Go on from a saved state; whether it fits."""
        try:
            if state["seed"] != self.seed:  # it had been replaced by one of another seed
                self._make(state["seed"])
            self.made, self.steps = state["made"], state.get("steps", 0)
            self.row = state.get("row", self.row)
            self.factory.set_state(self.inner, state["state"])
        except Exception:
            return False
        return True

    def close(self) -> None:
        self.inner.close()


def cut(row: Row) -> Row:
    """The end of an episode that nobody can play on: the last observation once more, no reward, truncated."""
    ends = {key: torch.full((1,), key != "terminated") for key in ENDS if key in row}
    return {**{key: value.clone() for key, value in row.items()}, "reward": torch.zeros(1), **ends}


def another_seed(seed: int, times: int) -> int:
    """The seed of an environment that was replaced so many times."""
    return (seed + 104_729 * times) % (2**31 - 1)

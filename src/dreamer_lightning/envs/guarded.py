"""An environment behind a guard: it may raise, and is made anew; its state can be saved and set."""

from __future__ import annotations

import json
import os
import tempfile
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase, SerialEnv, TransformedEnv

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.patience import within
from dreamer_lightning.envs.transforms import Wire, finite
from dreamer_lightning.store import environment
from dreamer_lightning.types import LOG_PREFIX, EnvFailure, UserError


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
        with open(self.path, "a") as file:
            file.write(json.dumps({"env": env, "what": what, "details": details, "kind": kind}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """What was told since the last call."""
        try:
            if os.stat(self.path).st_size == self.seen:
                return []
        except FileNotFoundError:
            return []
        with open(self.path) as file:
            file.seek(self.seen)
            text = file.read()
            self.seen = file.tell()
        return [json.loads(line) for line in text.splitlines()]

    def close(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


class Guard(EnvBase):
    """One environment of a factory, which is replaced by a new one when it raises, or takes too long.

    The episode that was playing ends as truncated, with the last observation once more and a reward of zero.

    Args:
        factory: makes the environment, and knows its state.
        kwargs: for ``factory.make``.
        index: number of the environment in its batch.
        failures: where failures are told; None lets them through.

    Raises:
        UserError: at once, whatever the limit: the environment breaks its promises.
        EnvFailure: it failed ``failures.limit`` times in a row.
    """

    batch_locked = False

    def __init__(self, factory: EnvFactory, kwargs: Mapping[str, Any], index: int, failures: Failures | None = None):
        env = factory.make(**kwargs)
        super().__init__(device=env.device, batch_size=())
        self.__dict__.update(inner=env, factory=factory, kwargs=dict(kwargs), index=index, failures=failures)
        self.__dict__.update(in_a_row=0, made=1, seed=kwargs["seed"], steps=0)
        self.__dict__["patience"] = failures.timeout if failures else None  # seconds; ``Workers`` has it for its own
        self.observation_spec = env.observation_spec.clone()
        self.full_action_spec = env.full_action_spec.clone()
        self.full_reward_spec = env.full_reward_spec.clone()
        self.full_done_spec = env.full_done_spec.clone()
        self._watch()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.steps += 1
        try:
            with within(self.patience):
                after = self.inner._step(tensordict)
            if self.floats:
                self._check(after)
        except UserError as error:
            raise UserError(f"environment {self.index}: {error}") from error
        except Exception as error:
            self._again(error)
            return self._cut(tensordict)
        self.in_a_row = 0
        return after

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        self.steps = 0
        while True:
            try:
                with within(self.patience):
                    return self.inner.reset(None if tensordict is None else tensordict.copy(), **kwargs)
            except Exception as error:
                self._again(error)

    def _again(self, error: Exception) -> None:
        """Tell of a failure and make a new environment, unless it is one too many."""
        while True:
            if self.failures is None or isinstance(error, UserError):
                raise error
            self.in_a_row += 1
            what = f"raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
            details = "".join(traceback.format_exception(error))
            self.failures.tell(self.index, what, details)
            if self.in_a_row >= self.failures.limit:
                story = f"environment {self.index} failed {self.in_a_row} times in a row; the last time it {what}"
                raise EnvFailure(f"{story}\n{details}") from error
            self.made += 1
            try:  # another seed: not the same episodes again
                self._make((self.kwargs["seed"] + 104_729 * (self.made - 1)) % (2**31 - 1))
                return
            except Exception as failed:
                error = failed

    def _make(self, seed: int) -> None:
        with suppress(Exception), within(self.patience):
            self.inner.close()
        self.__dict__["inner"] = self.factory.make(**{**self.kwargs, "seed": seed})
        self.seed = seed
        self._watch()

    def _watch(self) -> None:
        """Have bad numbers looked for: by the environment's own transform, or here."""
        transforms = environment.transforms(self.inner) if isinstance(self.inner, TransformedEnv) else []
        wires = [transform for transform in transforms if isinstance(transform, Wire)]
        repair = self._masked if self.failures is not None and self.failures.mask else None
        for wire in wires:
            wire.repair = repair
        specs = {} if wires else {**dict(self.observation_spec.items(True, True)), "reward": self.reward_spec}
        floats = [name for name, spec in specs.items() if spec.dtype.is_floating_point]
        floats = [name for name in floats if not str(name).startswith(LOG_PREFIX)]  # those never reach the model
        self.__dict__.update(floats=floats, repair=repair)

    def _check(self, after: TensorDictBase) -> None:
        for name in self.floats:
            value = after.get(name)
            good = finite(str(name), value, self.steps, self.repair)
            if good is not value:
                after.set(name, good)

    def _masked(self, name: str, step: int) -> None:
        self.failures.tell(self.index, f"{name} was NaN or infinite at step {step} of an episode, now 0", kind="masked")

    def _cut(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The end of an episode that nobody can play on."""
        out = {name: tensordict.get(name).clone() for name in self.observation_spec.keys(True, True)}
        yes = torch.ones(1, dtype=torch.bool)
        return TensorDict({**out, "reward": torch.zeros(1), "terminated": ~yes, "truncated": yes, "done": yes.clone()})

    def _set_seed(self, seed: int | None) -> None:
        self.inner.set_seed(seed)

    def get_state(self) -> dict[str, Any] | None:
        """State of the environment inside, None if it has none."""
        with suppress(Exception):  # a user's get_state that fails costs an episode, not the run
            state = self.factory.get_state(self.inner)
            return None if state is None else {"state": state, "seed": self.seed, "made": self.made}
        return None

    def set_state(self, state: dict[str, Any]) -> str:
        """Go on from a saved state; returns what is wrong with it, in words, or nothing."""
        try:
            if state["seed"] != self.seed:  # it had been replaced by one of another seed
                self._make(state["seed"])
            self.made = state["made"]
            self.factory.set_state(self.inner, state["state"])
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def close(self, *, raise_if_closed: bool = True) -> None:
        self.inner.close()
        self.is_closed = True


def env_states(env: EnvBase) -> list[dict[str, Any] | None]:
    """The state of each environment of a batch that ``make_batched`` made; None for those that have none."""
    batch = _batch(env)
    if isinstance(batch, SerialEnv):
        return [guard.get_state() for guard in batch._envs]
    return [batch.ask(i, "get_state") for i in range(batch.num_workers)]


def set_env_states(env: EnvBase, states: list[dict[str, Any] | None]) -> list[int]:
    """Go on from what ``env_states`` gave, in a batch of as many environments.

    Returns:
        The environments that stay where they are: their state is missing or does not fit.
    """
    batch, refused = _batch(env), []
    for i, state in enumerate(states):
        if state is None:
            refused.append(i)
        elif isinstance(batch, SerialEnv):
            if batch._envs[i].set_state(state):
                refused.append(i)
        else:
            if batch.ask(i, "set_state", state) != "":
                refused.append(i)
    return refused


def _batch(env: EnvBase) -> Any:
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return env

"""Several environments of one task as one TorchRL environment, with the policy's state carried in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, EnvBase, InitTracker, TensorDictPrimer, TransformedEnv

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.guarded import Failures, Guard, Row
from dreamer_lightning.envs.workers import Worker
from dreamer_lightning.types import Occupied, UserError

Primers = Mapping[str | tuple[str, ...], tuple[tuple[int, ...], torch.dtype]]


class Batch(EnvBase):
    """Environments side by side, batch size [n]: in this process one after another, or all at once in workers.

    Both ways give the same numbers. What one of them raises closes all.

    Args:
        seats: the environments.
    """

    def __init__(self, seats: list[Guard] | list[Worker]):
        try:
            specs = [seat.specs() for seat in seats]
        except BaseException:
            _close(seats)
            raise
        n = len(seats)
        super().__init__(batch_size=[n])
        self.is_closed = False  # TorchRL takes it for closed otherwise, and never closes it
        self.seats, self.rows = seats, list[Row]({} for _ in seats)
        observation, action, reward, done = (spec.expand(n, *spec.shape).clone() for spec in specs[0])
        self.observation_spec, self.full_action_spec = observation, action
        self.full_reward_spec, self.full_done_spec = reward, done

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._play("step", dict(enumerate(tensordict.get("action"))))
        return _stacked(self.rows)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        who = range(len(self.seats)) if mask is None else mask.reshape(-1).nonzero().flatten().tolist()
        self._play("reset", {i: None for i in who})
        return _stacked([{key: row[key] for key in self.rows[who[0]]} for row in self.rows])

    def _play(self, name: str, asked: Mapping[int, Tensor | None]) -> None:
        try:
            for i, action in asked.items():
                args = () if action is None else (action,)
                if isinstance(seat := self.seats[i], Guard):
                    self.rows[i] = getattr(seat, name)(*args)
                else:
                    seat.send(name, *(arg.numpy() for arg in args))
            for i in asked:
                if isinstance(seat := self.seats[i], Worker):
                    self.rows[i] = seat.receive()
        except BaseException:
            self.close(raise_if_closed=False)
            raise

    def get_states(self) -> list[dict[str, Any] | None]:
        """The state of each environment; None for those that have none."""
        return [seat.get_state() if isinstance(seat, Guard) else seat.ask("get_state") for seat in self.seats]

    def set_states(self, states: list[dict[str, Any] | None]) -> list[int]:
        """Go on from what ``get_states`` gave, in as many environments.

        Returns:
            The environments that stay where they are: their state is missing or does not fit.
        """
        refused = []
        for i, state in enumerate(states):
            seat = self.seats[i]
            if not state or not (seat.set_state(state) if isinstance(seat, Guard) else seat.ask("set_state", state)):
                refused.append(i)
            elif "row" in state:
                seat.row = self.rows[i] = state["row"]
        return refused

    @contextmanager
    def lend(self) -> Iterator[Batch]:
        """The first environment, for episodes in between.

        Raises:
            UserError: it is in a worker process.
        """
        if not isinstance(seat := self.seats[0], Guard):
            raise UserError(
                "env: no second one can be opened, and evaluation cannot play in a worker process; take "
                "--collector.backend serial, or --evaluation.every 0 with --evaluation.random_episodes 0"
            )
        with seat.lent():
            lent = Batch([seat])
            try:
                yield lent
            finally:
                lent.seats = []  # it is not closed with the batch

    def _set_seed(self, seed: int | None) -> None:
        """Each environment is seeded when it is made."""

    def close(self, *, raise_if_closed: bool = True) -> None:
        _close(self.seats)
        self.is_closed = True


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
        backend: ``serial`` steps them in this process, ``process`` gives each a worker process; a factory that makes
            many at once (``make_many``) does so in this process.
        primers: what the policy carries from step to step, by key: (event shape, dtype). Zero after each reset;
            the policy writes the new value below ``next``.
        pixels_for_video: ``factory.frame`` will be asked for pictures (of the first one; not from workers).
        failures: where failures of environments are told and how many may follow one another; None: each one raises.

    Returns:
        The environment; it marks the first step of episodes by ``is_init`` [num_envs, 1].

    Raises:
        UserError: what the factory raises, also from within a worker.
        Occupied: the first environment was made here, a further one was not.
        EnvFailure: an environment failed too often in a row.
    """
    factory.prepare()
    kwargs = [{"seed": env_seed(seed, i), "pixels_for_video": pixels_for_video} for i in range(num_envs)]
    patience = failures.timeout if failures else None
    env: EnvBase
    if (many := factory.make_many(num_envs, seed)) is not None:
        env = many
    elif backend == "process":
        env = Batch([Worker(factory, kwargs[i], i, failures) for i in range(num_envs)])
    else:
        env = Batch(_guards(factory, kwargs, failures, patience))
    transforms = [InitTracker(init_key="is_init")]
    if primers:
        carried = Composite(shape=(num_envs,))
        for key, (shape, dtype) in primers.items():
            carried[key] = Unbounded(shape=(num_envs, *shape), dtype=dtype)
        transforms.append(TensorDictPrimer(carried))
    return TransformedEnv(env, Compose(*transforms))


def _guards(
    factory: EnvFactory, kwargs: list[dict[str, Any]], failures: Failures | None, patience: float | None
) -> list[Guard]:
    seats: list[Guard] = []
    try:
        for i, each in enumerate(kwargs):
            seats.append(Guard(factory, each, i, failures, patience))
    except BaseException as error:
        _close(seats)
        if not seats or isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        why = f"{type(error).__name__}: {error}"
        raise Occupied(f"env: one was made, one more beside it was not ({why}); --num_envs 1 plays in one") from error
    return seats


def batch_of(env: EnvBase) -> Any:
    """The environments that ``make_batched`` put together."""
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return env


def env_seed(seed: int, index: int) -> int:
    """A seed for environment ``index`` that no neighbouring ``seed`` shares, below 2**31."""
    return (seed * 1_000_003 + index * 7919 + 1) % (2**31 - 1)


def _stacked(rows: list[Row]) -> TensorDict:
    return TensorDict({key: torch.stack([row[key] for row in rows]) for key in rows[0]}, [len(rows)])


def _close(seats: list[Guard] | list[Worker]) -> None:
    for seat in seats:
        with suppress(Exception):
            seat.close()

"""Environments that are many by nature: a gymnasium ``VectorEnv`` steps all of them at once, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from dreamer_lightning.envs.actions import reach, speaker
from dreamer_lightning.envs.base import specs_of
from dreamer_lightning.envs.custom import load_object
from dreamer_lightning.envs.guarded import ENDS
from dreamer_lightning.envs.gym import GymSuite
from dreamer_lightning.envs.strict import Strict, flatten, line
from dreamer_lightning.envs.transforms import finite, hidden
from dreamer_lightning.store.environment import packed, unpacked
from dreamer_lightning.types import EnvFailure, Layout, UserError


class Vector(GymSuite):
    """``--num_envs`` environments as one ``gymnasium.vector.VectorEnv``, in this process.

    Its autoreset mode must be SAME_STEP (an ended row begins anew within the step, ``info["final_obs"]`` holds the last
    observations) or DISABLED (rows are reset by ``options["reset_mask"]``). Evaluations play rows of it too, unfilmed.

    Args:
        task: an id for ``gymnasium.make_vec``, or module:Class that takes ``num_envs``.
        kwargs: further arguments for it, such as ``vectorization_mode``.
    """

    def __init__(self, task: str = "CartPole-v1", kwargs: Mapping[str, Any] | None = None, **options: Any):
        super().__init__(**options)
        self.task, self.kwargs = task, dict(kwargs or {})
        self.name = task.rpartition(":")[2].replace("/", "_").lower()
        given = {"repeat": self.repeat != 1, "pixels": self.pixels, "time_limit": self.time_limit is not None}
        given |= {"wrappers": bool(self.wrappers), "log_info": bool(self.log_info)}
        if wrong := [name for name, value in given.items() if value]:
            raise UserError(f"env.{wrong[0]}: envs.Vector does not have it; build it into the environment itself")

    def make(self, seed: int, pixels_for_video: bool = False) -> EnvBase:
        return self.wire(Lone(self._load(1)), seed)

    def make_many(self, num_envs: int, seed: int) -> EnvBase:
        return Rows(self._load(num_envs), self.make(seed), seed, self.hidden)

    def _load(self, num_envs: int) -> VectorEnv:
        kwargs = {"num_envs": num_envs, **self.kwargs}
        module, _, name = self.task.rpartition(":")
        own = bool(module) and name not in gymnasium.registry
        maker: Callable[..., Any] = load_object(self.task, "env.task") if own else gymnasium.make_vec
        if not own and "vectorization_mode" not in kwargs:
            kwargs |= {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
        try:
            env = maker(**kwargs) if own else maker(self.task, **kwargs)
        except Exception as error:
            raise UserError(f"env.task: {self.task} cannot be made: {line(error)}") from error
        mode = getattr(env, "metadata", {}).get("autoreset_mode")
        if not isinstance(env, VectorEnv):
            raise UserError(f"env.task: {self.task} makes a {type(env).__name__}, no gymnasium.vector.VectorEnv")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            raise UserError(
                f"env.task: {type(env).__name__} has the autoreset mode {mode}, whose resets take a step of their own; "
                "SAME_STEP and DISABLED work"
            )
        if env.num_envs != num_envs:
            raise UserError(f"--num_envs: {self.task} makes {env.num_envs} environments, not {num_envs}; give that")
        return env


class Lone(gymnasium.Env):
    """The one row of a ``VectorEnv`` as an environment of its own."""

    def __init__(self, env: VectorEnv):
        self.env, self.mode = env, env.metadata["autoreset_mode"]
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return row_of(self.env.reset(seed=seed)[0], 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(gathered(self.action_space, [action]))
        ended = bool(terminated[0] or truncated[0])
        last = info["final_obs"][0] if ended and self.mode == AutoresetMode.SAME_STEP else row_of(obs, 0)
        return last, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def close(self) -> None:
        self.env.close()


class Rows(EnvBase):
    """All rows of a ``VectorEnv`` on the wire, batch size [n]; each begins anew when its own episode has ended.

    Args:
        env: the rows; SAME_STEP or DISABLED.
        single: one such row on the wire, which says how observations are read.
        seed: of the first reset.
        hide: patterns of observations to leave out.

    Raises:
        UserError: what the spaces do not allow, with key and step.
        EnvFailure: the environment raised.
    """

    def __init__(self, env: VectorEnv, single: EnvBase, seed: int | None, hide: list[str]):
        n = env.num_envs
        super().__init__(batch_size=[n])
        self.is_closed = False  # TorchRL takes it for closed otherwise, and never closes it
        self.env, self.seed, self.hide, self.steps = env, seed, hide, 0
        self.seats = [SimpleNamespace(inner=single)]  # what says how the rows are read, as in ``batched.Batch``
        self.strict: Strict = single.base_env._env
        self.layout, self.same_step = (
            specs_of(single).actions,
            env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP,
        )
        specs = (single.observation_spec, single.full_action_spec, single.full_reward_spec, single.full_done_spec)
        observation, action, reward, done = (spec.expand(n, *spec.shape).clone() for spec in specs)
        self.observation_spec, self.full_action_spec = observation, action
        self.full_reward_spec, self.full_done_spec = reward, done
        self.now: dict[str, Tensor] = {}  # what each row shows: at an end what the next episode begins with
        self.write = writer(env.single_action_space, self.layout)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None:
            self.now = self._read(self._ask(self.env.reset, seed=self.seed)[0])
            self.seed = None  # a later reset goes on with the same randomness
        elif not self.same_step:
            rows = mask.reshape(-1)
            fresh = self._read(self._ask(self.env.reset, options={"reset_mask": rows.numpy().copy()})[0])
            self.now = {name: torch.where(spread(rows, value), fresh[name], value) for name, value in self.now.items()}
        return self._out(dict(self.now), *np.zeros((2, *self.batch_size), bool))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.steps += 1
        obs, reward, terminated, truncated, info = self._ask(self.env.step, self.write(tensordict.get("action")))
        self.now = self._read(obs)
        after, ended = dict(self.now), np.flatnonzero(np.asarray(terminated) | np.asarray(truncated))
        if self.same_step and len(ended):
            if "final_obs" not in info:
                raise UserError("env: an episode ended and info has no 'final_obs', which SAME_STEP promises")
            last = [row_of(info["final_obs"], int(i)) for i in ended]
            found = self._read(gathered(self.env.single_observation_space, last), len(last))
            after = {name: value.index_copy(0, torch.from_numpy(ended), found[name]) for name, value in after.items()}
        out = self._out(after, np.asarray(terminated), np.asarray(truncated))
        rewards = torch.from_numpy(np.asarray(reward, np.float32)).reshape(-1, 1)
        return out.set("reward", finite("reward", rewards, self.steps, None))

    def _ask(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            self.close(raise_if_closed=False)
            raise EnvFailure(f"the batched environment raised {type(error).__name__}: {line(error)}") from error

    def _read(self, obs: Any, count: int | None = None) -> dict[str, Tensor]:
        """Observations of all rows, or of ``count`` rows, as on the wire."""
        lead, out = (self.batch_size[0] if count is None else count,), {}
        single = {name: space for name, space, _ in flatten(self.env.single_observation_space, None, self.strict.root)}
        self.strict.steps = self.steps
        for name, _, value in flatten(self.env.observation_space, obs, self.strict.root):
            if name in self.strict.readers and not hidden(name, self.hide):
                spec = self.observation_spec[name]
                read = torch.from_numpy(
                    np.ascontiguousarray(self.strict.read(name, single[name], np.asarray(value), lead))
                )
                out[name] = read.to(spec.dtype).reshape(*lead, *spec.shape[1:])
                if spec.dtype == torch.float32:
                    out[name] = finite(name, out[name], self.steps, None)
        return out

    def _out(self, obs: dict[str, Tensor], terminated: np.ndarray, truncated: np.ndarray) -> TensorDict:
        flags = zip(ENDS, (terminated, truncated, terminated | truncated), strict=True)
        return TensorDict(
            {**obs, **{name: torch.from_numpy(flag.reshape(-1, 1).copy()) for name, flag in flags}}, self.batch_size
        )

    def get_states(self) -> list[dict[str, Any] | None]:
        """The state of all rows with the first one, where the environment offers ``get_state()``; else none."""
        get_state: Any = getattr(self.env, "get_state", None)
        if not callable(get_state):
            return [None] * self.batch_size[0]
        state = {"all": packed(get_state()), "now": dict(self.now), "steps": self.steps}
        return [state, *({"with": 0} for _ in range(self.batch_size[0] - 1))]

    def set_states(self, states: list[dict[str, Any] | None]) -> list[int]:
        """Go on from what ``get_states`` gave; the rows that cannot: all or none."""
        try:
            first = states[0] or {}
            self.env.set_state(unpacked(first["all"]))  # type: ignore[attr-defined]
        except Exception:
            return list(range(self.batch_size[0]))
        self.now, self.steps = first["now"], first["steps"]
        return []

    def _set_seed(self, seed: int | None) -> None:
        """Seeded at its first reset."""

    def close(self, *, raise_if_closed: bool = True) -> None:
        for env in (self.env, self.seats[0].inner):
            with suppress(Exception):
                env.close()
        self.is_closed = True


def writer(space: gymnasium.Space, layout: Layout) -> Callable[[Tensor], Any]:
    """Flat wire actions [n, a] as a ``VectorEnv`` takes them."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return lambda flat: flat.argmax(-1).numpy().astype(space.dtype) + space.start
    if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = reach(space.low, space.high)
        middle, half = (high + low) / 2, (high - low) / 2
        return lambda flat: np.clip(
            middle + half * flat.clamp(-1, 1).numpy().reshape(-1, *space.shape), low, high
        ).astype(space.dtype)
    speak = speaker(space)

    def spoken(flat: Tensor) -> Any:
        numbers = {name: value.numpy() for name, value in layout.numbers(flat).items()}
        rows = [speak({name: value[i] for name, value in numbers.items()}) for i in range(len(flat))]
        return gathered(space, rows)

    return spoken


def gathered(space: gymnasium.Space, rows: list[Any]) -> Any:
    """Several observations or actions of one space as one batch."""
    empty: Any = create_empty_array(space, len(rows))
    return concatenate(space, rows, empty)


def row_of(obs: Any, row: int) -> Any:
    """One row of batched observations, nested or not."""
    if isinstance(obs, Mapping):
        return {key: row_of(value, row) for key, value in obs.items()}
    return tuple(row_of(value, row) for value in obs) if isinstance(obs, tuple) else obs[row]


def spread(rows: Tensor, like: Tensor) -> Tensor:
    """A mask of rows [n] in as many dimensions as ``like`` has."""
    return rows.reshape(-1, *[1] * (like.ndim - 1))

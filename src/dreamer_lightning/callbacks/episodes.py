"""Training returns: one row for every finished episode, from the rewards as they come over the wire."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreamer_lightning.callbacks.base import Callback, LoopView, is_episode
from dreamer_lightning.types import EXPLORED, LOG_PREFIX


class Episodes(Callback):
    """Logs ``episode/score`` (undiscounted sum of rewards), ``episode/length`` (env steps: decisions times action
    repeat) and ``episode/<name>`` for every observation ``log/<name>`` (its value at the episode's last step).

    ``episode/late_reward`` is 1 if a reward other than zero came after the episode's first ``late`` env steps, else 0.
    Where a reward seen sooner is luck of the start, it tells whether good states were reached at all from whether the
    agent learned from them. ``episode/explored`` is the share of decisions in which an exploration played something
    else than the policy's action; it is there if the run has an exploration.

    Sums of unfinished episodes are carried from one wire batch to the next and over a resume. With several ranks rows
    wait for the next row of the loop's own cadence, where they are gathered.
    """

    def __init__(self, late: int = 150):
        self.late = late  # three seconds of DeepMind Control's pendulum
        self.sums: dict[str, Tensor] = {}  # of episodes that go on, [num_envs]
        self.waiting: list[dict[str, float]] = []

    def on_collect_end(self, loop: LoopView, wire: TensorDictBase) -> None:
        next_ = wire["next"]
        reward = next_["reward"].squeeze(-1).double().cpu()  # [b t]
        done = next_["done"].squeeze(-1).cpu()  # [b t]
        begins = wire["is_init"].squeeze(-1).cpu()  # [b t]
        explored = wire.get(EXPLORED, None)
        other = torch.zeros_like(done) if explored is None else explored.squeeze(-1).cpu()
        num_envs, steps = reward.shape
        sums = self.sums
        if not sums or len(sums["score"]) != num_envs:
            sums = empty_sums(num_envs)
        repeat = loop.env_factory.repeat
        stride = num_envs * repeat * loop.fabric.world_size
        logged = _log_values(next_)
        clocks = loop.clocks  # they stand at the end of this wire batch
        for t in range(steps):
            old = ~begins[:, t]  # an episode that begins here owes nothing to one that was cut off, as by a resume
            sums = {name: torch.where(old, value, 0) for name, value in sums.items()}
            sums["length"] = sums["length"] + 1
            late = sums["length"] * repeat > self.late
            sums["score"] = sums["score"] + reward[:, t]
            sums["late_reward"] = sums["late_reward"] + (late & (reward[:, t] != 0))
            sums["explored"] = sums["explored"] + other[:, t]
            for env in done[:, t].nonzero()[:, 0].tolist():
                row = {
                    "env_step": int(clocks.env_step - (steps - 1 - t) * stride),
                    "agent_step": int(clocks.agent_step - (steps - 1 - t) * stride // repeat),
                    "update": int(clocks.update),
                    "seconds": float(clocks.seconds),
                    "episode/score": float(sums["score"][env]),
                    "episode/length": int(sums["length"][env]) * repeat,
                    "episode/late_reward": int(sums["late_reward"][env] > 0),
                }
                if explored is not None:
                    row["episode/explored"] = float(sums["explored"][env] / sums["length"][env])
                for name, value in logged.items():
                    row |= _spread(f"episode/{name}", value[env, t])
                self.waiting.append(row)
        self.sums = sums
        if loop.fabric.world_size == 1:
            self._emit(loop, self.waiting)

    def on_log(self, loop: LoopView, row: dict[str, Any]) -> None:
        if loop.fabric.world_size > 1 and not is_episode(row):
            self._gather(loop)

    def on_train_end(self, loop: LoopView) -> None:
        if loop.fabric.world_size > 1:
            self._gather(loop)

    def _gather(self, loop: LoopView) -> None:
        parts: list[Any] = [None] * loop.fabric.world_size
        torch.distributed.all_gather_object(parts, self.waiting)
        self._emit(loop, sorted((row for part in parts for row in part), key=lambda row: row["env_step"]))

    def _emit(self, loop: LoopView, rows: list[dict[str, float]]) -> None:
        self.waiting = []
        for row in rows:
            loop.fabric.call("on_log", loop=loop, row=row)

    def state_dict(self) -> dict[str, Any]:
        return {**self.sums, "waiting": self.waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        known = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        self.sums = {**empty_sums(len(known["score"])), **known} if known else {}
        self.waiting = list(state["waiting"])


def empty_sums(num_envs: int) -> dict[str, Tensor]:
    """Return, decisions, late rewards and explored decisions of episodes that have not begun, each [num_envs]."""
    names = ("length", "late_reward", "explored")
    zeros = {name: torch.zeros(num_envs, dtype=torch.int64) for name in names}
    return {"score": torch.zeros(num_envs, dtype=torch.float64), **zeros}


def _log_values(next_: TensorDictBase) -> dict[str, Tensor]:
    """``log/<name>`` observations by name, [b, t, ...]; nested under ``log`` or flat with the prefix."""
    found = {}
    for key in next_.keys():  # noqa: SIM118  (a TensorDict iterates over its batch)
        if isinstance(key, str) and key.startswith(LOG_PREFIX):
            found[key.removeprefix(LOG_PREFIX)] = next_[key].cpu()
    return found


def _spread(name: str, value: Tensor) -> dict[str, float]:
    """One number under its name; several as ``name_0``, ``name_1``."""
    flat = value.reshape(-1).tolist()
    return {name: float(flat[0])} if len(flat) == 1 else {f"{name}_{i}": float(v) for i, v in enumerate(flat)}

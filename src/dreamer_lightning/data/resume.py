"""What one process carries from step to step besides networks and replay, as plain values for its checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.data.collect import carried_state, set_carried_state
from dreamer_lightning.envs.guarded import env_states, set_env_states
from dreamer_lightning.envs.snapshot import packed, unpacked


def random_states(**own: torch.Generator) -> dict[str, Any]:
    """The global random states of Python, numpy and torch, and those of generators by name."""
    states = {
        **{name: generator.get_state() for name, generator in own.items()},
        "device": next(iter(own.values())).device.type if own else "cpu",
        "python": random.getstate(),
        "numpy": packed(np.random.get_state(legacy=False)),  # noqa: NPY002 (other people's draws)
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any], **own: torch.Generator) -> None:
    """Take back what ``random_states`` gave; generators of another kind of device than then stay as they are."""
    for name, generator in own.items():
        if generator.device.type == states.get("device", generator.device.type):
            generator.set_state(states[name])
    random.setstate(states["python"])
    np.random.set_state(unpacked(states["numpy"]))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def options_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Learning rate and such of each group of parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def keep_options(optimizer: torch.optim.Optimizer, now: list[dict], then: list[dict]) -> None:
    """Options that a resumed run was given anew win over the saved ones, which torch loads with the state.

    Args:
        optimizer: its state has just been loaded.
        now: its ``options_of`` as this run was built.
        then: those as the saved run was built.
    """
    for group, new, old in zip(optimizer.param_groups, now, then, strict=True):
        group.update({name: value for name, value in new.items() if name not in old or old[name] != value})


def playing_state(collector: Any, carry: dict[str, Tensor] | None, exact: bool = True) -> dict[str, Any]:
    """What goes on in the environments: their states, what the policy carries, rewards that wait for their record.

    Args:
        collector: this process's, between two batches.
        carry: of ``to_records``.
        exact: False after a batch that broke off: environments and what is carried no longer fit together.
    """
    if hasattr(collector, "settle"):  # it is a batch ahead, which the checkpoint will not have
        collector.settle()
        exact = False
    if not exact:  # what broke off has nothing that could be asked
        return {"carry": None, "carried": {}, "envs": []}
    return {
        "carry": None if carry is None else {name: value.clone() for name, value in carry.items()},
        "carried": carried_state(collector),
        "envs": env_states(collector.env),
    }


def set_playing_state(collector: Any, state: dict[str, Any]) -> tuple[dict[str, Tensor] | None, list[int]]:
    """Go on from what ``playing_state`` gave.

    Returns:
        The carry, and the environments that could not go on: they begin new episodes.
    """
    count = collector.env.batch_size[0]
    if len(state["envs"]) != count:
        return None, list(range(count))
    anew = set_env_states(collector.env, state["envs"])
    try:
        set_carried_state(collector, state["carried"], [i for i in range(count) if i not in anew])
    except ValueError:  # another policy; nothing has been changed
        return None, list(range(count))
    return state["carry"], anew

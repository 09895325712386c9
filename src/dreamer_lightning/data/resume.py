"""What one process carries from step to step besides networks and replay, as plain values for its checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.data.collect import carried_state, set_carried_state
from dreamer_lightning.data.overlap import Overlap
from dreamer_lightning.envs.guarded import env_states, set_env_states
from dreamer_lightning.envs.snapshot import packed, unpacked


def random_states(**own: torch.Generator) -> dict[str, Any]:
    """The global random states of Python, numpy and torch, and those of generators by name."""
    states = {
        **{name: generator.get_state() for name, generator in own.items()},
        "python": random.getstate(),
        "numpy": packed(np.random.get_state(legacy=False)),  # noqa: NPY002 (other people's draws)
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any], **own: torch.Generator) -> None:
    """Take back what ``random_states`` gave."""
    for name, generator in own.items():
        generator.set_state(states[name])
    random.setstate(states["python"])
    np.random.set_state(unpacked(states["numpy"]))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def playing_state(collector: Any, carry: dict[str, Tensor] | None, exact: bool = True) -> dict[str, Any]:
    """What goes on in the environments: their states, what the policy carries, rewards that wait for their record.

    Args:
        collector: this process's, between two batches.
        carry: of ``to_records``.
        exact: False after a batch that broke off: environments and what is carried no longer fit together.
    """
    if isinstance(collector, Overlap):  # the batch in flight is in no replay yet
        collector.settle()
        exact = False
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

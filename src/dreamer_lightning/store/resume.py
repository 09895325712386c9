"""Random states and the options of an optimizer, as plain values for a checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from dreamer_lightning.store.environment import packed, unpacked


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

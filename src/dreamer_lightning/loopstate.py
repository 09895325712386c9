"""What checkpoints keep of the loop beside the replay: plain tensors and numbers."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dreamer_lightning.data.collect import playing_state, set_playing_state
from dreamer_lightning.migration import loop_state as of_today
from dreamer_lightning.migration import weights
from dreamer_lightning.schedule import Clocks
from dreamer_lightning.store.environment import packed, unpacked

CADENCES = ("ratio", "log_every", "evaluate_every")


def loop_state(loop: Any) -> dict[str, Any]:
    """Weights, optimizer, clocks and cadences: what all ranks have in common."""
    return {
        "dreamer": loop.dreamer.state_dict(),
        "optimizer": loop.update.optimizer.state_dict(),
        "options": loop.options,
        "clocks": asdict(loop.clocks),
        "timers": dict(loop.timers),
        **{name: getattr(loop, name).state_dict() for name in CADENCES},
    }


def set_loop_state(loop: Any, state: dict[str, Any]) -> None:
    """Take back what ``loop_state`` gave."""
    state, optimizer = of_today(state), loop.update.optimizer
    loop.dreamer.load_state_dict(weights(state["dreamer"], loop.dreamer.state_dict()))
    optimizer.load_state_dict(state["optimizer"])
    keep_options(optimizer, loop.options, state.get("options", loop.options))
    loop.clocks = Clocks(**state["clocks"])
    loop.timers.update(state["timers"])
    for name in CADENCES:
        getattr(loop, name).load_state_dict(state[name])


def rank_state(loop: Any) -> dict[str, Any]:
    """What each rank keeps for itself: random states, its environments, what the policy carries, the open row."""
    return {
        "random": random_states(**generators(loop)),
        "playing": playing_state(loop.collector, loop.carry, exact=not loop.failure),
        "pending": {name: float(value) for name, value in loop.pending.items()},
    }


def set_rank_state(loop: Any, state: dict[str, Any]) -> list[int]:
    """Take back what ``rank_state`` gave; returns the environments that begin new episodes instead."""
    if "playing" not in state:  # of an older version
        return list(range(loop.replay.num_streams))
    set_random_states(state["random"], **generators(loop))
    loop.carry, anew = set_playing_state(loop.collector, state["playing"])
    loop.replay.cut(anew)
    loop.pending = dict(state["pending"])
    if "logged" in state:  # of an older version
        loop.log_every.done(state["logged"])
    return anew


def generators(loop: Any) -> dict[str, torch.Generator]:
    """The loop's own generators, by name."""
    return {"training": loop.update.generator, "acting": loop.collector.policy.generator}


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

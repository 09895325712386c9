"""What checkpoints keep of the loop beside the replay: plain tensors and numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from dreamer_lightning.data.collect import playing_state, set_playing_state
from dreamer_lightning.migration import loop_state as of_today
from dreamer_lightning.migration import weights
from dreamer_lightning.schedule import Clocks
from dreamer_lightning.store import resume

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
    resume.keep_options(optimizer, loop.options, state.get("options", loop.options))
    loop.clocks = Clocks(**state["clocks"])
    loop.timers.update(state["timers"])
    for name in CADENCES:
        getattr(loop, name).load_state_dict(state[name])


def rank_state(loop: Any) -> dict[str, Any]:
    """What each rank keeps for itself: random states, its environments, what the policy carries, the open row."""
    return {
        "random": resume.random_states(**generators(loop)),
        "playing": playing_state(loop.collector, loop.carry, exact=not loop.failure),
        "pending": {name: float(value) for name, value in loop.pending.items()},
    }


def set_rank_state(loop: Any, state: dict[str, Any]) -> list[int]:
    """Take back what ``rank_state`` gave; returns the environments that begin new episodes instead."""
    if "playing" not in state:  # of an older version
        return list(range(loop.replay.num_streams))
    resume.set_random_states(state["random"], **generators(loop))
    loop.carry, anew = set_playing_state(loop.collector, state["playing"])
    loop.replay.cut(anew)
    loop.pending = dict(state["pending"])
    if "logged" in state:  # of an older version
        loop.log_every.done(state["logged"])
    return anew


def generators(loop: Any) -> dict[str, torch.Generator]:
    """The loop's own generators, by name."""
    return {"training": loop.update.generator, "acting": loop.collector.policy.generator}

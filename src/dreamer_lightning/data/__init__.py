"""From the environment to batches of records: the time door, the replay buffer, the collector."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer_lightning.data.collect import (
        CollectorPolicy,
        carried_state,
        make_collector,
        primers,
        set_carried_state,
    )
    from dreamer_lightning.data.episodes import EpisodeReplay
    from dreamer_lightning.data.explore import Decision, Disturbed, Exploration, HeldCorners
    from dreamer_lightning.data.records import Carry, initial_carry, to_records
    from dreamer_lightning.data.replay import Replay

__all__ = [
    "Carry",
    "CollectorPolicy",
    "Decision",
    "Disturbed",
    "Exploration",
    "HeldCorners",
    "EpisodeReplay",
    "Replay",
    "carried_state",
    "initial_carry",
    "make_collector",
    "primers",
    "set_carried_state",
    "to_records",
]

_HOMES = {
    "Carry": "records",
    "CollectorPolicy": "collect",
    "Decision": "explore",
    "Disturbed": "explore",
    "EpisodeReplay": "episodes",
    "Exploration": "explore",
    "HeldCorners": "explore",
    "Replay": "replay",
    "carried_state": "collect",
    "initial_carry": "records",
    "make_collector": "collect",
    "primers": "collect",
    "set_carried_state": "collect",
    "to_records": "records",
}  # loaded when used: an agent that acts needs neither simulators nor TorchRL


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

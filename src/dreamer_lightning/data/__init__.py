"""From the environment to batches of records: the time door, the replay buffer, the collector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamer_lightning import lazy

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


__getattr__, __dir__ = lazy.names(__name__, _HOMES)

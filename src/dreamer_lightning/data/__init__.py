"""From the environment to batches of records: the time door, the replay buffer, the collector."""

from dreamer_lightning.data.collect import CollectorPolicy, carried_state, make_collector, primers, set_carried_state
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

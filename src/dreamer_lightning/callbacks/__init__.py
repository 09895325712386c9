"""What happens at the loop's borders: files, loggers, screens, signals. Your own join by ``fabric.callbacks``.

The names below are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer_lightning.callbacks.base import Callback
    from dreamer_lightning.callbacks.checkpoint import Checkpoint, restore
    from dreamer_lightning.callbacks.curve import Curve, learning_curve
    from dreamer_lightning.callbacks.episodes import Episodes
    from dreamer_lightning.callbacks.forecast import Forecast
    from dreamer_lightning.callbacks.health import Health
    from dreamer_lightning.callbacks.memory import Memory
    from dreamer_lightning.callbacks.metrics import Metrics
    from dreamer_lightning.callbacks.mirror import Mirror
    from dreamer_lightning.callbacks.peers import Peers
    from dreamer_lightning.callbacks.progress import Progress
    from dreamer_lightning.callbacks.signals import Signals
    from dreamer_lightning.callbacks.throughput import Throughput
    from dreamer_lightning.callbacks.tracking import Tracking
    from dreamer_lightning.callbacks.video import Video

__all__ = [
    "Callback",
    "Checkpoint",
    "Curve",
    "Episodes",
    "Forecast",
    "Health",
    "Memory",
    "Metrics",
    "Mirror",
    "Peers",
    "Progress",
    "Signals",
    "Throughput",
    "Tracking",
    "Video",
    "learning_curve",
    "restore",
]

_HOMES = {"Callback": "base", "learning_curve": "curve", "restore": "checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dreamer_lightning.callbacks' has no attribute '{name}'")
    return getattr(import_module(f"dreamer_lightning.callbacks.{_HOMES.get(name, name.lower())}"), name)


def __dir__() -> list[str]:
    return list(__all__)

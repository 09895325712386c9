"""What happens at the loop's borders: files, loggers, screens, signals. Your own join by ``fabric.callbacks``."""

from dreamer_lightning.callbacks.base import Callback
from dreamer_lightning.callbacks.checkpoint import Checkpoint, restore
from dreamer_lightning.callbacks.curve import Curve, learning_curve
from dreamer_lightning.callbacks.episodes import Episodes
from dreamer_lightning.callbacks.forecast import Forecast
from dreamer_lightning.callbacks.metrics import Metrics
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
    "Metrics",
    "Progress",
    "Signals",
    "Throughput",
    "Tracking",
    "Video",
    "learning_curve",
    "restore",
]

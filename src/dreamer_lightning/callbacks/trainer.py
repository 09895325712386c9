"""Callbacks that were written for Lightning's Trainer, called where this loop has the same moment."""

from __future__ import annotations

from functools import partial
from typing import Any

from dreamer_lightning.callbacks.base import Callback
from dreamer_lightning.types import UserError

MOMENTS = (
    "on_fit_start",
    "on_train_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_exception",
    "on_train_end",
    "on_fit_end",
)


class TrainerView:
    """What a callback of Trainer's finds in the place of its trainer."""

    def __init__(self, loop: Any):
        self._loop, self.fabric, self.loggers = loop, loop.fabric, loop.fabric.loggers
        self.is_global_zero, self.world_size = loop.fabric.is_global_zero, loop.fabric.world_size
        self.default_root_dir, self.optimizers = str(loop.run_dir), [loop.update.optimizer]
        self.callback_metrics: dict[str, Any] = {}

    @property
    def global_step(self) -> int:
        return self._loop.clocks.update

    @property
    def should_stop(self) -> bool:
        return self._loop.stop_reason is not None

    @should_stop.setter
    def should_stop(self, stop: bool) -> None:
        if stop:
            self._loop.stop("a callback asked for it")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UserError(f"--fabric.callbacks: one uses trainer.{name}, which is not here (docs/from-trainer.md)")


class TrainerCallback(Callback):
    """Calls a callback of Trainer's: its trainer is a view of the loop, its module the agent.

    Args:
        inner: the callback.
    """

    def __init__(self, inner: Any):
        self.inner = inner
        self.trainer: TrainerView | None = None
        for hook in MOMENTS:
            setattr(self, hook, partial(self._call, hook))

    def _call(self, hook: str, loop: Any, metrics: Any = None, error: Any = None) -> None:
        self.trainer = self.trainer or TrainerView(loop)
        if hook == "on_validation_end":
            self.trainer.callback_metrics.update(metrics)
        batch_end = (metrics, None, loop.clocks.update - 1)  # outputs, no batch, and its number
        values = {"on_train_batch_end": batch_end, "on_exception": (error,)}.get(hook, ())
        getattr(self.inner, hook)(self.trainer, loop.dreamer, *values)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


def adapted(callback: Any) -> Any:
    """The callback, in an adapter if it derives from Trainer's.

    Raises:
        UserError: it overrides a hook that has no moment here.
    """
    trainers = [
        kind
        for kind in type(callback).__mro__
        if kind.__name__ == "Callback" and kind.__module__.startswith(("lightning.", "pytorch_lightning."))
    ]
    if not trainers:
        return callback
    hooks = [name for name in vars(trainers[0]) if name.startswith("on_") or name in ("setup", "teardown")]
    own = [name for name in hooks if getattr(type(callback), name) is not getattr(trainers[0], name)]
    lost = [name for name in own if name not in MOMENTS]
    if lost:
        raise UserError(
            f"--fabric.callbacks: {type(callback).__name__} has {lost[0]}, which has no moment here; "
            "docs/from-trainer.md lists the hooks"
        )
    return TrainerCallback(callback)

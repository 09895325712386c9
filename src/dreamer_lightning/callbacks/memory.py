"""What evaluations and pictures took of memory goes back to the system."""

from __future__ import annotations

from dreamer_lightning.callbacks.base import Callback
from dreamer_lightning.kernels.process import trim_memory


class Memory(Callback):
    """Returns free pages after each evaluation: it leaves holes between what stays, which updates fill only in part,
    so that the process would grow by a few percent at some of the evaluations, for as long as it runs."""

    def on_validation_end(self) -> None:
        trim_memory()

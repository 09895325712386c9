"""Numbers that went bad: found before they reach weights or replay, and told with where they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dreamer_lightning.dreamer import Dreamer, TrainOutput, by_module
from dreamer_lightning.types import BadNumbers

LIMIT = 20  # skipped updates in a row after which nothing good is to be hoped for


@dataclass
class Sanity:
    """Judges every update by its loss and the norm of its gradient, which are computed anyway.

    Args:
        skip: leave bad updates out; otherwise the first one ends the run.
    """

    skip: bool = False
    loss: float = 0.0  # of the last update that was judged
    skipped: int = 0
    in_a_row: int = 0
    problem: BadNumbers | None = None
    events: list[str] = field(default_factory=list)  # stories of skipped updates, until somebody tells them

    def fine(self, loss: Tensor, norm: Tensor, scaled: bool = False) -> tuple[bool, bool]:
        """Whether the update may be applied, and whether all is well; one transfer from the device.

        Args:
            loss: of this rank, 0-d.
            norm: of the gradient; after DDP has averaged the gradients it is the same on all ranks.
            scaled: gradients carry the scale of float16, whose scaler minds their overflows itself.
        """
        self.loss, size = torch.stack([loss.detach().float(), norm.float()]).tolist()
        apply = scaled or math.isfinite(size)
        return apply, apply and math.isfinite(self.loss)

    def note(self, story: str, applied: bool = False) -> None:
        """Remember a bad update: as skipped, or as the end of the run."""
        if not self.skip:
            self.problem = BadNumbers(f"{story}; --faults.update skip leaves such updates out")
            return
        if not applied:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        self.events.append(story)
        if self.in_a_row >= LIMIT:
            self.problem = BadNumbers(f"{story}; that was the {LIMIT}th skipped update in a row")


def story(dreamer: Dreamer, output: TrainOutput, batch: Any, index: Tensor, num_streams: int) -> str:
    """Where an update's bad numbers are: losses, gradients, and the replayed records that hold some.

    Args:
        dreamer: with the gradients of this update.
        output: of its forward.
        batch: records [b, 1+t] that it was computed from.
        index: their numbers in the replay [b, 1+t].
        num_streams: environments of the replay.
    """
    parts = [f"loss/{name}" for name, value in output.losses.items() if not bool(value.isfinite().all())]
    for name, parameters in by_module(dreamer).items():
        grads = [p.grad for p in parameters() if p.grad is not None]
        if not all(bool(grad.isfinite().all()) for grad in grads):
            parts.append(f"the gradient of {name}")
    text = f"NaN or infinite: {', '.join(parts) or 'the gradient norm'}"
    for key, value in batch.items(True, True):
        bad = ~value.isfinite().reshape(*index.shape, -1).all(-1) if value.is_floating_point() else None
        if bad is not None and bool(bad.any()):
            number, stream = divmod(int(index[bad.cpu()][0]), num_streams)
            name = key if isinstance(key, str) else "/".join(key)
            text += f"; in the replay {name} of environment {stream} at its record {number}"
    return text

"""Numbers that went bad: found before they reach a checkpoint or the replay, and told with where they came from."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dreamer_lightning.dreamer import Dreamer, by_module
from dreamer_lightning.types import BadNumbers, Metrics

LIMIT = 20  # skipped updates in a row after which nothing good is to be hoped for


@dataclass
class Sanity:
    """What was found about the updates of this process.

    Args:
        losses: of the updates judged lately, until somebody has read them.
        skipped: updates that were left out.
        in_a_row: how many of them are the last ones.
        events: where the bad numbers of skipped updates were, until somebody has told it.
        problem: what the run must end with; the weights are not to be saved any more.
    """

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    skipped: int = 0
    in_a_row: int = 0
    events: list[str] = field(default_factory=list)
    problem: BadNumbers | None = None

    def fine(self, loss: float, norm: float = 0.0) -> bool:
        """Judge an update by its loss and the norm of its gradient: whether both are finite."""
        self.losses.append(loss)
        fine = math.isfinite(loss) and math.isfinite(norm)
        if fine:
            self.in_a_row = 0
        return fine

    def stop(self, story: str) -> None:
        """A bad update is in the weights: the run ends."""
        self.problem = self.problem or BadNumbers(f"{story}; --faults.update skip leaves such updates out")

    def skip(self, story: str) -> None:
        """A bad update was left out; too many of them in a row end the run."""
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        self.events.append(story)
        if self.in_a_row >= LIMIT:
            self.problem = BadNumbers(f"{story}; that was the {LIMIT}th skipped update in a row")


def story(
    dreamer: Dreamer,
    metrics: Metrics,
    norms: dict[nn.Parameter, float],
    batch: Any,
    index: Tensor,
    num_streams: int,
) -> str:
    """Where an update's bad numbers are: losses, gradients, and the replayed records that hold some.

    Args:
        dreamer: the agent.
        metrics: of this update.
        norms: of the gradient of each parameter that has one.
        batch: records [b, 1+t] that it was computed from.
        index: their numbers in the replay [b, 1+t].
        num_streams: environments of the replay.
    """
    losses = [name for name in metrics if name.startswith("loss/") and name != "loss/total"]
    parts = [name for name in losses if not math.isfinite(float(metrics[name]))]
    for name, parameters in by_module(dreamer).items():
        if not all(math.isfinite(norms.get(p, 0.0)) for p in parameters()):
            parts.append(f"the gradient of {name}")
    text = f"NaN or infinite: {', '.join(parts) or 'the gradient norm'}"
    for key, value in batch.items(True, True):
        bad = ~value.isfinite().reshape(*index.shape, -1).all(-1) if value.is_floating_point() else None
        if bad is not None and bool(bad.any()):
            number, stream = divmod(int(index[bad.cpu()][0]), num_streams)
            name = key if isinstance(key, str) else "/".join(key)
            text += f"; in the replay {name} of environment {stream} at its record {number}"
    return text

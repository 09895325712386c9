"""Whether dreams are as uncertain as they should be: how often reality lies inside the band of many futures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.evaluation.gap import ERROR_STEPS, Start, remaining, stack_actions, stack_states
from dreamer_lightning.evaluation.rollout import device_of

BAND = (0.05, 0.95)  # 90% of reality inside is right
STARTS = 16  # so many of the start points; each is dreamed many times


def inside(real: np.ndarray, dreamed: np.ndarray, band: tuple[float, float] = BAND) -> np.ndarray:
    """Whether each real number [n, d] lies in the band of its dreamed ones [n, samples, d]; its ends count."""
    low, high = np.quantile(dreamed, band, axis=1, method="weibull")  # holds 90% of new draws; "linear" 84.5% of 32
    slack = 1e-6 * (1.0 + np.abs(real))  # a certain dream that is right is inside
    return (real >= low - slack) & (real <= high + slack)


@torch.no_grad()
def coverage(
    dreamer, starts: list[Start], generator: torch.Generator | None = None, samples: int = 32
) -> dict[str, float]:
    """``openloop/coverage@k``: share of what is real that lies between the 5% and 95% quantiles of ``samples`` dreams.

    Counted are vector entries and rewards, ``k`` steps into dreams under the real actions. 0.9 is right; less says that
    the model is too certain, more that it is too vague.

    Args:
        dreamer: the agent.
        starts: start points of real episodes; 16 of them are used.
        generator: draws the dreams.
        samples: dreams from each.
    """
    starts = [starts[i] for i in np.unique(np.linspace(0, len(starts) - 1, STARTS).round().astype(int))]
    device, left = device_of(dreamer), remaining(starts)
    reach = min(max(ERROR_STEPS), int(left.max()))
    state = {key: value.repeat_interleave(samples, 0) for key, value in stack_states(starts, device).items()}
    actions = stack_actions(starts, reach, device).repeat_interleave(samples, 0)
    dream = dreamer.imagine(state, reach, actions=actions, generator=generator, decode=False)
    keys = [key for key, space in dreamer.specs.obs.items() if not space.image and not space.discrete]
    metrics = {}
    for k in (k for k in ERROR_STEPS if k <= reach):
        kept = [t + k < episode.kept for episode, t in starts]
        rows = np.flatnonzero((left >= k) & np.array(kept))
        if not len(rows):
            continue
        seen = dreamer.reconstruct(dream.latent.map(lambda x, k=k: x[:, k])) if keys else {}
        found = [inside(_real_reward(starts, rows, k), _spread(dream.reward[:, k], rows, samples))]
        for key in (key for key in keys if key in seen):
            real = np.stack([starts[i].episode.obs[key][starts[i].time + k] for i in rows])
            found.append(inside(real.reshape(len(rows), -1), _spread(seen[key], rows, samples)))
        metrics[f"openloop/coverage@{k}"] = float(np.concatenate([part.reshape(-1) for part in found]).mean())
    return metrics


def _real_reward(starts: list[Start], rows: np.ndarray, k: int) -> np.ndarray:
    return np.array([[starts[i].episode.reward[starts[i].time + k]] for i in rows])


def _spread(values: Tensor, rows: np.ndarray, samples: int) -> np.ndarray:
    """Values [n * samples, ...] of some starts as [rows, samples, d]."""
    split = values.float().reshape(-1, samples, int(values[0].numel()))
    return split[torch.from_numpy(rows).to(split.device)].cpu().numpy()

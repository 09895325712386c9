"""Dream against reality: what the model promises from an episode's own latents, beside what happened.

From start ``t`` of a real episode with rewards ``r``, and a dream of it with rewards ``r^`` and continues ``c^``::

    real_k(t)    = sum_{j=1..k} gamma^(j-1) r_{t+j}                       (nothing after a terminal state)
    dreamed_k(t) = sum_{j=1..k} ( prod_{1<=i<j} c^_i ) r^_j               (c^ contains gamma)
    gap@k        = mean over starts of dreamed_k - real_k

A policy that exploits its own model shows here first: the dream under the policy promises more than the world pays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.evaluation.rollout import Episode

logger = logging.getLogger("dreamer_lightning")

RETURN_STEPS = (15, 50)  # gap/return@k
ERROR_STEPS = (1, 5, 15, 50)  # openloop/*_error@k


class Start(NamedTuple):
    """One start point: a time of an episode."""

    episode: Episode
    time: int


def choose_starts(episodes: list[Episode], count: int) -> list[Start]:
    """About ``count`` start points, spread evenly over each episode's kept steps (the last observation excluded)."""
    share = max(1, count // max(1, len(episodes)))
    starts = []
    for episode in episodes:
        last = min(episode.kept, episode.length) - 1
        times = np.unique(np.linspace(0, last, min(share, last + 1)).round().astype(int))
        starts += [Start(episode, int(time)) for time in times]
    return starts


def stack_states(starts: list[Start], device: torch.device) -> dict[str, Tensor]:
    """Policy states [n, ...] of the start points."""
    states = [start.episode.state(start.time) for start in starts]
    return {key: torch.stack([state[key] for state in states]).to(device) for key in states[0]}


def stack_actions(starts: list[Start], length: int, device: torch.device) -> Tensor:
    """The actions really taken from each start, [n, length, a], zeros after the episode's end."""
    actions = np.zeros((len(starts), length, starts[0].episode.action.shape[1]), np.float32)
    for row, (episode, time) in zip(actions, starts, strict=True):
        taken = episode.action[time : time + length]
        row[: len(taken)] = taken
    return torch.from_numpy(actions).to(device)


def remaining(starts: list[Start]) -> np.ndarray:
    """Steps from each start to the episode's end, [n]."""
    return np.array([episode.length - time for episode, time in starts])


def ends_terminal(starts: list[Start]) -> np.ndarray:
    return np.array([start.episode.terminated for start in starts])


def real_returns(starts: list[Start], discount: float, steps: int | None = None) -> np.ndarray:
    """Discounted return of ``steps`` steps (None: to the episode's end) from each start, [n]."""
    totals = []
    for episode, time in starts:
        end = None if steps is None else time + 1 + steps
        rewards = episode.reward[time + 1 : end].astype(np.float64)
        totals.append(float((rewards * discount ** np.arange(len(rewards))).sum()))
    return np.array(totals)


def dreamed_returns(reward: np.ndarray, survive: np.ndarray, steps: int) -> np.ndarray:
    """Discounted return of ``steps`` imagined steps, [n].

    Args:
        reward: predicted rewards [n, h+1], element 0 belongs to the start and is not counted.
        survive: predicted continue times discount at each state [n, h+1].
        steps: how many, at most h.
    """
    weights = np.cumprod(np.concatenate([np.ones_like(survive[:, :1]), survive[:, 1:steps]], 1), 1)
    return (weights * reward[:, 1 : steps + 1]).sum(1)


@dataclass
class Dreams:
    """Imagined trajectories as numpy, reward, survive and value [n, h+1]; ``survive`` = continue times discount."""

    reward: np.ndarray
    survive: np.ndarray
    value: np.ndarray


def going_on(world_model, cont: Tensor) -> Tensor:
    """Probability that the episode goes on, from what the continue head says (which may contain the discount)."""
    discount = world_model.discount
    return (cont / discount.gamma).clamp(max=1) if discount.contdisc else cont


def to_dreams(world_model, imagined) -> Dreams:
    """What ``Dreamer.imagine`` gave, as numpy; ``survive`` contains the discount once, wherever it comes from."""
    discount = 1.0 if world_model.discount.contdisc else world_model.discount.gamma
    return Dreams(
        reward=imagined.reward.double().cpu().numpy(),
        survive=imagined.cont.double().cpu().numpy() * discount,
        value=imagined.value.double().cpu().numpy(),
    )


def return_gaps(starts: list[Start], dreams: Dreams, discount: float, steps: int, past_end: bool) -> np.ndarray:
    """[m, 2] dreamed and real returns over ``steps`` steps of the starts that have them.

    Args:
        past_end: also starts less than ``steps`` before a terminal state (the world pays nothing after it); for dreams
            under the real actions there is no action after it, so those are left out.
    """
    valid = remaining(starts) >= steps
    if past_end:
        valid |= ends_terminal(starts)
    if not valid.any() or steps > dreams.reward.shape[1] - 1:
        return np.zeros((0, 2))
    real = real_returns(starts, discount, steps)
    return np.stack([dreamed_returns(dreams.reward, dreams.survive, steps), real], 1)[valid]


def return_metrics(starts: list[Start], policy: Dreams, actions: Dreams, discount: float) -> dict[str, float]:
    """``gap/return@k`` (under the policy), ``gap/return_actions@k`` (under the real actions), and ``gap/return``.

    ``gap/return`` is the policy's gap over 50 steps, or over the longest stretch that the episodes have;
    ``gap/real_return`` is the mean size (absolute value) of the real return over the same steps.
    """
    metrics: dict[str, float] = {}
    for steps in RETURN_STEPS:
        for name, dreams, past_end in (("return", policy, True), ("return_actions", actions, False)):
            pairs = return_gaps(starts, dreams, discount, steps, past_end)
            if len(pairs):
                metrics[f"gap/{name}@{steps}"] = float((pairs[:, 0] - pairs[:, 1]).mean())
    reach = max(RETURN_STEPS) if ends_terminal(starts).any() else int(remaining(starts).max())
    steps = min(max(RETURN_STEPS), reach, policy.reward.shape[1] - 1)
    pairs = return_gaps(starts, policy, discount, steps, past_end=True)
    metrics["gap/return"] = float((pairs[:, 0] - pairs[:, 1]).mean())
    metrics["gap/real_return"] = float(np.abs(pairs[:, 1]).mean())
    return metrics


def real_values(starts: list[Start], final_value: np.ndarray, discount: float) -> np.ndarray:
    """Discounted return from each start [n] to the episode's end, and beyond it where a time limit cut the payments.

    Args:
        starts: start points.
        final_value: critic at the last observation of each start's episode [n]: a time limit does not end the worth of
            a state, so truncated episodes end with it; terminated ones with 0.
        discount: per step.
    """
    tail = np.where(ends_terminal(starts), 0.0, final_value) * discount ** remaining(starts)
    return real_returns(starts, discount) + tail


def value_metrics(starts: list[Start], value: np.ndarray, final_value: np.ndarray, discount: float) -> dict[str, float]:
    """``gap/value``: mean of critic minus real value; ``gap/value_corr``: their correlation, where both vary.

    ``gap/value_spread``: standard deviation of the real values beside their mean size. Where it is small, all states
    are about as good, and the correlation says nothing about the critic.

    Args:
        value: critic at the starts [n].
        final_value: as in ``real_values``.
    """
    real = real_values(starts, final_value, discount)
    spread = real.std() / max(1e-8, float(np.abs(real).mean()))
    metrics = {"gap/value": float((value - real).mean()), "gap/value_spread": float(spread)}
    if len(real) > 2 and min(np.ptp(value), np.ptp(real)) > 1e-6 * (1 + np.abs(real).max()):
        metrics["gap/value_corr"] = float(np.corrcoef(value, real)[0, 1])
    return metrics


class GapAlarm:
    """Warns once when the dream promises too much three evaluations running.

    Args:
        limit: largest acceptable ``gap/return``, in return; None: half the mean size of the real return (0.1 at least).
        patience: evaluations running.
    """

    def __init__(self, limit: float | None = None, patience: int = 3):
        self.limit, self.patience = limit, patience
        self.count, self.warned = 0, False

    def update(self, metrics: dict[str, float]) -> bool:
        """Counts one evaluation; True when this one raised the warning."""
        if "gap/return" not in metrics:
            return False
        gap, real = metrics["gap/return"], metrics["gap/real_return"]
        limit = max(0.5 * real, 0.1) if self.limit is None else self.limit
        self.count = self.count + 1 if gap > limit else 0
        if self.warned or self.count < self.patience:
            return False
        self.warned = True
        logger.warning(
            "gap/return: dreams promised %.3g more than the world paid (%.3g; gap_alarm allows %.3g), %d evaluations"
            " running: the policy may be exploiting its model. Options that help: a shorter imag_length, "
            "value_aware: latents, a higher train_ratio, a larger size.",
            gap, real, limit, self.count,
        )  # fmt: skip
        return True

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count, "warned": int(self.warned)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count, self.warned = int(state["count"]), bool(state["warned"])

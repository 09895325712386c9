"""Open loop: look at a few real steps, then dream on without looking, and compare with what really came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.evaluation.gap import ERROR_STEPS, Start, going_on, remaining
from dreamer_lightning.evaluation.rollout import Episode, device_of
from dreamer_lightning.types import Space, Specs

PREDICTIONS = ("reward", "cont", "value", "action")


@dataclass
class OpenLoop:
    """Several dreams of one stretch of an episode, beside the truth. Time runs over ``context + length`` steps.

    Args:
        start: the episode's step at which it begins.
        context: first steps, reconstructed from latents that saw their observation; the rest is imagined.
        seen: the observations by decoded key [T, ...], images float in [0, 1]; NaN where the episode had already ended.
        decoded: what the dreams see instead, by the same keys [samples, T, ...].
        truth: "reward" and "cont" [T], NaN likewise.
        dream: "reward", "cont" and "value" [samples, T].
    """

    start: int
    context: int
    seen: dict[str, np.ndarray]
    decoded: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    dream: dict[str, np.ndarray]


def error_metrics(
    specs: Specs,
    starts: list[Start],
    decoded: dict[int, dict[str, Tensor]],
    reward: np.ndarray,
    cont: np.ndarray,
) -> dict[str, float]:
    """``openloop/<key>_error@k``, ``openloop/reward_error@k``, ``openloop/cont_error@k`` for k = 1, 5, 15, 50.

    All are mean absolute errors, k steps into a dream under the real actions, of the starts whose episode goes on so
    long: vectors per dimension in environment units, images per pixel and channel in [0, 1], discrete observations the
    share of wrong classes, rewards in reward units, continues as probabilities.

    Args:
        specs: of the environment.
        starts: n start points.
        decoded: by k: decoded observations [n, ...] in environment units.
        reward: predicted rewards [n, h+1].
        cont: predicted probabilities to go on [n, h+1].
    """
    metrics: dict[str, float] = {}
    left = remaining(starts)
    for k in (k for k in ERROR_STEPS if k < reward.shape[1]):
        rows = np.flatnonzero(left >= k)
        if not len(rows):
            continue
        paid = np.array([starts[i].episode.reward[starts[i].time + k] for i in rows])
        over = np.array([starts[i].episode.terminated and left[i] == k for i in rows])
        metrics[f"openloop/reward_error@{k}"] = float(np.abs(reward[rows, k] - paid).mean())
        metrics[f"openloop/cont_error@{k}"] = float(np.abs(cont[rows, k] - (1.0 - over)).mean())
        rows = np.array([i for i in rows if starts[i].time + k < starts[i].episode.kept], dtype=int)
        for key, value in decoded.get(k, {}).items() if len(rows) else ():
            real = np.stack([starts[i].episode.obs[key][starts[i].time + k] for i in rows])
            predicted = value[rows].float().cpu().numpy()
            metrics[f"openloop/{apart(key)}_error@{k}"] = _error(specs.obs[key], predicted, real)
    return metrics


def apart(name: str) -> str:
    """How an observation is called beside predictions: ``obs/NAME`` where one of those has its name."""
    return f"obs/{name}" if name in PREDICTIONS else name


def _error(space: Space, predicted: np.ndarray, real: np.ndarray) -> float:
    if space.discrete:
        return float((predicted.reshape(real.shape) != real).mean())
    scale = 255.0 if space.image else 1.0
    known = np.isfinite(real)  # -inf says: missing
    difference = np.abs(predicted.reshape(real.shape) - np.where(known, real, 0.0) / scale)
    return float(difference[known].mean()) if known.any() else 0.0


@torch.no_grad()
def open_loop(
    dreamer,
    episode: Episode,
    start: int = 0,
    context: int = 5,
    length: int = 45,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> OpenLoop:
    """Dreams ``samples`` futures of one episode from its own latent, under its own actions (then the policy's).

    Args:
        dreamer: the agent.
        episode: with kept latents and observations.
        start: first step shown.
        context: real steps seen, at least 1; the last of them is where the dream starts.
        length: imagined steps; beyond the episode's end the policy acts and the truth is NaN.
        samples: futures.
        generator: draws the futures, on the dreamer's device.
    """
    device = device_of(dreamer)
    context = max(1, min(context, episode.kept - start))
    begin = start + context - 1
    states = [episode.state(time) for time in range(start, begin + 1)]
    seen = {key: torch.stack([state[key] for state in states]).to(device) for key in states[0]}
    past = dreamer.imagine(seen, 1, generator=generator)  # element 0 of each is what the model makes of a seen step
    state = {key: value[-1].expand(samples, *value.shape[1:]) for key, value in seen.items()}
    actions = torch.from_numpy(episode.action[begin : begin + length]).to(device)
    future = _imagine_on(dreamer, state, actions.expand(samples, *actions.shape), length, generator)
    decoded = {key: _join(past.obs[key], value) for key, value in future.obs.items()}
    dream = {name: _join(getattr(past, name), getattr(future, name)) for name in ("reward", "cont", "value")}
    dream["cont"] = going_on(dreamer.world_model, torch.from_numpy(dream["cont"])).numpy()
    real, truth = _truth(dreamer.specs, episode, start, context + length, list(future.obs))
    return OpenLoop(start, context, real, decoded, truth, dream)


def _imagine_on(dreamer, state: dict[str, Tensor], actions: Tensor, length: int, generator):
    """The dream under the actions [samples, <= length, a] and, when they end, the policy's."""
    known = actions.shape[1]
    if known == 0:
        return dreamer.imagine(state, length, generator=generator)
    first = dreamer.imagine(state, known, actions=actions, generator=generator)
    if known == length:
        return first
    second = dreamer.imagine(first.latent.map(lambda x: x[:, -1]), length - known, generator=generator)
    obs = {key: torch.cat([first.obs[key], second.obs[key][:, 1:]], 1) for key in first.obs}
    rest = {n: torch.cat([getattr(first, n), getattr(second, n)[:, 1:]], 1) for n in ("reward", "cont", "value")}
    return first._replace(obs=obs, **rest)


def _join(past: Tensor, future: Tensor) -> np.ndarray:
    """Seen [context, 2, ...] and imagined [samples, h+1, ...] (0 is the last seen) as one [samples, context+h, ...]."""
    past = past[:, 0].expand(len(future), len(past), *past.shape[2:])
    return torch.cat([past, future[:, 1:]], 1).float().cpu().numpy()


def _truth(
    specs: Specs, episode: Episode, start: int, steps: int, keys: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What was really seen, and what was really paid."""

    def pad(values: np.ndarray) -> np.ndarray:
        values = values[start : start + steps].astype(np.float32)
        return np.concatenate([values, np.full((steps - len(values), *values.shape[1:]), np.nan, np.float32)])

    cont = np.ones(episode.length + 1)
    cont[-1] = 1.0 - episode.terminated
    seen = {key: pad(episode.obs[key]) / (255.0 if specs.obs[key].image else 1.0) for key in keys}
    return seen, {"reward": pad(episode.reward), "cont": pad(cont)}

"""Records what the actor-critic's losses work on, and computes the scalars that the reference logs of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import interop
from dreamer_lightning.actor_critic import ActorCritic, Dream
from dreamer_lightning.types import Losses
from dreamer_lightning.workshop.parity.heads import entropy_bounds
from dreamer_lightning.workshop.parity.record import NotRunnable, Vectors

CANCELLED = 0.1  # of the size of what a mean is taken of: where these cancel, the mean keeps their rounding


@dataclass
class Seen:
    """Arguments and results of the actor-critic's two losses."""

    dream: Dream | None = None
    losses: Losses = field(default_factory=dict)  # [n, h]
    ret: Tensor | None = None
    boot: Tensor | None = None
    replay_loss: Tensor | None = None
    replay_ret: Tensor | None = None
    value_stats: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # before, after the dream, after replay


@contextmanager
def watching(agent: ActorCritic) -> Iterator[Seen]:
    """Record what the losses of ``agent`` work on, while code inside the context computes them."""
    seen = Seen(value_stats=[agent.value_norm.stats()])
    dream_losses, replay_loss = agent.dream_losses, agent.replay_loss

    def on_dream(dream: Dream, *args: Any, **kwargs: Any) -> Any:
        seen.dream, result = dream, dream_losses(dream, *args, **kwargs)
        seen.losses, _, seen.ret = result
        return result

    def on_replay(feat: Tensor, records: dict[str, Tensor], boot: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.boot, result = boot, replay_loss(feat, records, boot, *args, **kwargs)
        seen.replay_loss, seen.replay_ret = result
        return result

    hook = agent.value_norm.register_forward_hook(lambda module, inputs, stats: seen.value_stats.append(stats))
    agent.dream_losses, agent.replay_loss = on_dream, on_replay
    try:
        yield seen
    finally:
        hook.remove()
        del agent.dream_losses, agent.replay_loss


@torch.no_grad()
def dream_metrics(agent: ActorCritic, seen: Seen) -> dict[str, tuple[Tensor, Tensor]]:
    """The reference's scalars of a dream, each with the mean magnitude of what it is a mean of.

    Args:
        agent: the actor-critic; its normalisers are as the losses left them.
        seen: what the losses worked on.
    """
    dream, ret = seen.dream, seen.ret
    policy = agent.policy(dream.feat[:, :-1])
    (before, before_scale), (after, after_scale) = seen.value_stats[:2]
    value = agent.value(dream.feat).pred() * before_scale + before
    slow = agent.slow_critic(dream.feat).pred() * before_scale + before
    offset, scale = agent.return_norm.stats()
    normed = (ret - offset) / scale
    adv = (ret - (slow if agent.slowtar else value)[:, :-1]) / scale
    weight = torch.cumprod(agent.dream_discount * dream.cont, -1) / agent.dream_discount
    means = {
        "adv": adv,
        "adv_mag": adv.abs(),
        "rew": dream.reward,
        "con": dream.cont,
        "ret": normed,
        "ret_rate": (normed.abs() >= 1).to(normed.dtype),
        "val": value,
        "slowval": slow,
        "tar": (ret - after) / after_scale,
        "weight": weight,
    }
    metrics = {name: (x.mean(), x.abs().mean()) for name, x in means.items()}
    for name, x in {"adv_std": adv.std(correction=0), "ret_min": normed.min(), "ret_max": normed.max()}.items():
        metrics[name] = x, x.abs()
    for name, dist in policy.by_key.items():
        entropy = dist.entropy()
        metrics[f"ent/{name}"] = entropy.mean(), entropy.abs().mean()
        if not policy.spaces[name].shape:  # the reference logs it of a single choice or number alone
            low, high = entropy_bounds(agent.policy, policy.spaces[name])
            metrics[f"rand/{name}"] = (entropy.mean() - low) / (high - low), torch.ones(())
    return metrics


def compare_metrics(v: Vectors, key: str, found: dict[str, tuple[Tensor, Tensor]], limit: float) -> None:
    """Scalars recorded below ``key``, in units of their own size and a share of that of what they are means of."""
    for name in v.names(key):
        if name not in found:
            raise NotRunnable(f"{key}/{name} is a metric that no check knows")
        value, scale = found[name]
        want = v[f"{key}/{name}"]  # of a single number's bounds the reference keeps one copy for each state
        v.close(f"{key}/{name}", value.expand(want.shape), limit, np.abs(want) + CANCELLED * float(scale))


def compare_state(v: Vectors, key: str, agent: ActorCritic, limit: float) -> None:
    """The normalisers' running variables against those recorded; means in units of the root mean square."""
    state = interop.agent_normalizers(agent)
    for name in v.names(key):
        norm, variable = name.split("/", 1)
        want = {other: abs(v.number(f"{key}/{norm}/{other}")) for other in v.names(f"{key}/{norm}")}
        scale = want[variable]
        if variable in ("lo/value", "hi/value"):
            scale = max(want["lo/value"], want["hi/value"])
        elif variable == "mean/value":
            scale = want["sqrs/value"] ** 0.5
        v.close(f"{key}/{name}", state[name], limit, want[variable] + CANCELLED * scale)

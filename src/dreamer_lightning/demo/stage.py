"""What the model thinks of latents, one step of a dream with more or less chance in it, and both as plain lists."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.evaluation.gap import going_on
from dreamer_lightning.nets.latents import Categorical
from dreamer_lightning.types import Carried, Space

LINES = ("reward", "value", "cont", "entropy")


@torch.no_grad()
def thoughts(dreamer: Dreamer, latent: Carried, logits: Tensor | None = None, picture: bool = True) -> dict[str, Any]:
    """What the heads say at latents [*b, .]: lines, decoded observations and the probabilities behind ``stoch``.

    Args:
        dreamer: the agent.
        latent: the states.
        logits: parameters of ``stoch`` that are shown; None: the prior's.
        picture: also decode the observations.

    Returns:
        ``reward``, ``value``, ``cont``, ``entropy``: lists [*b]; ``obs``: by name; ``latent``: a picture of ``stoch``.
    """
    model, feat = dreamer.world_model, latent.feat
    reward, cont = model.predict(feat)
    value, entropy = dreamer.actor_critic.value(feat).pred(), dreamer.actor_critic.policy(feat).entropy()
    lines = {"reward": reward, "value": value, "cont": going_on(model, cont), "entropy": entropy}
    found: dict[str, Any] = {name: rounded(line) for name, line in lines.items()}
    decoded = dreamer.reconstruct(latent) if picture else {}
    found["obs"] = {name: listed(seen, dreamer.specs.obs[name]) for name, seen in decoded.items()}
    found["latent"] = as_bytes(groups(dreamer, model.rssm.prior(latent.deter) if logits is None else logits))
    return found


def groups(dreamer: Dreamer, logits: Tensor) -> Tensor:
    """``stoch`` as a picture [*b, groups, classes] of numbers in [0, 1]: probabilities, or a normal's squashed mean."""
    latents = dreamer.world_model.rssm.latents
    if isinstance(latents, Categorical):
        return torch.softmax(logits.float(), -1)
    return torch.sigmoid(latents.mode(logits).float()).unsqueeze(-1)


@torch.no_grad()
def dream_step(
    dreamer: Dreamer, latent: Carried, action: Tensor, chance: float, generator: torch.Generator
) -> tuple[Carried, Tensor]:
    """One dreamed step from latents [n, .] under actions [n, a]; the next latents and their logits.

    Args:
        dreamer: the agent.
        latent: the states.
        action: one for each.
        chance: temperature of the draw: 0 takes what is likeliest, 1 draws as in training.
        generator: of the draw.
    """
    rssm = dreamer.world_model.rssm
    state = rssm.core(latent, rssm.project_action(action))
    logits = rssm.prior(state.deter)
    if chance <= 0:
        return state._replace(stoch=rssm.latents.mode(logits)), logits
    noise = rssm.noise(len(action), generator=generator)
    if isinstance(rssm.latents, Categorical):
        return state._replace(stoch=rssm.draw(logits / chance, noise)), logits
    return state._replace(stoch=rssm.draw(logits, noise * chance)), logits


@torch.no_grad()
def choose(dreamer: Dreamer, latent: Carried, chance: float, generator: torch.Generator) -> Tensor:
    """The policy's actions [n, a] at latents, with as much chance as ``dream_step`` has."""
    policy, feat = dreamer.actor_critic.policy, latent.feat
    if chance <= 0:
        return policy(feat).pred()
    return policy(feat).sample(policy.noise((len(feat),), generator, dreamer.device) * chance)


def rounded(values: Tensor | np.ndarray) -> Any:
    """Numbers as nested lists, to five digits; what is not finite is None, as JSON has no such numbers."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, np.float64)
    text = np.where(np.isfinite(array), np.round(array, 5), None)
    return text.tolist()


def as_bytes(values: Tensor | np.ndarray) -> dict[str, Any]:
    """Numbers in [0, 1], or bytes, as base64 with their shape."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.dtype != np.uint8:
        array = (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    return {"shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}


def listed(seen: Tensor | np.ndarray, space: Space) -> Any:
    """An observation over time: pictures [..., height, width, channels] as bytes, everything else as lists."""
    return as_bytes(seen) if space.image else rounded(seen)

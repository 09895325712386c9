"""The agent's networks from the options of ``fit``: the same for training and for loading what was trained."""

from __future__ import annotations

from typing import Any

from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.types import Specs
from dreamer_lightning.world_model import WorldModel


def build_dreamer(specs: Specs, options: dict[str, Any]) -> Dreamer:
    """An untrained agent.

    Args:
        specs: of the environment.
        options: the options of ``fit`` by name, those of the loop among them are not used.
    """
    losses = options["losses"]
    model = WorldModel(
        specs,
        **{name: options[name] for name in ("encoder", "rssm", "decoder", "reward", "cont")},
        horizon=losses.horizon,
        contdisc=losses.contdisc,
        reward_grad=losses.reward_grad,
    )
    names = ("policy", "value", "imag_length", "imag_last", "actor_gradient", "value_aware")
    actor_critic = ActorCritic(specs, model.feat_dim, **{name: options[name] for name in names}, **losses.returns)
    return Dreamer(model, actor_critic, losses.scales)

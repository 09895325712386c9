"""The agent's networks from the options of ``fit``: the same for training and for loading what was trained."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.nets.gradients import Mix, Pathwise, ScoreFunction
from dreamer_lightning.optim import Parts
from dreamer_lightning.types import Specs, UserError
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
        standardize=options["standardize"],
    )
    names = ("policy", "value", "imag_length", "imag_last", "value_aware")
    kind: type[ActorCritic] = options["actor_critic"]
    gradients = {"reinforce": ScoreFunction, "dynamics": Pathwise, "mix": partial(Mix, losses.gradient_mix)}
    given = (
        {name: options[name] for name in names} | losses.returns | {"gradient": gradients[options["actor_gradient"]]}
    )
    actor_critic = kind(specs, model.feat_dim, **given)
    return Dreamer(model, actor_critic, losses.scales, total=losses.total())


def parts(dreamer: Dreamer) -> Parts:
    """The agent's parameters for its optimizer, grouped as ``model``, ``actor`` and ``critic``."""
    return Parts(dreamer, actor=dreamer.actor_critic.policy, critic=dreamer.actor_critic.value)


def misfits(dreamer: Dreamer, weights: dict[str, Tensor]) -> str:
    """Tensors of other names or shapes than the agent's, some of them by name; empty if all fit."""
    own = {name: tuple(value.shape) for name, value in dreamer.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in own.keys() | there.keys() if own.get(name) != there.get(name))
    some = [f"{n}: {there.get(n, 'absent')} saved, {own.get(n, 'absent')} by its config" for n in wrong[:2]]
    return "; ".join(some) + (f"; and {len(wrong) - 2} more" if len(wrong) > 2 else "")


def load_weights(dreamer: Dreamer, weights: dict[str, Tensor], run: str) -> None:
    """Put trained weights into the agent, all of them.

    Raises:
        UserError: tensors of other names or shapes; names some.
    """
    wrong = misfits(dreamer, weights)
    if wrong:
        raise UserError(f"--run: the checkpoint in '{run}' does not fit its config.yaml ({wrong})")
    dreamer.load_state_dict(weights)

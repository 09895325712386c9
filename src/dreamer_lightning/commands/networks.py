"""The agent's networks from the options of ``fit``: the same for training and for loading what was trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from dreamer_lightning import migration
from dreamer_lightning.actor_critic import AbstractActorCritic
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.nets.decoders import Decoder
from dreamer_lightning.nets.encoders import Encoder
from dreamer_lightning.nets.heads import Head, PolicyHead
from dreamer_lightning.nets.rssm import RSSM
from dreamer_lightning.optim import Parts
from dreamer_lightning.types import Discount, Specs, UserError
from dreamer_lightning.world_model import WorldModel

EncoderFactory = Callable[[Specs], Encoder]
RSSMFactory = Callable[[int, int], RSSM]
DecoderFactory = Callable[[Specs, int, int], Decoder]
HeadFactory = Callable[[int], Head]
PolicyFactory = Callable[[int, Specs], PolicyHead]


class WorldModelFactory(Protocol):
    """Makes a world model of networks; what else its class takes is its own."""

    def __call__(
        self,
        specs: Specs,
        *,
        encoder: EncoderFactory,
        rssm: RSSMFactory,
        decoder: DecoderFactory,
        reward: HeadFactory,
        cont: HeadFactory,
        discount: Discount,
    ) -> WorldModel: ...


class ActorCriticFactory(Protocol):
    """Makes an actor-critic of heads; what else its class takes is its own."""

    def __call__(
        self, specs: Specs, feat_dim: int, *, policy: PolicyFactory, value: HeadFactory, discount: Discount
    ) -> AbstractActorCritic: ...


def build_dreamer(specs: Specs, options: dict[str, Any]) -> Dreamer:
    """An untrained agent.

    Args:
        specs: of the environment.
        options: the options of ``fit`` by name, those of the loop among them are not used.
    """
    names, discount = ("encoder", "rssm", "decoder", "reward", "cont"), options["discount"]
    model = options["world_model"](specs, **{name: options[name] for name in names}, discount=discount)
    heads = {name: options[name] for name in ("policy", "value")}
    agent = options["actor_critic"](specs, model.feat_dim, **heads, discount=discount)
    losses = options["losses"]
    embed_dim = model.encoder.embed_dim
    extra = {name: make(specs, model.feat_dim, embed_dim) for name, make in (losses.extra or {}).items()}
    return Dreamer(model, agent, losses.scales, losses.total(), extra)


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
    weights = migration.weights(weights, dreamer.state_dict())
    wrong = misfits(dreamer, weights)
    if wrong:
        raise UserError(f"--run: the checkpoint in '{run}' does not fit its config.yaml ({wrong})")
    dreamer.load_state_dict(weights)

"""Plan2Explore: a second actor-critic, which is paid for going where an ensemble of one-step heads disagrees.

    reward_{t+1} = mean over dims of Var_k f_k(feat_t, action_t),    f_k trained to predict feat_{t+1}

Where the world was seen often the heads agree, noise included, for they predict means; where it was not they do not.
Source: Sekar et al. 2020 (Plan2Explore), arXiv 2005.05960, equations 1 to 4; there the heads predict embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.actor_critic import ActorCritic, Dream, Dynamics, Noise
from dreamer_lightning.data.explore import Decision, Exploration
from dreamer_lightning.nets.blocks import MLP, Linear
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.types import Carried, Losses, Metrics, PositiveInt, UserError


class Ensemble(nn.Module):
    """Networks of one shape, which differ by the draw of their weights.

    Args:
        inputs: size of what they see.
        outputs: size of what they predict.
        members: how many.
        units: width of their layers.
        layers: hidden layers of each.
    """

    def __init__(self, inputs: int, outputs: int, members: int, units: int, layers: int):
        super().__init__()
        if members < 2:
            raise UserError(f"actor_critic.members={members} has nobody to disagree with; give 2 or more")
        self.members = nn.ModuleList(
            nn.Sequential(MLP(inputs, units, layers), Linear(units, outputs)) for _ in range(members)
        )

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "k *b o"]:
        """What each predicts."""
        return torch.stack([member(x) for member in self.members])

    def spread(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b"]:
        """How far they are from one another: ``1/(k-1) sum_k (f_k - mean f)^2``, the mean over what they predict."""
        return self(x).var(0).mean(-1)


class Curious(ActorCritic):
    """An actor-critic whose reward is the spread of an ensemble that it trains. It knows no other reward.

    Args:
        args: specs, and the size of the model's ``feat``.
        members: networks of the ensemble.
        units: width of their layers.
        layers: hidden layers of each.
        options: those of ``ActorCritic``.
    """

    def __init__(
        self,
        *args: Any,
        members: PositiveInt = 8,
        units: PositiveInt = 256,
        layers: PositiveInt = 2,
        **options: Any,
    ):
        super().__init__(*args, **options)
        self.value_aware, self.start_grad = "off", False  # replayed rewards are the task's, and so are the latents
        specs, feat_dim = args
        self.ensemble = Ensemble(feat_dim + specs.action_dim, feat_dim, members, units, layers)

    def forward(
        self, latent: Carried, records: dict[str, Any], dynamics: Dynamics, noise: Noise
    ) -> tuple[Losses, Metrics]:
        """``ActorCritic.forward``, and the loss ``ensemble`` [b, t]."""
        losses, metrics = super().forward(latent, records, dynamics, noise)
        return {**losses, "ensemble": self.ensemble_loss(latent.feat.detach(), records)}, metrics

    def ensemble_loss(self, feat: Float[Tensor, "b t f"], records: dict[str, Tensor]) -> Float[Tensor, "b t"]:
        """``sum_k mean over dims of (f_k(feat_{t-1}, action_{t-1}) - feat_t)^2 / 2``, 0 where an episode begins."""
        known = torch.cat([feat[:, :-1], records["prev_action"][:, 1:]], -1)
        loss = (self.ensemble(known) - feat[:, 1:]).square().mean(-1).sum(0) / 2
        return nn.functional.pad(loss * ~records["is_first"][:, 1:], (1, 0))

    def imagine(self, start: Carried, dynamics: Dynamics, stoch_noise: Tensor, action_noise: Tensor) -> Dream:
        """``ActorCritic.imagine``, paid by the spread at each step."""
        dream = super().imagine(start, dynamics, stoch_noise, action_noise)
        known = torch.cat([dream.feat, dream.action], -1)[:, :-1]
        return dream._replace(reward=nn.functional.pad(frozen(self.ensemble, "spread")(known), (1, 0)))


class Plan2Explore(ActorCritic):
    """DreamerV3's actor and critic, which learn the task in dreams, and ``explorer``, which collects for them.

    Both learn at every update. ``Explorer`` as ``collector.explore`` lets the second one play; evaluations play the
    first. Both dream from the same states with the same draws.

    Args:
        args: specs, and the size of the model's ``feat``.
        members: networks of the explorer's ensemble.
        units: width of their layers.
        layers: hidden layers of each.
        options: those of ``ActorCritic``, for both.
    """

    def __init__(
        self,
        *args: Any,
        members: PositiveInt = 8,
        units: PositiveInt = 256,
        layers: PositiveInt = 2,
        **options: Any,
    ):
        super().__init__(*args, **options)
        self.explorer = Curious(*args, members=members, units=units, layers=layers, **options)

    def forward(
        self, latent: Carried, records: dict[str, Any], dynamics: Dynamics, noise: Noise
    ) -> tuple[Losses, Metrics]:
        """Losses and metrics of both; those of the explorer are called ``explore/NAME``."""
        losses, metrics = super().forward(latent, records, dynamics, noise)
        for found, more in zip((losses, metrics), self.explorer(latent, records, dynamics, noise), strict=True):
            found |= {f"explore/{name}": value for name, value in more.items()}
        return losses, metrics

    def update_slow_critic(self) -> None:
        super().update_slow_critic()
        self.explorer.update_slow_critic()


class Explorer(Exploration):
    """The action of the explorer of ``Plan2Explore``, in place of the policy's."""

    @torch.no_grad()
    def __call__(self, decision: Decision) -> Float[Tensor, "n a"]:
        agent = decision.agent
        if not isinstance(agent.actor_critic, Plan2Explore):
            raise UserError(
                "--collector.explore: Explorer plays what actor_critic Plan2Explore learns, and "
                f"{type(agent.actor_critic).__name__} has no explorer; add --config explore.yaml"
            )
        policy, feat = agent.actor_critic.explorer.policy, agent.world_model.rssm.unpack(decision.state).feat
        return policy(feat).sample(policy.noise((len(feat),), self.generator, feat.device)).to(decision.action)

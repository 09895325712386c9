"""DreamerV2: a target critic, and an actor that learns by score function, through the dream, or both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.actor_critic import Dream, follow
from dreamer_lightning.nets.entropy import ConstantWeight, EntropyWeight
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.gradients import ActorGradient, ScoreFunction
from dreamer_lightning.ops.returns import lambda_return
from dreamer_lightning.types import ClosedUnitInterval, Losses, Metrics, NonNegativeFloat, PositiveInt
from dreamer_lightning.versions.early import DreamsAlone, arriving, check_length, shifted_weight


class ActorCriticV2(DreamsAlone):
    """DreamerV2's losses. For states 0 to H of a dream, with values v of the target critic::

        R_j = r_j + live_j [(1 - lam) v_{j+1} + lam R_{j+1}],    R_H = v_H,    live_j = gamma cont_j
        w_0 = 1, w_j = w_{j-1} live_{j-1}
        policy: -mean_{j<H-1} w_j (gain_j + actent entropy_j)
            gain_j = R_{j+1}                              Pathwise
                     ln pi(a_j) sg(R_{j+1} - v_j)         ScoreFunction
                     both                                 Mix
        value: mean_{j<H} w_j (v_j - R_j)^2 / 2 (and a constant)

    The first state's cont is the true one.

    Args:
        gradient: how the actor learns: ``ScoreFunction``, ``Pathwise`` (backpropagation through the dream) or ``Mix``.
        actent: weight of the policy's entropy, per nat.
        entropy_weight: from ``actent``, what gives the weight at each update.
        slowtar: the slow critic is the target critic; else the critic is its own.
        slow_rate: share of the critic that the slow critic takes over at each update of it.
        slow_every: updates between two of them (a copy every 100 updates is ``slow_rate: 1``, ``slow_every: 100``).
    Source: danijar/dreamerv2@07d906e agent.py; Hafner et al. 2021, equations 4 to 6.
    """

    def __init__(
        self,
        *args: Any,
        gradient: Callable[[], ActorGradient] = ScoreFunction,
        actent: NonNegativeFloat = 3e-4,
        entropy_weight: Callable[[float], EntropyWeight] = ConstantWeight,
        slowtar: bool = False,
        slow_rate: ClosedUnitInterval = 0.02,
        slow_every: PositiveInt = 1,
        **options: Any,
    ):
        super().__init__(*args, **options)
        check_length(self)
        self.gradient, self.entropy_weight = gradient(), entropy_weight(actent)
        self.slowtar, self.slow_rate, self.slow_every = slowtar, slow_rate, slow_every
        self.slow_critic = copy.deepcopy(self.value).requires_grad_(False)

    def dream_losses(self, dream: Dream, update: bool = True) -> tuple[Losses, Metrics, Float[Tensor, "n h"]]:
        """Policy losses [n, h-1], value losses [n, h], and the lambda-returns of states 0 to h-1."""
        feat, live = dream.feat.detach(), dream.cont * self.dream_discount
        boot = frozen(self.slow_critic if self.slowtar else self.value)(dream.feat).pred()
        ret = lambda_return(arriving(dream.reward), arriving(live), boot, self.lam)
        weight = shifted_weight(live.detach())
        policy = self.policy(feat[:, :-2])
        adv = (ret[:, 1:] - boot[:, :-2]).detach()
        entropy = policy.entropy()
        gain = self.gradient(policy, dream.action[:, :-2], ret[:, 1:], adv)
        actent = self.entropy_weight(self.entropy_norm(entropy.detach()), update)
        losses = {"policy": -weight[:, :-2] * (gain + actent * entropy)}
        losses["value"] = weight[:, :-1] * self.value(feat[:, :-1]).loss(ret)
        ret, scale = ret.detach(), torch.ones_like(weight[0, 0])
        metrics = self.metrics(dream, ret, adv, boot.detach(), weight, entropy, scale) | self.entropy_weight.metrics()
        return losses, metrics, ret

    def update_slow_critic(self) -> None:
        """Move the slow critic towards the critic; call after each optimizer step."""
        follow(self.slow_critic, self.value, self.slow_rate, self.slow_every, self.updates)
        super().update_slow_critic()

"""DreamerV2: a target critic, and an actor that learns by score function, through the dream, or both."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.actor_critic import Dream
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.outputs import Output
from dreamer_lightning.ops.returns import lambda_return
from dreamer_lightning.types import Losses, Metrics
from dreamer_lightning.versions.early import EarlyActorCritic, arriving, shifted_weight


class ActorCriticV2(EarlyActorCritic):
    """DreamerV2's losses. For states 0 to H of a dream, with values v of the target critic::

        R_j = r_j + live_j [(1 - lam) v_{j+1} + lam R_{j+1}],    R_H = v_H,    live_j = gamma cont_j
        w_0 = 1, w_j = w_{j-1} live_{j-1}
        policy: -mean_{j<H-1} w_j (gain_j + actent entropy_j)
            gain_j = R_{j+1}                              Pathwise
                     ln pi(a_j) sg(R_{j+1} - v_j)         ScoreFunction
                     both                                 Mix
        value: mean_{j<H} w_j (v_j - R_j)^2 / 2 (and a constant)

    The first state's cont is the true one. ``slowtar`` makes the slow critic the target critic (a copy every 100
    updates is ``slow_rate: 1``, ``slow_every: 100``); ``slowreg`` and the normalisers have no effect.

    Args: as ``ActorCritic``.
    Source: danijar/dreamerv2@07d906e agent.py; Hafner et al. 2021, equations 4 to 6.
    """

    def dream_losses(
        self, dream: Dream, update: bool = True, start: Tensor | None = None
    ) -> tuple[Losses, Metrics, Float[Tensor, "n h"]]:
        """Policy losses [n, h-1], value losses [n, h], and the lambda-returns of states 0 to h-1."""
        feat, live = dream.feat.detach(), dream.cont * self.dream_discount
        boot = frozen(self.slow_critic if self.slowtar else self.value)(dream.feat).pred()
        ret = lambda_return(arriving(dream.reward), arriving(live), boot, self.lam)
        weight = shifted_weight(live.detach())
        policy = self.policy(feat[:, :-2])
        adv = (ret[:, 1:] - boot[:, :-2]).detach()
        entropy = policy.entropy()
        actent = self.entropy_weight(self.entropy_norm(entropy.detach()), update)
        gain = self.policy_gain(dream, policy, ret[:, 1:], adv) + actent * entropy
        losses = {"policy": -weight[:, :-2] * gain, "value": weight[:, :-1] * self.value(feat[:, :-1]).loss(ret)}
        ret, scale = ret.detach(), torch.ones_like(weight[0, 0])
        return losses, self.metrics(dream, ret, adv, boot.detach(), weight, entropy, scale), ret

    def policy_gain(self, dream: Dream, policy: Output, ret: Tensor, adv: Tensor) -> Float[Tensor, "n h-1"]:
        return self.gradient(policy, dream.action[:, :-2], ret, adv)

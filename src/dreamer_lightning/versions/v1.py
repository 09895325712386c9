"""DreamerV1: the actor climbs lambda-returns through the dream; the critic follows them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.actor_critic import Dream
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.gradients import Pathwise
from dreamer_lightning.ops.returns import lambda_return
from dreamer_lightning.types import Losses, Metrics
from dreamer_lightning.versions.early import DreamsAlone, arriving, check_length, shifted_weight


class ActorCriticV1(DreamsAlone):
    """DreamerV1's losses. For states 1 to H of a dream (its first, which was seen, has none)::

        R_j = r_j + live_j [(1 - lam) v_{j+1} + lam R_{j+1}],    R_H = v_H,    live_j = gamma cont_j
        w_1 = 1, w_j = w_{j-1} live_{j-1}
        policy: -mean_{j<H} w_j R_j        value: mean_{j<H} w_j (v_j - R_j)^2 / 2 (and a constant)

    There is no slow critic, no entropy bonus and no normalisation, and the actor learns through the dynamics alone.

    Source: danijar/dreamer@56d4d44 dreamer.py; Hafner et al. 2020, equations 6 to 8.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        check_length(self)
        self.gradient = Pathwise()

    def dream_losses(self, dream: Dream, update: bool = True) -> tuple[Losses, Metrics, Float[Tensor, "n h1"]]:
        """Policy and value losses [n, h-1], and the lambda-returns of states 1 to h-1."""
        feat, live = dream.feat[:, 1:], dream.cont[:, 1:] * self.dream_discount
        boot = frozen(self.value)(feat).pred()
        ret = lambda_return(arriving(dream.reward[:, 1:]), arriving(live), boot, self.lam)
        alive = (dream.cont[:, :1] > 0).float()  # after a terminal state there is nothing to dream of
        weight = alive * shifted_weight(live.detach())[:, :-1]
        value = self.value(feat[:, :-1].detach())
        losses = {"policy": -weight * ret, "value": weight * value.loss(ret)}
        with torch.no_grad():
            entropy = self.policy(feat[:, 0]).entropy()
            adv = ret - boot[:, :-1]
        ret = ret.detach()
        return losses, self.metrics(dream, ret, adv, boot.detach(), weight, entropy, torch.ones_like(ret[0, 0])), ret

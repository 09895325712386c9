"""The DreamerV3 of 2023 (arXiv v1), whose actor learned continuous actions through the dream."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.actor_critic import Dream, NormalizedActorCritic
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.outputs import Output
from dreamer_lightning.versions.early import DreamsAlone


class ActorCritic2023(DreamsAlone, NormalizedActorCritic):
    """DreamerV3's losses as they were in 2023. Returns, weights and the critic's loss are those of ``ActorCritic``, but

    - dreams end for sure where the continue head thinks that more likely than not, and never elsewhere;
    - the first state's cont is the true one, and there is no loss on replayed steps;
    - through the dynamics the actor climbs the advantage, ``(R_j - v_j) / S``, with a gradient through both: a state
      that it brought about raises the baseline, too.

    Source: danijar/dreamerv3@8fa35f8 dreamerv3/agent.py.
    """

    def later_cont(self, cont: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        return (cont > 0.5).float()

    def policy_gain(self, dream: Dream, policy: Output, ret: Tensor, adv: Tensor) -> Float[Tensor, "n h"]:
        """As in today's version, of the advantage with its gradient where the gradient runs through the dream."""
        if self.gradient.needs_gradient:
            _, scale = self.return_norm.stats()
            ret = ret - frozen(self.value)(dream.feat[:, :-1]).pred() / scale
        return super().policy_gain(dream, policy, ret, adv)

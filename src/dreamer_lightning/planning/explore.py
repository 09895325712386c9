"""Collecting by a planner: the policy learns from what a look ahead would have played."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.data.explore import Decision, Exploration
from dreamer_lightning.planning.foresight import Planner, moved_on
from dreamer_lightning.planning.sampling import MPPI
from dreamer_lightning.types import Specs


def light() -> Planner:
    """MPPI that is cheap enough for every step of a run."""
    return MPPI(samples=64, rounds=2, elites=16, horizon=3, policy_plans=16)


class Planned(Exploration):
    """A planner's action in place of the policy's.

    Args:
        planner: makes the planner; MPPI of 64 plans, 2 rounds and 3 steps if none is named.
    """

    kept = ("plan",)

    def __init__(
        self,
        specs: Specs,
        num_envs: int,
        generator: torch.Generator,
        planner: Callable[[], Planner] = light,
    ):
        super().__init__(specs, num_envs, generator)
        self.planner = planner()
        self.plan = torch.zeros(num_envs, self.planner.horizon, specs.action_dim, device=generator.device)

    @torch.no_grad()
    def __call__(self, decision: Decision) -> Float[Tensor, "n a"]:
        self.planner.check(decision.agent)
        latent = decision.agent.world_model.rssm.unpack(decision.state)
        plan = self.planner(decision.agent, latent, moved_on(self.plan, decision.is_first), self.generator)
        self.plan = plan.actions
        return plan.action.to(decision.action)

"""A planner that improves the policy's own plans along the gradient of their return, through the dynamics."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.planning.foresight import Plan, Planner, Worth, at_least, best_of
from dreamer_lightning.types import Layout, PositiveInt


class GradientPlanner(Planner):
    """Climbs from a few of the policy's plans and from what is left of the plan before, and plays the best plan that
    it met, before the climb or after it: ``a <- clip(a + rate g / |g|, -1, 1)``.

    Args:
        steps: how often each plan is moved.
        rate: length of a move of a plan, for actions in [-1, 1].
        policy_plans: plans of the policy that it climbs from.
        options: ``horizon`` and ``lam``, see ``Planner``.
    Source: Henaff et al. 2017 (arXiv 1705.07177), gradient-based planning; the gradient is that of V1's actor.
    """

    discrete = False

    def __init__(self, steps: PositiveInt = 5, rate: float = 0.1, policy_plans: PositiveInt = 8, **options: Any):
        super().__init__(policy_plans=at_least(policy_plans, 1, "policy_plans"), **options)
        self.steps, self.rate = at_least(steps, 1, "steps"), rate

    def search(
        self,
        actions: Layout,
        worth: Worth,
        own: Float[Tensor, "n p h a"],
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None,
        greedy: bool,
    ) -> Plan:
        begun = plans = torch.cat([own, before[:, None]], 1)
        for _ in range(self.steps):
            with torch.enable_grad():
                moved = plans.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(worth(actions=moved, climb=True).sum(), moved)
            length = slope.flatten(2).norm(dim=-1)[:, :, None, None].clamp(min=1e-8)
            plans = (plans + self.rate * slope / length).clamp(-1.0, 1.0)
        met = torch.cat([begun, plans], 1)
        return best_of(met, worth(actions=met))

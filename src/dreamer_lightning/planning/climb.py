"""A planner that improves the policy's own plans along the gradient of their return, through the dynamics."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.planning.foresight import Plan, Planner, foresee
from dreamer_lightning.planning.sampling import at_least
from dreamer_lightning.types import Carried, ClosedUnitInterval, PositiveInt


class GradientPlanner(Planner):
    """Climbs from a few of the policy's plans, and plays the best: ``a <- clip(a + rate g / |g|, -1, 1)``.

    Args:
        steps: how often each plan is moved.
        rate: length of a move of a plan, for actions in [-1, 1].
        horizon: steps that a plan looks ahead.
        lam: see ``Planner``.
        policy_plans: plans that it climbs from, beside the one of the decision before.
    Source: Henaff et al. 2017 (arXiv 1705.07177), gradient-based planning; the gradient is that of V1's actor.
    """

    discrete = False

    def __init__(
        self,
        steps: PositiveInt = 5,
        rate: float = 0.1,
        horizon: PositiveInt = 5,
        lam: ClosedUnitInterval = 1.0,
        policy_plans: int = 8,
    ):
        super().__init__(horizon, lam, at_least(policy_plans, 1, "policy_plans"))
        self.steps, self.rate = at_least(steps, 1, "steps"), rate

    @torch.no_grad()
    def __call__(
        self,
        dreamer: Dreamer,
        latent: Carried,
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> Plan:
        n = len(before)
        plans = torch.cat([self.propose(dreamer, latent, generator), before[:, None]], 1)
        noise = dreamer.world_model.rssm.noise(n, self.horizon, generator=generator)
        for _ in range(self.steps):
            with torch.enable_grad():
                moved = plans.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(
                    foresee(dreamer, latent, moved, noise, self.lam, climb=True).sum(), moved
                )
            length = slope.flatten(2).norm(dim=-1)[:, :, None, None].clamp(min=1e-8)
            plans = (plans + self.rate * slope / length).clamp(-1.0, 1.0)
        values = foresee(dreamer, latent, plans, noise, self.lam)
        best = plans[torch.arange(n, device=before.device), values.argmax(1)]
        return Plan(best[:, 0], best, plans, values)

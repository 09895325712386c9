"""Who acts on the stage: the policy, or a planner in its place."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamer_lightning.demo.stage import choose
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.errors import UserError
from dreamer_lightning.planning import CEM, MPPI, GradientPlanner, Lookahead, Planner, Shooting
from dreamer_lightning.planning.foresight import moved_on
from dreamer_lightning.types import Carried

# as many plans as leave time for twenty decisions a second
PLANNERS: dict[str, Planner] = {
    "mppi": MPPI(horizon=8, samples=64, rounds=2, elites=16, policy_plans=16),
    "cem": CEM(horizon=8, samples=64, rounds=2, elites=16, policy_plans=16),
    "shooting": Shooting(horizon=8, samples=64, policy_plans=16),
    "gradient": GradientPlanner(horizon=8, steps=3, policy_plans=4),
}


def planners(dreamer: Dreamer) -> list[dict[str, str]]:
    """The planners that can plan for an agent: ``name`` and what the page calls it, ``title``."""
    found = []
    for name, planner in PLANNERS.items():
        try:
            planner.check(dreamer)
        except UserError:
            continue
        found.append({"name": name, "title": f"{type(planner).__name__}, {planner.horizon} steps ahead"})
    return found


class Actor:
    """Chooses actions in latents.

    Args:
        dreamer: the agent.
        name: of a planner; empty: the policy.

    Raises:
        UserError: no such planner, or it cannot plan for this agent.
    """

    def __init__(self, dreamer: Dreamer, name: str = ""):
        if name and name not in {each["name"] for each in planners(dreamer)}:
            raise UserError(f"demo: nobody called '{name}' can act here")
        self.dreamer, self.name = dreamer, name
        self.planner = PLANNERS[name] if name else None
        self.plan: Tensor | None = None  # what is left of the decision before

    def player(self) -> Dreamer | Lookahead:
        """Who plays an episode of the environment."""
        return Lookahead(self.dreamer, self.planner) if self.planner else self.dreamer

    def __call__(self, latent: Carried, chance: float, generator: torch.Generator) -> Tensor:
        """The actions [n, a] at latents [n, .], with as much chance as ``dream_step`` has."""
        if self.planner is None:
            return choose(self.dreamer, latent, chance, generator)
        n, device = len(latent.stoch), self.dreamer.device
        if self.plan is None or len(self.plan) != n:
            self.plan = torch.zeros(n, self.planner.horizon, self.dreamer.specs.action_dim, device=device)
        rest = moved_on(self.plan, torch.zeros(n, dtype=torch.bool, device=device))
        found = self.planner(self.dreamer, latent, rest, generator, greedy=chance <= 0)
        self.plan = found.actions
        return found.action.float()

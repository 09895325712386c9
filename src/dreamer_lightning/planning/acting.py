"""An agent that plans where it would have asked its policy."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer_lightning.dreamer import Dreamer, State
from dreamer_lightning.planning.foresight import Plan, Planner, moved_on

PLAN = "plan"  # beside the latent in what acting carries


class Lookahead:
    """To whoever plays episodes, a ``Dreamer``: everything but acting is the agent's own.

    Args:
        dreamer: the agent.
        planner: chooses its actions.

    Attributes:
        last: what was decided last, to be looked at.

    Raises:
        UserError: the planner cannot plan the agent's actions.
    """

    def __init__(self, dreamer: Dreamer, planner: Planner):
        planner.check(dreamer)
        self.dreamer, self.planner = dreamer, planner
        self.last: Plan | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dreamer, name)

    def initial(self, n: int) -> State:
        """``Dreamer.initial``, and no plan."""
        plan = torch.zeros(n, self.planner.horizon, self.dreamer.specs.action_dim, device=self.dreamer.device)
        return {**self.dreamer.initial(n), PLAN: plan}

    @torch.no_grad()
    def act(
        self,
        obs: dict[str, Tensor],
        state: State,
        is_first: Bool[Tensor, " n"],
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> tuple[Float[Tensor, "n a"], State]:
        """Choose actions by planning; arguments as ``Dreamer.act``."""
        _, packed = self.dreamer.observe_step(obs, state, is_first, generator)
        latent, before = self.dreamer.world_model.rssm.unpack(packed), state.get(PLAN)
        if before is None or before.shape[1] != self.planner.horizon:  # something else acted until now
            before = self.initial(len(is_first))[PLAN]
        rest = moved_on(before, is_first)
        self.last = self.planner(self.dreamer, latent, rest, generator, greedy)
        action = self.last.action.float()
        return action, {**packed, "prev_action": action, PLAN: self.last.actions}

"""What is played in the environment in place of the policy's own action, and why: to see more of it, or on purpose."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer_lightning.types import Specs, UserError


class Decision(NamedTuple):
    """What is known where an action is chosen; tensors lie on the agent's device.

    Args:
        obs: observations [n, ...] by name.
        state: what the policy carries into the next step, with the observations above in it.
        action: [n, a], the policy's choice.
        is_first: [n], environments whose episode begins here.
        env_step: clock of the run when the batch of steps at hand began.
        agent_step: likewise.
        generator: source of the acting noise, which the policy has drawn from already.
        agent: the agent that acts.
    """

    obs: dict[str, Tensor]
    state: dict[str, Tensor]
    action: Float[Tensor, "n a"]
    is_first: Bool[Tensor, " n"]
    env_step: int = 0
    agent_step: int = 0
    generator: torch.Generator | None = None
    agent: Any = None


class Exploration:
    """Interface: returns the action that is played. This one plays the policy's.

    Args:
        specs: the environment's.
        num_envs: environments of this rank.
        generator: of its own, on the agent's device; checkpoints keep its state.
    """

    kept: tuple[str, ...] = ()  # names of the tensors that checkpoints keep, too

    def __init__(self, specs: Specs, num_envs: int, generator: torch.Generator):
        self.specs, self.num_envs, self.generator = specs, num_envs, generator

    def __call__(self, decision: Decision) -> Float[Tensor, "n a"]:
        return decision.action

    def metrics(self) -> dict[str, Tensor | float]:
        """Numbers for the next row of metrics.csv, under names that begin with ``explore/``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as a plain tree of tensors and numbers."""
        draws = {"device": self.generator.device.type, "generator": self.generator.get_state()}
        return {**draws, **{name: getattr(self, name) for name in self.kept}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; a generator of another kind of device than then stays as it is."""
        device = self.generator.device
        if state["device"] == device.type:
            self.generator.set_state(state["generator"].cpu())
        for name in self.kept:
            setattr(self, name, state[name].to(device))


class Disturbed(Exploration):
    """The policy's action with something added.

    Args:
        amount: standard deviation of a normal that is added to continuous entries, which are then cut to [-1, 1];
            probability with which a discrete action gives way to a random one (V1: 0.3).
    Source: danijar/dreamer@56d4d44 dreamer.py; danijar/dreamerv2@07d906e common/other.py (action_noise).
    """

    def __init__(self, specs: Specs, num_envs: int, generator: torch.Generator, amount: float = 0.3):
        super().__init__(specs, num_envs, generator)
        if amount < 0:
            raise UserError(f"collector.explore: amount={amount} is no standard deviation; give 0 or more")
        self.amount = amount

    def __call__(self, decision: Decision) -> Float[Tensor, "n a"]:
        action, generator = decision.action, decision.generator
        n, device, layout = len(action), action.device, self.specs.actions
        moved = (action + self.amount * torch.randn(action.shape, generator=generator, device=device)).clamp(-1, 1)
        blind = layout.random((n,), generator, device)
        coin = torch.rand(n, 1, generator=generator, device=device) < self.amount
        near, switched = layout.split(moved), layout.split(torch.where(coin, blind, action))
        return layout.join({name: switched[name] if space.discrete else near[name] for name, space in layout.items()})


class RandomFirst(Exploration):
    """Uniform actions before learning begins, then another exploration.

    Args:
        steps: agent steps, over all ranks, that are played blindly.
        then: plays after them; None: the policy.
    """

    def __init__(
        self,
        specs: Specs,
        num_envs: int,
        generator: torch.Generator,
        steps: int,
        then: Exploration | None = None,
    ):
        super().__init__(specs, num_envs, generator)
        self.steps, self.then = steps, then or Exploration(specs, num_envs, generator)

    def __call__(self, decision: Decision) -> Float[Tensor, "n a"]:
        if decision.agent_step >= self.steps:
            return self.then(decision)
        action = decision.action
        return self.specs.actions.random((len(action),), decision.generator, action.device)

    def metrics(self) -> dict[str, Tensor | float]:
        return self.then.metrics()

    def state_dict(self) -> dict[str, Any]:
        return self.then.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.then.load_state_dict(state)


class HeldCorners(Exploration):
    """A random corner of the action box is held for some decisions, then another one: slow, strong pushes.

    It plays in all environments for the ``first`` env steps of a run, and later throughout an episode in ``share / S``
    of all episodes, where S is the scale of the dream's returns: 1 as long as dreams hold no returns to tell apart,
    larger from then on. An environment whose episode is not chosen plays the policy's actions. A discrete action is
    held likewise, for n decisions with probability proportional to n^-mu (ez-greedy).

    Args:
        first: env steps at the start of a run, over all ranks.
        share: share of episodes after them, as long as S is at its floor of 1.
        shortest: fewest decisions for which a corner is held.
        longest: most decisions; any number between the two is as likely.
        mu: exponent of the durations of discrete actions.
        most: longest of these.
    Source: Dabney et al. 2021 (arXiv 2006.01782), section 4, for discrete actions.
    """

    kept = ("chosen", "corner", "left", "episodes")

    def __init__(
        self,
        specs: Specs,
        num_envs: int,
        generator: torch.Generator,
        first: int = 2500,
        share: float = 0.1,
        shortest: int = 10,
        longest: int = 30,
        mu: float = 2.0,
        most: int = 1000,
    ):
        super().__init__(specs, num_envs, generator)
        if not 1 <= shortest <= longest:
            raise UserError(f"collector.explore: hold from {shortest} to {longest}; give 1 <= shortest <= longest")
        if not 0 <= share <= 1:
            raise UserError(f"collector.explore: share={share} is no share of episodes; give 0 to 1")
        self.first, self.share, self.shortest, self.longest = first, share, shortest, longest
        spaces, device = list(specs.actions.values()), generator.device
        self.discrete = torch.tensor([space.discrete for space in spaces], device=device)
        self.owner = torch.tensor([i for i, space in enumerate(spaces) for _ in range(space.size)], device=device)
        odds = torch.arange(1, most + 1, device=device).double() ** -mu
        self.odds = (odds.cumsum(0) / odds.sum()).float()  # that a discrete action is held for 1, 2, ... or fewer
        self.chosen = torch.zeros(num_envs, dtype=torch.bool, device=device)  # whose episode is not the policy's
        self.corner = torch.zeros(num_envs, specs.action_dim, device=device)
        self.left = torch.zeros(num_envs, len(spaces), device=device)  # decisions that each action is still held for
        self.episodes = torch.zeros((), dtype=torch.int64, device=device)

    def __call__(self, decision: Decision) -> Float[Tensor, "n a"]:
        begins = decision.is_first
        norm = getattr(decision.agent.actor_critic, "return_norm", None)  # V1 and V2 have none
        scale = norm.stats()[1] if norm else torch.ones((), device=begins.device)
        self.chosen = torch.where(begins, self.draws(self.num_envs) < self.share / scale.clamp(min=1), self.chosen)
        held = self.chosen | (decision.env_step < self.first)
        self.episodes = self.episodes + (begins & held).sum()
        over = begins[:, None] | (self.left < 1)
        self.left = torch.where(over, self.durations(), self.left) - 1
        corners = self.specs.actions.random((self.num_envs,), self.generator, begins.device)
        corners = torch.where(self.discrete[self.owner], corners, torch.where(corners < 0, -1.0, 1.0))
        self.corner = torch.where(over[:, self.owner], corners, self.corner)
        return torch.where(held[:, None], self.corner, decision.action)

    def durations(self) -> Float[Tensor, "n k"]:
        """Decisions for which each action would be held from here."""
        draws = self.draws(*self.left.shape)
        even = self.shortest + (draws * (self.longest - self.shortest + 1)).floor()
        steep = 1 + torch.searchsorted(self.odds, draws).clamp(max=len(self.odds) - 1)
        return torch.where(self.discrete, steep, even)

    def draws(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def metrics(self) -> dict[str, Tensor | float]:
        """Episodes so far that began with a corner."""
        return {"explore/episodes": self.episodes}

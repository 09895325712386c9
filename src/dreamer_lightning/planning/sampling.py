"""Planners that draw plans, keep the best, and draw nearer to them: random shooting, CEM, MPPI."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.planning.foresight import Plan, Planner, foresee
from dreamer_lightning.types import Carried, ClosedUnitInterval, Layout, PositiveInt, UserError


class Shooting(Planner):
    """Uniformly random plans and the policy's; the first action of the best one is played.

    Args:
        samples: candidates, the policy's among them.
        horizon: steps that a plan looks ahead.
        lam: see ``Planner``.
        policy_plans: candidates that the policy itself proposes.
    """

    def __init__(
        self,
        samples: PositiveInt = 512,
        horizon: PositiveInt = 5,
        lam: ClosedUnitInterval = 1.0,
        policy_plans: int = 24,
    ):
        super().__init__(horizon, lam, policy_plans)
        self.samples = at_least(samples, policy_plans + 1, "samples")

    @torch.no_grad()
    def __call__(
        self,
        dreamer: Dreamer,
        latent: Carried,
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> Plan:
        n, drawn = len(before), self.samples - self.policy_plans
        plans = dreamer.specs.actions.random((n, drawn, self.horizon), generator, before.device)
        if self.policy_plans:
            plans = torch.cat([self.propose(dreamer, latent, generator), plans], 1)
        noise = dreamer.world_model.rssm.noise(n, self.horizon, generator=generator)
        values = foresee(dreamer, latent, plans, noise, self.lam)
        best = plans[torch.arange(n, device=before.device), values.argmax(1)]
        return Plan(best[:, 0], best, plans, values)


class Sampling(Planner):
    """Rounds of drawing around a mean plan, which moves to the best of each round; classes by their frequencies.

    Args:
        samples: candidates of a round, the policy's among them.
        rounds: how often is drawn.
        elites: how many of the best move the mean.
        horizon: steps that a plan looks ahead.
        lam: see ``Planner``.
        policy_plans: candidates that the policy itself proposes.
        widest: standard deviation of the first draws, for actions in [-1, 1].
        narrowest: least standard deviation of later ones.
    """

    def __init__(
        self,
        samples: PositiveInt = 512,
        rounds: PositiveInt = 6,
        elites: PositiveInt = 64,
        horizon: PositiveInt = 5,
        lam: ClosedUnitInterval = 1.0,
        policy_plans: int = 24,
        widest: float = 2.0,
        narrowest: float = 0.05,
    ):
        super().__init__(horizon, lam, policy_plans)
        self.samples = at_least(samples, max(elites, policy_plans + 1), "samples")
        self.rounds, self.elites = at_least(rounds, 1, "rounds"), at_least(elites, 2, "elites")
        self.widest, self.narrowest = widest, narrowest

    @abstractmethod
    def weights(self, values: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """How much each of the best plans counts, from what they promise; they sum to 1."""

    @torch.no_grad()
    def __call__(
        self,
        dreamer: Dreamer,
        latent: Carried,
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> Plan:
        n, layout = len(before), dreamer.specs.actions
        own = self.propose(dreamer, latent, generator) if self.policy_plans else None
        noise = dreamer.world_model.rssm.noise(n, self.horizon, generator=generator)
        mean, std = before, torch.full_like(before, self.widest)
        rows = torch.arange(n, device=before.device)[:, None]
        for _ in range(self.rounds):
            plans = draw(layout, mean, std, self.samples - self.policy_plans, generator)
            plans = plans if own is None else torch.cat([own, plans], 1)
            values = foresee(dreamer, latent, plans, noise, self.lam)
            best = values.topk(self.elites, 1)
            elite, weight = plans[rows, best.indices], self.weights(best.values)[:, :, None, None]
            mean = (weight * elite).sum(1)
            std = (weight * (elite - mean[:, None]) ** 2).sum(1).sqrt().clamp(self.narrowest, self.widest)
        if greedy:
            action = layout.one_hot(layout.numbers(mean[:, 0]))
        else:
            chosen = torch.multinomial(weight[:, :, 0, 0], 1, generator=generator)
            action = elite[rows, chosen][:, 0, 0]
        return Plan(action, mean, plans, values)


class CEM(Sampling):
    """The cross-entropy method: the best plans count alike.

    Source: Rubinstein 1999; Chua et al. 2018 (PETS), arXiv 1805.12114. Options as ``Sampling``.
    """

    def weights(self, values: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        return torch.full_like(values, 1.0 / values.shape[1])


class MPPI(Sampling):
    """Model predictive path integrals: the best plans count by ``exp((R - max R) / (temperature std R))``.

    The standard deviation is that of the best plans: the scale of rewards does not matter.

    Args:
        temperature: near 0 the best plan alone counts, far above 1 all count alike.
        options: as ``Sampling``.
    Source: Williams et al. 2017; Hansen et al. 2022 (TD-MPC), arXiv 2203.04955, whose values are not normalised.
    """

    def __init__(self, temperature: float = 0.5, samples: PositiveInt = 512, rounds: PositiveInt = 6, **options):
        super().__init__(samples, rounds, **options)
        if temperature <= 0:
            raise UserError(f"planner: temperature={temperature} must be above 0")
        self.temperature = temperature

    def weights(self, values: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        spread = values.std(1, keepdim=True).clamp(min=1e-6)
        return torch.softmax((values - values.amax(1, keepdim=True)) / (self.temperature * spread), 1)


def draw(
    layout: Layout,
    mean: Float[Tensor, "n h a"],
    std: Float[Tensor, "n h a"],
    count: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n s h a"]:
    """Plans around a mean plan: normal where actions are numbers, cut to [-1, 1]; classes by their shares in it.

    Args:
        layout: of the flat actions.
        mean: of classes it holds their probabilities, up to a factor; zeros are no opinion.
        std: of the numbers.
        count: plans for each mean.
        generator: source of the draws.
    """
    shape = (len(mean), count, *mean.shape[1:])
    wide = layout.split(mean[:, None].expand(shape))
    steps = torch.randn(shape, generator=generator, device=mean.device) * std[:, None]
    luck = torch.rand(shape, generator=generator, device=mean.device).clamp(1e-7, 1 - 1e-7)
    near, chance = layout.split(mean[:, None] + steps), layout.split(-torch.log(-torch.log(luck)))
    parts = {
        name: (torch.log(wide[name] + 1e-3) + chance[name]).argmax(-1) if space.discrete else near[name].clamp(-1, 1)
        for name, space in layout.items()
    }
    return layout.one_hot(parts)


def at_least(value: int, least: int, name: str) -> int:
    """The number itself.

    Raises:
        UserError: it is too small.
    """
    if value < least:
        raise UserError(f"planner: {name}={value} is too few; give {least} or more")
    return value

"""Planners that draw plans, keep the best, and draw nearer to them: random shooting, CEM, MPPI."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.planning.foresight import Plan, Planner, Worth, at_least, best_of
from dreamer_lightning.types import Layout, PositiveInt, UserError


class Drawing(Planner):
    """A planner that compares so many plans at a time.

    Args:
        samples: candidates, the policy's among them.
        options: ``horizon``, ``lam`` and ``policy_plans``, see ``Planner``.
    """

    def __init__(self, samples: PositiveInt = 512, **options: Any):
        super().__init__(**options)
        self.samples = at_least(samples, self.policy_plans + 1, "samples")


class Shooting(Drawing):
    """Uniformly random plans and the policy's; the first action of the best one is played. Options as ``Drawing``."""

    def search(
        self,
        actions: Layout,
        worth: Worth,
        own: Float[Tensor, "n p h a"],
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None,
        greedy: bool,
    ) -> Plan:
        shape = (len(before), self.samples - self.policy_plans, self.horizon)
        plans = torch.cat([own, actions.random(shape, generator, before.device)], 1)
        return best_of(plans, worth(actions=plans))


class Sampling(Drawing):
    """Rounds of drawing around a mean plan, which moves to the best of each round; classes by their frequencies.

    Args:
        rounds: how often is drawn.
        elites: how many of the best move the mean.
        widest: standard deviation of the first draws, for actions in [-1, 1].
        narrowest: least standard deviation of later ones.
        options: as ``Drawing``.
    """

    def __init__(
        self,
        rounds: PositiveInt = 6,
        elites: PositiveInt = 64,
        widest: float = 2.0,
        narrowest: float = 0.05,
        **options: Any,
    ):
        super().__init__(**options)
        self.rounds, self.elites = at_least(rounds, 1, "rounds"), at_least(elites, 2, "elites")
        self.widest, self.narrowest = widest, narrowest
        at_least(self.samples, elites, "samples")

    @abstractmethod
    def weights(self, values: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """How much each of the best plans counts, from what they promise; they sum to 1."""

    def search(
        self,
        actions: Layout,
        worth: Worth,
        own: Float[Tensor, "n p h a"],
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None,
        greedy: bool,
    ) -> Plan:
        mean, std = before, torch.full_like(before, self.widest)
        rows = torch.arange(len(before), device=before.device)[:, None]
        for _ in range(self.rounds):
            drawn = draw(actions, mean, std, self.samples - self.policy_plans, generator)
            plans = torch.cat([own, drawn], 1)
            values = worth(actions=plans)
            best = values.topk(self.elites, 1)
            elite, weight = plans[rows, best.indices], self.weights(best.values)[:, :, None, None]
            mean = (weight * elite).sum(1)
            std = (weight * (elite - mean[:, None]) ** 2).sum(1).sqrt().clamp(self.narrowest, self.widest)
        if greedy:
            action = actions.one_hot(actions.numbers(mean[:, 0]))
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

    def __init__(self, temperature: float = 0.5, **options: Any):
        super().__init__(**options)
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

"""What a plan is worth: the return that the world model predicts for it, and the critic's value at its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.ops.returns import lambda_return
from dreamer_lightning.types import Carried, ClosedUnitInterval, Layout, PositiveInt, UserError

Worth = Callable[..., Tensor]  # see ``Planner.search``


class Plan(NamedTuple):
    """What a planner decided for ``n`` environments.

    Args:
        action: to play now.
        actions: the whole plan, from which the next decision starts.
        candidates: the plans that were compared last.
        values: what each of them promised.
    """

    action: Float[Tensor, "n a"]
    actions: Float[Tensor, "n h a"]
    candidates: Float[Tensor, "n s h a"]
    values: Float[Tensor, "n s"]


class Planner(ABC):
    """Looks ahead from latents and chooses actions.

    Options of all planners:

    Args:
        horizon: steps that a plan looks ahead.
        lam: 1 trusts the model's rewards up to the horizon and the critic behind it; below 1 the critic counts at
            every step (lambda-returns).
        policy_plans: candidates that the policy itself proposes.
    """

    discrete = True  # whether it can plan actions that are classes

    def __init__(self, horizon: PositiveInt = 5, lam: ClosedUnitInterval = 1.0, policy_plans: int = 24):
        at_least(horizon, 1, "horizon")
        if not 0 <= lam <= 1:
            raise UserError(f"planner: lam={lam} is no decay; give 0 to 1")
        self.horizon, self.lam, self.policy_plans = horizon, lam, at_least(policy_plans, 0, "policy_plans")

    @torch.no_grad()
    def __call__(
        self,
        dreamer: Dreamer,
        latent: Carried,
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> Plan:
        """Plan from latents [n, .].

        Args:
            dreamer: model, policy and critic.
            latent: where plans begin.
            before: the plan of the decision before, moved on by a step; zeros where there is none.
            generator: source of all draws.
            greedy: play the best action; else planners that keep several plans draw one of them.
        """
        noise = dreamer.world_model.rssm.noise(len(before), self.horizon, generator=generator)
        worth = partial(foresee, dreamer, latent, noise=noise, lam=self.lam)
        own = self.propose(dreamer, latent, generator)
        return self.search(dreamer.specs.actions, worth, own, before, generator, greedy)

    @abstractmethod
    def search(
        self,
        actions: Layout,
        worth: Worth,
        own: Float[Tensor, "n p h a"],
        before: Float[Tensor, "n h a"],
        generator: torch.Generator | None,
        greedy: bool,
    ) -> Plan:
        """Look for the best plan.

        Args:
            actions: layout of the flat actions.
            worth: values [n, s] of plans [n, s, h, a]; ``climb=True`` gives gradients to the plans.
            own: plans that the policy proposes.
            before: as for ``__call__``, as ``generator`` and ``greedy`` are.
        """

    def check(self, dreamer: Dreamer) -> None:
        """Whether it can plan for this agent.

        Raises:
            UserError: it cannot; says which planner can.
        """
        classes = [name for name, space in dreamer.specs.action.items() if space.discrete]
        if classes and not self.discrete:
            raise UserError(
                f"--planner: {type(self).__name__} climbs along numbers, the action {classes[0]!r} is a class; "
                "take cem, mppi or shooting"
            )

    def propose(self, dreamer: Dreamer, latent: Carried, generator: torch.Generator | None) -> Float[Tensor, "n p h a"]:
        """Plans that the policy plays in dreams from latents [n, .]."""
        n, count, rssm = len(latent[0]), self.policy_plans, dreamer.world_model.rssm
        if not count:
            return torch.zeros(n, 0, self.horizon, dreamer.specs.action_dim, device=dreamer.device)
        start = latent.map(lambda x: x.repeat_interleave(count, 0))
        noise = rssm.noise(n * count, self.horizon, generator=generator)
        policy = lambda feat, step: dreamer.choose(feat, generator, False)  # noqa: E731
        _, action = dreamer.world_model.imagine(start, policy, noise)
        return dreamer.specs.actions.clip(action[:, :-1].float()).view(n, count, self.horizon, -1)


def foresee(
    dreamer: Dreamer,
    latent: Carried,
    actions: Float[Tensor, "n s h a"],
    noise: Tensor,
    lam: float = 1.0,
    climb: bool = False,
) -> Float[Tensor, "n s"]:
    """What plans are worth, by ``lambda_return`` of a dream under their actions, with the critic at its end::

        R = r_1 + live_1 (r_2 + live_2 (... + live_h V(s_h)))        for lam = 1

    Args:
        dreamer: model and critic.
        latent: where the plans begin, [n, .].
        actions: ``s`` plans for each of ``n`` latents.
        noise: draws for the latents [n, h, .], the same for all plans from one latent: luck favours none.
        lam: see ``Planner``.
        climb: give gradients to ``actions``, along the dream.
    """
    (n, s, h, _), pad = actions.shape, torch.nn.functional.pad
    model, agent = dreamer.world_model, dreamer.actor_critic
    start, flat = latent.map(lambda x: x.repeat_interleave(s, 0)), actions.flatten(0, 1)
    with torch.no_grad():
        dream = model.rssm.unroll(start, flat.detach(), noise.repeat_interleave(s, 0))
    if climb:
        dream = model.retrace(dream, pad(flat, (0, 0, 0, 1)))  # the last state's action leads nowhere
    feat = dream.feat[:, 1:]
    reward, cont = model.predict(feat)
    judged = feat[:, -1:] if lam == 1 else feat  # between, the critic counts for nothing where lam is 1
    offset, scale = agent.value_norm.stats() if hasattr(agent, "value_norm") else (0.0, 1.0)
    value = agent.value(judged).pred() * scale + offset
    live, value = pad(cont * agent.dream_discount, (1, 0)), pad(value, (1 + h - value.shape[1], 0))
    return lambda_return(pad(reward, (1, 0)), live, value, lam)[:, 0].view(n, s)


def at_least(value: int, least: int, name: str) -> int:
    """The number itself.

    Raises:
        UserError: it is too small.
    """
    if value < least:
        raise UserError(f"planner: {name}={value} is too few; give {least} or more")
    return value


def best_of(plans: Float[Tensor, "n s h a"], values: Float[Tensor, "n s"]) -> Plan:
    """The plan that promises most, for each environment."""
    best = plans[torch.arange(len(plans), device=plans.device), values.argmax(1)]
    return Plan(best[:, 0], best, plans, values)


def moved_on(plan: Float[Tensor, "n h a"], is_first: Bool[Tensor, " n"]) -> Float[Tensor, "n h a"]:
    """What is left of a plan one step later: nothing where an episode begins, no opinion on the step that is new."""
    return torch.nn.functional.pad(plan[:, 1:], (0, 0, 0, 1)) * ~is_first[:, None, None]

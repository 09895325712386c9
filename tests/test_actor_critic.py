"""DreamerV3's actor and critic at the level of their equations, with numbers by hand; and what classes may swap."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import tiny
from dreamer_lightning.actor_critic import ActorCritic, Dream, follow
from dreamer_lightning.nets.entropy import ConstantWeight, EntropyWeight
from dreamer_lightning.nets.gradients import ActorGradient, Mix, Pathwise, ScoreFunction
from dreamer_lightning.nets.normalizers import Normalizer
from dreamer_lightning.nets.outputs import Normal
from dreamer_lightning.types import Discount, Space, Specs, UserError

LOG = 0.9189385  # ln sqrt(2 pi): the constant of a unit normal


class Pick(nn.Module):
    """A critic that reads its value from one entry of ``feat``."""

    def __init__(self, entry: int):
        super().__init__()
        self.entry = entry

    def forward(self, feat: Tensor) -> Normal:
        return Normal(feat[..., self.entry], 1.0, 0)


def agent(**options) -> ActorCritic:
    """Two features: the critic's value and the slow critic's; gamma 0.5, lambda 0.5, nothing normalised."""
    torch.manual_seed(0)
    given = {"discount": Discount(2.0, False), "lam": 0.5, "actent": 0.0, "return_norm": Normalizer, "imag_length": 2}
    made = ActorCritic(tiny.SPECS, 2, value=lambda size: Pick(0), **{**given, **options})
    made.slow_critic = Pick(1)
    return made


def dream(action: Tensor | None = None) -> Dream:
    """Values 1, 2, 3 of the critic and 2, 2, 2 of the slow one; rewards 0, 1, 2; it goes on for sure, then by half."""
    feat = torch.tensor([[[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]])
    action = torch.zeros(1, 3, 2) if action is None else action
    return Dream(feat, action, torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 1.0, 0.5]]))


def close(got: Tensor, want: list[float]) -> None:
    torch.testing.assert_close(got.detach(), torch.tensor([want]), atol=1e-5, rtol=1e-5)


# R_1 = 2 + 0.25 3 = 2.75, R_0 = 1 + 0.5 (0.5 2 + 0.5 2.75) = 2.1875.


def test_returns_and_the_critics_loss():
    losses, metrics, ret = agent(slowreg=0.0).dream_losses(dream())
    close(ret, [2.1875, 2.75])
    weight = metrics["weight"]
    both = [0.5 * (1.0 - 2.1875) ** 2 + LOG, 0.5 * (2.0 - 2.75) ** 2 + LOG]
    ratio = losses["value"] / torch.tensor([both])
    torch.testing.assert_close(ratio.mean(), weight)


def test_slowreg_pulls_towards_the_slow_critic():
    without, with_pull = (agent(slowreg=scale).dream_losses(dream())[0]["value"] for scale in (0.0, 2.0))
    pull = torch.tensor([[0.5 * (1.0 - 2.0) ** 2 + LOG, 0.5 * 0.0 + LOG]])
    weight = without / torch.tensor([[0.5 * (1.0 - 2.1875) ** 2 + LOG, 0.5 * (2.0 - 2.75) ** 2 + LOG]])
    torch.testing.assert_close(with_pull - without, 2.0 * weight * pull)


def test_slowtar_bootstraps_from_the_slow_critic():
    """R_1 = 2 + 0.25 2 = 2.5, R_0 = 1 + 0.5 (0.5 2 + 0.5 2.5) = 2.125."""
    close(agent(slowtar=True).dream_losses(dream())[2], [2.125, 2.5])


@pytest.mark.parametrize("gradient", [ScoreFunction, Pathwise, partial(Mix, 0.25)])
def test_what_each_gradient_climbs(gradient):
    made, action = agent(gradient=gradient), torch.rand(1, 3, 2) - 0.5
    given = dream(action)
    logp = made.policy(given.feat[:, :-1]).log_prob(action[:, :-1])
    ret, adv = torch.tensor([[2.1875, 2.75]]), torch.tensor([[2.1875 - 1.0, 2.75 - 2.0]])
    share = {ScoreFunction: 1.0, Pathwise: 0.0}.get(gradient, 0.25)
    losses, _, _ = made.dream_losses(given)
    weight = losses["policy"] / -(share * logp * adv + (1 - share) * ret)
    value = agent(slowreg=0.0).dream_losses(given)[0]["value"]
    torch.testing.assert_close(
        weight, value / torch.tensor([[0.5 * (1.0 - 2.1875) ** 2 + LOG, 0.5 * (2.0 - 2.75) ** 2 + LOG]])
    )
    assert made.gradient.needs_gradient == (gradient is not ScoreFunction)


class Twice(ActorGradient):
    """A user's own: the score function, doubled."""

    needs_gradient = False

    def forward(self, policy, action, ret, adv):
        return 2 * policy.log_prob(action) * adv


class Counted(EntropyWeight):
    """A user's own: grows by its first value at each update, and notes what it was told."""

    def __init__(self, actent: float):
        super().__init__(actent)
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, entropy, update=True):
        assert 0 <= entropy <= 1
        self.weight += self.actent
        return self.weight.clone()


def test_a_policy_without_a_choice_has_no_share_of_entropy():
    lone, some = (Specs(tiny.SPECS.obs, {"action": Space((), "int32", classes=n)}) for n in (1, 4))
    assert tiny.agent(lone).actor_critic.entropy_norm(torch.zeros(3)) is None
    assert tiny.agent(some).actor_critic.entropy_norm(torch.zeros(3)) == 0


def test_own_gradient_and_own_entropy_weight():
    action = torch.rand(1, 3, 2) - 0.5
    once, twice = (agent(gradient=kind).dream_losses(dream(action))[0]["policy"] for kind in (ScoreFunction, Twice))
    torch.testing.assert_close(twice, 2 * once)
    grown, made = agent(actent=0.5, entropy_weight=Counted), agent(actent=1.0, entropy_weight=ConstantWeight)
    grown.dream_losses(dream())
    torch.testing.assert_close(grown.dream_losses(dream())[0]["policy"], made.dream_losses(dream())[0]["policy"])
    assert grown.state_dict()["entropy_weight.weight"] == 1.0


def test_what_holds_in_dreams_holds_on_replay_unless_told():
    made = agent(lam=0.7, slowreg=0.2)
    assert (made.replay_lam, made.replay_slowreg) == (0.7, 0.2)
    made = agent(replay_lam=0.1, replay_slowreg=0.0)
    assert (made.replay_lam, made.replay_slowreg) == (0.1, 0.0)


def test_a_slow_copy_follows():
    slow, fast = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(slow.weight)
    nn.init.ones_(fast.weight)
    seen = []
    for update in range(4):
        follow(slow, fast, 0.5, 2, torch.tensor(update))
        seen.append(slow.weight.item())
    assert seen == [0.5, 0.5, 0.75, 0.75]
    follow(slow, fast, 0.5, 1, torch.tensor(4))
    assert slow.weight.item() == 0.875


def test_a_horizon_below_one_step_is_refused():
    with pytest.raises(UserError, match="--discount.horizon: 0 is too small"):
        Discount(0)
    assert Discount(100.0).gamma == pytest.approx(0.99)

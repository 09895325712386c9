"""How actor and critic learn in V1, V2 and V3-2023: returns, alignment and weights by hand; which loss reaches what."""

from functools import partial

import pytest
import torch
from torch import nn

import tiny
from dreamer_lightning.actor_critic import AbstractActorCritic, Dream
from dreamer_lightning.dreamer import Dreamer, by_module
from dreamer_lightning.nets.gradients import Mix, Pathwise, ScoreFunction
from dreamer_lightning.nets.gru import GRURSSM, LearnedStartRSSM, PlainGRU
from dreamer_lightning.nets.heads import (
    EndlessHead,
    MSEHead,
    PolicyHead,
    SymlogTwoHotHead,
    TanhMSEHead,
    TanhPolicyHead,
    TruncatedPolicyHead,
)
from dreamer_lightning.nets.latents import Categorical, Gaussian
from dreamer_lightning.nets.outputs import Normal, SymlogTwoHot, TanhTarget
from dreamer_lightning.types import Discount, Latent, UserError
from dreamer_lightning.versions import ActorCritic2023, ActorCriticV1, ActorCriticV2

LOG = 0.9189385  # ln sqrt(2 pi): the constant of a unit normal
KINDS = {"v1": ActorCriticV1, "v2": ActorCriticV2, "2023": ActorCritic2023}
HEADS = {"v1": TanhPolicyHead, "v2": TruncatedPolicyHead, "2023": PolicyHead}


class Pick(nn.Module):
    """A critic that reads its value from one entry of ``feat``."""

    def __init__(self, entry: int):
        super().__init__()
        self.entry = entry

    def forward(self, feat):
        return Normal(feat[..., self.entry], 1.0, 0)


def agent(kind: str, **options) -> AbstractActorCritic:
    """Two features: the critic's value and the slow critic's; gamma 0.5, lambda 0.5."""
    torch.manual_seed(0)
    options = {"imag_length": 3, "discount": Discount(2.0, False), "lam": 0.5, **options}
    if kind != "v1":
        options = {"gradient": Pathwise, "actent": 0.0, **options}
    head = partial(HEADS[kind], units=8, layers=1)
    made = KINDS[kind](tiny.SPECS, 2, policy=head, value=lambda size: Pick(0), **options)
    made.slow_critic = Pick(1)
    return made


def dream(value, slow, reward, cont=(1.0, 1.0, 1.0, 1.0), action=None) -> Dream:
    feat = torch.tensor([[*zip(value, slow, strict=True)]]).requires_grad_()
    action = torch.zeros(1, 4, 2) if action is None else action
    return Dream(feat, action, torch.tensor([reward]), torch.tensor([cont]))


def close(got, want):
    torch.testing.assert_close(got.detach(), torch.tensor([want]), atol=1e-5, rtol=1e-5)


# V1: states 1 to 3, R_3 = v_3 = 2, R_2 = 2 + 0.5 (0.5 2 + 0.5 2) = 3, R_1 = 1 + 0.5 (0.5 1 + 0.5 3) = 2.


def test_v1_returns_weights_and_losses():
    losses, _, ret = agent("v1").dream_losses(dream([9.0, 0.5, 1.0, 2.0], [7.0] * 4, [9.0, 1.0, 2.0, 3.0]))
    close(ret, [2.0, 3.0])
    close(losses["policy"], [-2.0, -0.5 * 3.0])
    close(losses["value"], [0.5 * 1.5**2 + LOG, 0.5 * (0.5 * 2.0**2 + LOG)])


def test_v1_continues_discount_returns_and_weights():
    """cont 0.5 at state 1: live 0.25, R_1 = 1 + 0.25 (0.5 1 + 0.5 3) = 1.5, and the weight of state 2 is 0.25."""
    cont = [1.0, 0.5, 1.0, 1.0]
    losses, _, ret = agent("v1").dream_losses(dream([9.0, 0.5, 1.0, 2.0], [7.0] * 4, [9.0, 1.0, 2.0, 3.0], cont))
    close(ret, [1.5, 3.0])
    close(losses["policy"], [-1.5, -0.25 * 3.0])


def test_v1_dreams_nothing_after_a_terminal_state():
    losses, _, _ = agent("v1").dream_losses(dream([1.0] * 4, [1.0] * 4, [1.0] * 4, [0.0, 1.0, 1.0, 1.0]))
    assert losses["policy"].tolist() == losses["value"].tolist() == [[0.0, 0.0]]


def test_v1_actor_climbs_rewards_and_values_of_the_states_it_reaches():
    """dR_1/dv_2 = 0.5 0.5, dR_1/dv_3 = (0.5 0.5) 0.5 (0.5 + 0.5), dR_2/dv_3 = 0.5 with weight 0.5: 0.25 and 0.375."""
    made = dream([9.0, 0.5, 1.0, 2.0], [7.0] * 4, [9.0, 1.0, 2.0, 3.0])
    losses, _, _ = agent("v1").dream_losses(made)
    losses["policy"].sum().backward()
    close(made.feat.grad[..., 0], [0.0, 0.0, -0.25, -0.375])


def test_v1_learns_by_dynamics_alone_and_copies_no_critic():
    with pytest.raises(TypeError, match="gradient"):
        agent("v1", gradient=ScoreFunction)
    made = ActorCriticV1(tiny.SPECS, 4, value=partial(MSEHead, units=4))
    assert made.gradient.needs_gradient
    assert not hasattr(made, "slow_critic")
    made.update_slow_critic()
    assert made.updates == 1


# V2: target values 0.5, 1, 2, 3: R_3 = 3, R_2 = 3 + 0.5 3 = 4.5, R_1 = 2 + 0.5 (0.5 2 + 0.5 4.5) = 3.625,
# R_0 = 1 + 0.5 (0.5 1 + 0.5 3.625) = 2.15625.
V2 = ([4.0, 5.0, 6.0, 7.0], [0.5, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])


def test_v2_returns_weights_and_losses():
    losses, _, ret = agent("v2", slowtar=True).dream_losses(dream(*V2))
    close(ret, [2.15625, 3.625, 4.5])
    close(losses["policy"], [-3.625, -0.5 * 4.5])
    errors = [4.0 - 2.15625, 5.0 - 3.625, 6.0 - 4.5]
    close(losses["value"], [w * (0.5 * e**2 + LOG) for w, e in zip([1.0, 0.5, 0.25], errors, strict=True)])


def test_v2_without_a_target_critic():
    """R_2 = 3 + 0.5 7 = 6.5, R_1 = 2 + 0.5 (3 + 3.25) = 5.125, R_0 = 1 + 0.5 (2.5 + 2.5625) = 3.53125."""
    close(agent("v2").dream_losses(dream(*V2))[2], [3.53125, 5.125, 6.5])


def test_v2_score_function_sees_the_action_before_the_target_and_the_value_of_its_state():
    """Advantages R_1 - v_0 = 3.125 and R_2 - v_1 = 3.5, of the actions at states 0 and 1, with weights 1 and 0.5."""
    made, action = agent("v2", slowtar=True, gradient=ScoreFunction), torch.rand(1, 4, 2) - 0.5
    given = dream(*V2, action=action)
    logp = made.policy(given.feat.detach()[:, :2]).log_prob(action[:, :2])
    losses, _, _ = made.dream_losses(given)
    torch.testing.assert_close(losses["policy"], -torch.tensor([[3.125, 0.5 * 3.5]]) * logp)


def test_v2_mixes_both():
    made, action = agent("v2", slowtar=True, gradient=partial(Mix, 0.75)), torch.rand(1, 4, 2) - 0.5
    given = dream(*V2, action=action)
    logp = made.policy(given.feat.detach()[:, :2]).log_prob(action[:, :2])
    gain = 0.25 * torch.tensor([[3.625, 4.5]]) + 0.75 * torch.tensor([[3.125, 3.5]]) * logp
    losses, _, _ = made.dream_losses(given)
    torch.testing.assert_close(losses["policy"], -torch.tensor([[1.0, 0.5]]) * gain)


def test_v2_entropy_is_of_the_trained_states():
    made = agent("v2", slowtar=True, actent=0.5)
    given = dream(*V2)
    entropy = made.policy(given.feat.detach()[:, :2]).entropy()
    losses, _, _ = made.dream_losses(given)
    torch.testing.assert_close(
        losses["policy"], -torch.tensor([[1.0, 0.5]]) * (torch.tensor([[3.625, 4.5]]) + 0.5 * entropy)
    )


def test_v2_copies_the_critic_at_the_first_update_and_every_100th():
    made = ActorCriticV2(tiny.SPECS, 4, value=partial(MSEHead, units=4), slow_rate=1.0, slow_every=100)
    fast, slow = (next(m.parameters()) for m in (made.value, made.slow_critic))
    copied = []
    for update in range(202):
        fast.data += 1
        made.update_slow_critic()
        copied += [update] if torch.equal(slow, fast) else []
    assert copied == [0, 100, 200]


def test_2023_returns_are_v3s_and_the_baseline_moves_with_the_actor():
    """R_2 = 4 + 0.5 7 = 7.5, R_1 = 3 + 0.5 (3 + 3.75) = 6.375, R_0 = 2 + 0.5 (2.5 + 3.1875) = 4.84375; S is 1 at first.
    Slopes of sum w_j (R_j - v_j): v_1 0.25 - 0.5, v_2 0.0625 + 0.125 - 0.25, v_3 0.03125 + 0.0625 + 0.125."""
    made, given = agent("2023"), dream(*V2)
    losses, _, ret = made.dream_losses(given)
    close(ret, [4.84375, 6.375, 7.5])
    close(losses["policy"], [-(4.84375 - 4.0), -0.5 * (6.375 - 5.0), -0.25 * (7.5 - 6.0)])
    losses["policy"].sum().backward()
    close(given.feat.grad[..., 0], [1.0, 0.25, 0.0625, -0.21875])


@pytest.mark.parametrize(("kind", "contdisc", "want"), [("v2", True, 0.5), ("v2", False, 1.0), ("2023", False, 1.0)])
def test_the_first_states_continue_is_the_true_one(kind, contdisc, want):
    made = agent(kind, discount=Discount(2.0, contdisc))
    assert made.first_cont(torch.tensor([[False, True]])).tolist() == [[want], [0.0]]


def test_2023_dreams_end_or_they_do_not(unchecked):
    """The dreams that each version learns from, where the continue head says 0.4, 0.6 and 0.99."""
    for kind, want in (("2023", [1.0, 0.0, 1.0, 1.0]), ("v2", [1.0, 0.4, 0.6, 0.99]), ("v1", [1.0, 0.4, 0.6, 0.99])):
        made, seen = agent(kind), []
        made.imagine = lambda *args: dream(*V2, cont=[0.7, 0.4, 0.6, 0.99])
        losses = made.dream_losses
        made.dream_losses = lambda given, seen=seen, losses=losses: seen.append(given) or losses(given)
        records = {"is_terminal": torch.tensor([[False]]), "is_first": torch.tensor([[True]])}
        made(Latent(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)), records, None, (None, None))
        torch.testing.assert_close(seen[0].cont, torch.tensor([want]))


def test_dreams_that_leave_nothing_to_learn_are_refused():
    for kind in ("v1", "v2"):
        with pytest.raises(UserError, match="imag_length=1"):
            agent(kind, imag_length=1)
    agent("2023", imag_length=1)


# Their heads.


def test_two_hot_in_symlog_space_by_hand():
    """Bins 40/254 apart; symlog(1) = 0.693147 lies at 4.401484 of them: 0.598516 of bin 131, 0.401484 of bin 132.
    In V3, between the same bins but linear in raw numbers, it is 0.617329 and 0.382671."""
    bins = torch.linspace(-20, 20, 255)
    logits = torch.randn(255, generator=torch.Generator().manual_seed(0))
    logp = torch.log_softmax(logits, -1)
    loss = SymlogTwoHot(logits, bins).loss(torch.tensor(1.0))
    torch.testing.assert_close(loss, -(0.598516 * logp[131] + 0.401484 * logp[132]), atol=1e-5, rtol=0)
    sure = torch.full((255,), -1e9).index_fill(0, torch.tensor(131), 0.0)
    assert SymlogTwoHot(sure, bins).pred().item() == pytest.approx(0.877463, abs=1e-5)  # exp(4 40/254) - 1
    assert SymlogTwoHotHead(3, units=4)(torch.randn(5, 3)).pred().tolist() == [0.0] * 5


def test_rewards_squashed_by_tanh_by_hand():
    """tanh(2) = 0.964028: half its square and the constant."""
    assert TanhTarget(torch.zeros(()), 1.0, 0).loss(torch.tensor(2.0)).item() == pytest.approx(0.464675 + LOG, abs=1e-5)
    assert TanhMSEHead(3, units=4)(torch.zeros(2, 3)).pred().tolist() == [0.0, 0.0]


def test_a_head_that_says_that_life_goes_on():
    said = EndlessHead(3)(torch.randn(2, 5, 3))
    assert torch.equal(said.pred(), torch.ones(2, 5))
    assert torch.equal(said.loss(torch.zeros(2, 5)), torch.zeros(2, 5))


# Whole agents.

RSSMS = {
    "v1": partial(GRURSSM, deter=16, hidden=8, cell=PlainGRU, latents=partial(Gaussian, 5), free_nats=0.0),
    "v2": partial(GRURSSM, deter=16, hidden=8, latents=partial(Categorical, 3, 4), free_nats=0.0),
    "2023": partial(LearnedStartRSSM, deter=16, hidden=8, norm="layer", latents=partial(Categorical, 3, 4, 0.01)),
}


def whole(kind: str, specs=tiny.SPECS, **options) -> Dreamer:
    torch.manual_seed(0)
    world = tiny.model(specs, rssm=RSSMS[kind], discount=Discount(contdisc=False))
    policy, value = partial(HEADS[kind], units=12, outscale=1.0), partial(MSEHead, units=12, layers=2)
    options = {"imag_length": 4, "discount": Discount(contdisc=False), **options}
    if kind != "v1":
        options = {"gradient": Pathwise, **options}
    return Dreamer(world, KINDS[kind](specs, world.feat_dim, policy=policy, value=value, **options))


@pytest.mark.parametrize("specs", [tiny.SPECS, tiny.DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("kind", KINDS)
def test_which_loss_reaches_which_module(kind, specs):
    for name, modules in {"policy": {"policy"}, "value": {"value"}}.items():
        dreamer = whole(kind, specs)
        dreamer(tiny.batch(dreamer), torch.Generator().manual_seed(1)).losses[name].sum().backward()
        touched = {
            module
            for module, parameters in by_module(dreamer).items()
            if any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters())
        }
        assert touched == modules


@pytest.mark.parametrize("gradient", [ScoreFunction, Mix])
@pytest.mark.parametrize("kind", ["v2", "2023"])
def test_other_gradients_reach_the_policy_alone(kind, gradient):
    dreamer = whole(kind, gradient=gradient)
    output = dreamer(tiny.batch(dreamer), torch.Generator().manual_seed(1))
    assert "repval" not in output.losses
    output.losses["policy"].sum().backward()
    assert all(p.grad is None for p in dreamer.world_model.parameters())
    assert any(p.grad.abs().sum() > 0 for p in dreamer.actor_critic.policy.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_runs(kind):
    dreamer = whole(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = dreamer(tiny.batch(dreamer), torch.Generator().manual_seed(1))
    output.loss.backward()
    exact = whole(kind)
    want = exact(tiny.batch(exact), torch.Generator().manual_seed(1))
    assert output.loss.item() == pytest.approx(want.loss.item(), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in dreamer.parameters() if p.grad is not None)

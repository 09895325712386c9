"""Outputs against the reference's arrays, hand numbers, and the laws of probability."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreamer_lightning.nets.actions import BoundedNormal, OneHot, PolicyOutput, TanhNormal, TruncatedNormal
from dreamer_lightning.nets.outputs import (
    Binary,
    Categorical,
    ImageMSE,
    ImageNormal,
    Normal,
    SymlogMSE,
    TwoHot,
)
from dreamer_lightning.ops.scalars import symexp_bins, symlog, twohot_encode
from dreamer_lightning.types import Layout, Space
from golden import assert_close, assert_grad, golden


@pytest.mark.parametrize("name", ["twohot", "twohot_small", "twohot_even"])
def test_twohot_has_the_reference_numbers_and_gradients(name):
    want = golden("heads").at(name)
    logits, target, cot = want.tensor("logits").requires_grad_(), want.tensor("target"), want.tensor("dloss")
    output = TwoHot(logits, symexp_bins(logits.shape[-1]))
    unit = (torch.softmax(logits.detach(), -1) * output.bins).abs().sum(-1)
    assert ((output.pred().detach() - want.tensor("pred")).abs() <= 1e-6 * unit).all()
    assert not output.pred()[8:11].any()  # symmetric logits: exactly 0
    loss = output.loss(target)
    assert_close(loss, want["loss"])
    assert_close(TwoHot(logits[:1].expand_as(logits), output.bins).loss(target), want["loss_row0"])
    assert_grad(torch.autograd.grad((loss * cot).sum(), logits)[0], want["grad_loss"])
    (grad,) = torch.autograd.grad((output.pred() * cot)[:8].sum(), logits)
    assert_grad(grad[:8], want["grad_pred8"])


def test_twohot_loss_is_the_cross_entropy_with_the_dense_code():
    logits, target = torch.randn(50, 255, dtype=torch.float64), torch.randn(50, dtype=torch.float64) * 100
    bins = symexp_bins(255).double()
    index, weight = twohot_encode(target, bins)
    dense = torch.zeros(50, 255, dtype=torch.float64).scatter_add(1, index, weight)
    torch.testing.assert_close(TwoHot(logits, bins).loss(target), -(dense * F.log_softmax(logits, -1)).sum(-1))


def test_a_head_of_zeros_predicts_zero_at_a_loss_of_ln_255():
    output = TwoHot(torch.zeros(3, 255), symexp_bins(255))
    assert not output.pred().any()
    np.testing.assert_allclose(output.loss(torch.tensor([0.0, -7.0, 1e5])), 5.541264, rtol=1e-6)


def test_a_nan_target_gives_a_nan_loss():
    assert TwoHot(torch.zeros(1, 255), symexp_bins(255)).loss(torch.tensor([math.nan])).isnan().all()


def test_binary():
    want = golden("heads").at("binary")
    logit = want.tensor("logit").requires_grad_()
    loss = Binary(logit).loss(want.tensor("target"))
    assert_close(loss, want["loss"])
    assert_close(Binary(logit).pred(), want["prob1"])
    (loss * want.tensor("dloss")).sum().backward()
    assert_grad(logit.grad, want["grad"])


def test_the_soft_continue_target_leaves_a_floor():
    target = torch.tensor(1 - 1 / 333, dtype=torch.float64)
    assert Binary(torch.logit(target)).loss(target).item() == pytest.approx(0.020440359)


def test_squared_errors():
    want = golden("heads").at("symlog_mse")
    mean, target = want.tensor("mean"), want.tensor("target")
    assert_close(SymlogMSE(mean, 1).loss(target), want["loss"])
    assert_close(SymlogMSE(mean, 1).mean, want["pred"])  # the reference predicts in symlog space
    torch.testing.assert_close(
        symlog(SymlogMSE(mean, 1).pred()), mean, rtol=1e-5, atol=1e-5
    )  # we, in the target's units


def test_normal():
    want = golden("heads").at("normal")
    dist = Normal(want.tensor("mean"), want.tensor("std"))
    assert_close(dist.log_prob(want.tensor("event")), want["logp"])
    assert_close(dist.entropy(), want["entropy"])
    assert_close(Normal(torch.zeros(2, 3)).entropy(), np.full(2, 3 * 1.418939))


def test_bounded_normal():
    want = golden("heads").at("bounded_normal")
    dist = BoundedNormal(want.tensor("raw"), want.tensor("raw"), 0)
    assert_close(dist.mean, want["mean"])
    assert_close(dist.std, want["std"])


def test_a_fresh_policy_by_hand():
    dist = BoundedNormal(torch.zeros(2), torch.zeros(2))
    assert dist.std[0].item() == pytest.approx(0.892717370, rel=1e-6)
    assert dist.entropy().item() / 2 == pytest.approx(1.305453, rel=1e-6)


@pytest.mark.parametrize("unimix", [0.0, 0.01, 0.1])
def test_categorical_and_onehot(unimix):
    want = golden("heads").at("categorical")
    logits, event = want.tensor("logits").requires_grad_(), want.tensor("event")
    want = want.at(f"unimix{unimix}")
    dist, onehot = Categorical(logits, unimix), OneHot(logits, unimix)
    assert_close(dist.log_prob(event), want["logp"])
    assert_close(onehot.log_prob(F.one_hot(event.long(), 5).float()), want["onehot_logp"])
    assert_close(dist.entropy(), want["entropy"])
    assert_close(onehot.entropy(), want["entropy"])
    assert_close(dist.logp.exp(), want["probs"])
    assert_grad(torch.autograd.grad(dist.log_prob(event).sum(), logits, retain_graph=True)[0], want["grad_logp"])
    assert_grad(torch.autograd.grad(dist.entropy().sum(), logits)[0], want["grad_entropy"])


def test_onehot_samples_straight_through():
    logits = torch.randn(4, 3, 5, dtype=torch.float64).requires_grad_()
    weight, noise = torch.randn(4, 3, 5, dtype=torch.float64), -torch.empty(4, 3, 5).exponential_().log()
    draw = OneHot(logits.float(), event_dims=1).sample(noise)
    assert set(draw.unique().tolist()) == {0.0, 1.0}
    assert draw.sum(-1).eq(1).all()
    (grad,) = torch.autograd.grad((draw * weight).sum(), logits)
    probs = torch.softmax(logits.detach(), -1)
    assert_grad(grad, probs * (weight - (probs * weight).sum(-1, keepdim=True)))


def test_gumbel_draws_follow_the_probabilities():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0])
    draws = OneHot(logits.expand(200_000, 3)).sample(-torch.empty(200_000, 3).exponential_().log())
    torch.testing.assert_close(draws.mean(0), torch.softmax(logits, 0), atol=5e-3, rtol=0)


@pytest.mark.parametrize("make", [TanhNormal, TruncatedNormal])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.7, -4.0), (-2.0, 1.0)])
def test_bounded_densities_integrate_to_one_and_match_their_samples(make, mean, std):
    torch.manual_seed(0)
    raw = (torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
    dist = make(*raw, 0)
    if make is TanhNormal:  # integrate where the normal lives
        x = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
        points, slope = torch.tanh(x), 1 / torch.cosh(x) ** 2
        logp = dist.base_log_prob(x)
    else:
        x = points = torch.linspace(-1, 1, 400_001, dtype=torch.float64)
        logp, slope = dist.log_prob(x), torch.ones_like(x)
    density = logp.exp() * slope
    assert torch.trapezoid(density, x).item() == pytest.approx(1, rel=1e-4)
    draws = dist.sample(torch.randn(100_000, dtype=torch.float64))
    assert draws.abs().max() <= 1
    assert draws.mean().item() == pytest.approx(torch.trapezoid(points * density, x).item(), abs=0.01)
    if make is TruncatedNormal:
        assert dist.entropy().item() == pytest.approx(-torch.trapezoid(logp * density, x).item(), abs=1e-4)
    else:
        torch.testing.assert_close(dist.base_log_prob(x[199_000:201_000]), dist.log_prob(points[199_000:201_000]))


def test_the_older_policies_by_hand():
    tanh = TanhNormal(torch.zeros(1), torch.zeros(1))
    assert tanh.normal.std.item() == pytest.approx(5.0001, rel=1e-6)
    truncated = TruncatedNormal(torch.tensor([0.5]), torch.zeros(1))
    assert truncated.std.item() == pytest.approx(1.1)
    assert truncated.pred().item() == pytest.approx(math.tanh(0.5))


def test_tanh_normal_prefers_its_mode():
    narrow = TanhNormal(torch.tensor([1.0, -1.0], dtype=torch.float64), torch.full((2,), -7.0, dtype=torch.float64))
    torch.testing.assert_close(
        narrow.pred(), torch.tanh(5 * torch.tanh(torch.tensor([0.2, -0.2]))).double(), atol=0.05, rtol=0
    )


@pytest.mark.parametrize("make", [BoundedNormal, TanhNormal, TruncatedNormal])
def test_samples_carry_gradients_to_mean_and_std(make):
    mean, std = torch.zeros(6, requires_grad=True), torch.zeros(6, requires_grad=True)
    make(mean, std).sample(torch.linspace(-1, 1.2, 6)).sum().backward()
    assert mean.grad.ne(0).all()
    assert std.grad.ne(0).all()


def test_images():
    logits, target = torch.randn(2, 3, 4, 4, 3), torch.randint(0, 256, (2, 3, 4, 4, 3), dtype=torch.uint8)
    want = (torch.sigmoid(logits) - target.float() / 255).square().sum((-3, -2, -1))
    torch.testing.assert_close(ImageMSE(logits).loss(target), want)
    unit = ImageNormal(logits)
    want = 0.5 * (logits - (target / 255 - 0.5)).square() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(unit.loss(target), want.sum((-3, -2, -1)))
    for output in (unit, ImageMSE(logits)):
        assert output.pred().min() >= 0
        assert output.pred().max() <= 1


def test_missing_entries_cost_nothing():
    mean = torch.zeros(2, 3, requires_grad=True)
    loss = SymlogMSE(mean, 1).loss(torch.tensor([[1.0, -math.inf, 1.0], [-math.inf] * 3]))
    torch.testing.assert_close(loss.detach(), torch.tensor([2 * math.log(2) ** 2, 0.0]))
    loss.sum().backward()
    assert mean.grad.isfinite().all()
    loss = Categorical(torch.zeros(2, 3, 4), event_dims=1).loss(torch.tensor([[0, -1, 3], [-1, -1, -1]]))
    torch.testing.assert_close(loss, torch.tensor([2 * math.log(4), 0.0]))


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (lambda x: TwoHot(x, symexp_bins(3)), torch.rand(5)),
        (lambda x: Binary(x[..., 0]), torch.rand(5)),
        (lambda x: SymlogMSE(x, 1), torch.rand(5, 3)),
        (lambda x: Normal(x), torch.rand(5, 3)),
        (lambda x: Categorical(x), torch.zeros(5, dtype=torch.int32)),
        (lambda x: OneHot(x), torch.eye(3)[[0, 1, 2, 0, 1]]),
        (lambda x: BoundedNormal(x, x), torch.rand(5, 3)),
    ],
)
def test_everything_is_float32_and_targets_take_no_gradient(make, target):
    raw = torch.randn(5, 3, dtype=torch.bfloat16)
    if target.is_floating_point():
        target.requires_grad_()
    loss = make(raw.requires_grad_()).loss(target)
    assert loss.dtype == torch.float32
    assert loss.shape == (5,)
    loss.sum().backward()
    assert target.grad is None


def test_policy_output_joins_and_splits_in_sorted_order():
    spaces = Layout({"arm": Space((2,)), "grip": Space((), "int32", 3), "pair": Space((2,), "int32", 2)})
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    output = PolicyOutput(
        {
            "arm": Normal(torch.tensor([0.1, 0.2]), 0.5),
            "grip": OneHot(torch.tensor([0.0, 0.0, 5.0])),
            "pair": OneHot(logits, event_dims=1),
        },
        spaces,
    )
    torch.testing.assert_close(output.pred(), torch.tensor([0.1, 0.2, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]))
    assert spaces.split(output.pred())["pair"].shape == (2, 2)
    torch.testing.assert_close(spaces.join(spaces.split(output.pred())), output.pred())
    logps = [output.by_key[name].log_prob(part) for name, part in spaces.split(output.pred()).items()]
    torch.testing.assert_close(output.log_prob(output.pred()), sum(logps))

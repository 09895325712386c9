"""Kinds of latents and where free nats apply, by hand-computed numbers; any recurrence with any of them."""

from functools import partial

import pytest
import torch

from dreamer_lightning import kernels
from dreamer_lightning.nets.gru import GRURSSM, LayerNormGRU, LearnedStartRSSM, PlainGRU
from dreamer_lightning.nets.latents import Categorical, Gaussian, batch_mean, normal_entropy, normal_kl, per_step
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.types import UserError

KINDS = {"categorical": partial(Categorical, 3, 4), "gaussian": partial(Gaussian, 5)}
CORES = {
    "block": partial(BlockRSSM, deter=16, hidden=8, blocks=2),
    "plain": partial(GRURSSM, deter=16, hidden=8, cell=PlainGRU),
    "norm": partial(GRURSSM, deter=16, hidden=8, cell=LayerNormGRU),
    "learned": partial(LearnedStartRSSM, deter=16, hidden=8, norm="layer"),
}


def both(mean_p, std_p, mean_q, std_q):
    return torch.tensor([mean_p + std_p]), torch.tensor([mean_q + std_q])


def test_gaussian_kl_by_hand():
    """ln 2 + (1 + 1)/8 - 1/2 = 0.443147, and ln(1/2) + (4 + 0)/2 - 1/2 = 0.806853 for the second dimension."""
    p, q = both([1.0, 3.0], [1.0, 2.0], [0.0, 3.0], [2.0, 1.0])
    torch.testing.assert_close(normal_kl(p, q), torch.tensor([0.443147 + 0.806853]), atol=1e-6, rtol=0)
    assert normal_kl(p, p).item() == 0.0


def test_gaussian_entropy_by_hand():
    """ln(2 sqrt(2 pi e)) = 2.112086 and ln(sqrt(2 pi e)) = 1.418939."""
    torch.testing.assert_close(normal_entropy(torch.tensor([[2.0, 1.0]])), torch.tensor([3.531025]))


@pytest.mark.parametrize(
    ("std", "expected"),
    [("softplus", 0.693147 + 0.1), ("sigmoid2", 1.0 + 0.1)],  # of raw 0: ln 2, and 2 sigmoid(0)
)
def test_gaussian_parameters_and_draws(std, expected):
    kind = Gaussian(1, 0.1, std)
    params = kind.params(torch.tensor([[0.5, 0.0]]))
    torch.testing.assert_close(params, torch.tensor([[0.5, expected]]))
    draw = kind.draw(params, torch.tensor([[2.0]]))
    torch.testing.assert_close(draw, torch.tensor([[0.5 + 2 * expected]]))
    torch.testing.assert_close(kind.noise_of(params, draw), torch.tensor([[2.0]]))
    assert torch.equal(kind.mode(params), torch.tensor([[0.5]]))


def test_gaussian_std_must_be_known():
    with pytest.raises(UserError, match=r"rssm\.latents\.std: unknown 'exp'"):
        Gaussian(std="exp")


def test_free_nats_of_each_step_and_of_the_batch_mean():
    """KLs 0, 1, 5: clipped each at 3 they are 3, 3, 5; their mean 2 is below 3, and 2 is above 1."""
    kl = torch.tensor([0.0, 1.0, 5.0], requires_grad=True)
    assert per_step(kl, 3.0).tolist() == [3.0, 3.0, 5.0]
    assert batch_mean(kl, 3.0).tolist() == [3.0, 3.0, 3.0]
    assert batch_mean(kl, 1.0).tolist() == [2.0, 2.0, 2.0]
    (per_step_grad,) = torch.autograd.grad(per_step(kl, 3.0).mean(), kl)
    (mean_grad,) = torch.autograd.grad(batch_mean(kl, 1.0).mean(), kl)
    (clipped_grad,) = torch.autograd.grad(batch_mean(kl, 3.0).mean(), kl)
    torch.testing.assert_close(per_step_grad, torch.tensor([0.0, 0.0, 1 / 3]))
    torch.testing.assert_close(mean_grad, torch.full((3,), 1 / 3))
    assert clipped_grad.tolist() == [0.0, 0.0, 0.0]


def loss_gradients(dyn: float, rep: float, free_nats: float = 0.0):
    """Gradients of ``dyn`` and ``rep`` losses, so weighted, in post and prior means; both have std 1."""
    rssm = GRURSSM(1, 1, deter=4, hidden=4, latents=partial(Gaussian, 1), free_nats=free_nats)
    post, prior = (torch.tensor([[m, 1.0]], requires_grad=True) for m in (3.0, 1.0))
    losses, _ = rssm.loss(post, prior)
    (dyn * losses["dyn"].mean() + rep * losses["rep"].mean()).backward()
    return post.grad[0, 0].item(), prior.grad[0, 0].item(), losses


def test_kl_balancing_splits_the_gradient():
    """KL = (3-1)^2/2 = 2, slope +-2: the prior takes 0.8 of it, the post 0.2 (V2)."""
    post, prior, losses = loss_gradients(0.8, 0.2)
    assert losses["dyn"].item() == losses["rep"].item() == pytest.approx(2.0)
    assert (post, prior) == (pytest.approx(0.4), pytest.approx(-1.6))


def test_without_balance_both_sides_take_all_of_it():
    """V1: scales of 1 and 1 give the gradient of the one KL, or none below its free nats."""
    p, q = (torch.tensor([[m, 1.0]], requires_grad=True) for m in (3.0, 1.0))
    normal_kl(p, q).sum().backward()
    assert loss_gradients(1.0, 1.0)[:2] == (p.grad[0, 0].item(), q.grad[0, 0].item()) == (2.0, -2.0)
    assert loss_gradients(1.0, 1.0, free_nats=3.0)[:2] == (0.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("core", CORES)
def test_any_recurrence_goes_with_any_latents(core, kind):
    """Observe, learn, dream, retrace and store."""
    torch.manual_seed(0)
    rssm, b, t = CORES[core](2, 6, latents=KINDS[kind]), 3, 5
    first = torch.zeros(b, t, dtype=torch.bool)
    first[:, 2] = True
    embed = torch.randn(b, t, 6)
    latent, post = rssm.observe(rssm.initial(b), torch.randn(b, t, 2), embed, first, rssm.noise(b, t))
    losses, metrics = rssm.loss(post, rssm.prior(latent.deter))
    assert losses["dyn"].shape == losses["rep"].shape == (b, t)
    (losses["dyn"].mean() + losses["rep"].mean() + latent.feat.square().mean()).backward()
    assert all(p.grad is not None for p in rssm.parameters())
    assert {key: value.shape for key, value in metrics.items()} == {"prior_entropy": (), "post_entropy": ()}

    packed = rssm.pack(latent)
    torch.testing.assert_close(rssm.unpack(packed).feat, latent.feat.detach(), atol=0, rtol=0)

    action = torch.randn(b, 4, 2).clamp(-1, 1).requires_grad_()
    with torch.no_grad():
        start = latent.map(lambda x: x[:, -1])
        dream, _ = rssm.imagine(start, lambda feat, step: action[:, step], rssm.noise(b, 3))
    rssm.zero_grad()
    again = rssm.retrace(dream, action)
    torch.testing.assert_close(again.feat.detach(), dream.feat, atol=1e-6, rtol=0)
    again.feat.square().sum().backward()
    assert action.grad[:, :-1].abs().sum() > 0
    assert all(p.grad is None for p in rssm.parameters())


def test_block_rssm_with_gaussians_takes_the_slow_way():
    for latents in (Gaussian, None):
        rssm = BlockRSSM(2, 6, deter=16, hidden=8, blocks=2, latents=latents)
        assert ("BlockRSSM" in kernels.accelerate(rssm).twins) == (latents is None)

"""Returns and normalisers against numbers worked out by hand (float64) in the specification."""

import pytest
import torch

from dreamer_lightning.nets.normalizers import MeanStdNorm, PercentileNorm, quantile
from dreamer_lightning.ops.returns import dream_weight, lambda_return

REWARD = torch.tensor([0, 1, 0.5, -1, 2], dtype=torch.double)
HORIZON_333 = 1 - 1 / 333


def test_imagined_return():
    value = torch.tensor([0.3, 0.2, 1, -0.5, 0.7], dtype=torch.double)
    cont = torch.tensor([0.99, 0.98, 0.5, 0.97, 0.9], dtype=torch.double)
    got = lambda_return(REWARD, cont, value, 0.95)
    want = torch.tensor([2.11737823, 1.18966512, 1.399295, 2.63], dtype=torch.double)
    torch.testing.assert_close(got, want, atol=1e-8, rtol=0)
    want = torch.tensor([0.99, 0.9702, 0.4851, 0.470547], dtype=torch.double)
    torch.testing.assert_close(dream_weight(cont, 1.0)[:4], want)


def test_discount_in_the_weight_counts_from_the_first_state():
    cont = torch.ones(4)
    torch.testing.assert_close(dream_weight(cont, 0.9), torch.tensor([1, 0.9, 0.81, 0.729]))


@pytest.mark.parametrize(
    ("terminal", "want"),
    [
        ([0, 0, 1, 0, 0], [1.57327327, 0.5, 5.815208, 6.98498498]),
        ([0, 0, 0, 0, 0], [4.40618186, 3.49099099, 5.815208, 6.98498498]),
    ],
    ids=["termination", "truncation"],
)
def test_replay_return_over_an_episode_border(terminal, want):
    boot = torch.tensor([1, 2, 3, 4, 5], dtype=torch.double)
    last = torch.tensor([0, 0, 1, 0, 0], dtype=torch.double)
    live = (1 - torch.tensor(terminal, dtype=torch.double)) * HORIZON_333
    got = lambda_return(REWARD, live, boot, (1 - last) * 0.95)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.double), atol=1e-7, rtol=0)


def test_one_state_has_no_return():
    one = torch.ones(3, 1)
    assert lambda_return(one, one, one, 0.95).shape == (3, 0)


def test_lambda_one_is_the_discounted_sum_and_lambda_zero_looks_one_step_ahead():
    live, boot = torch.full((5,), 0.9, dtype=torch.double), torch.arange(5, dtype=torch.double)
    whole = lambda_return(REWARD, live, boot, 1.0)[0]
    rewards = [*REWARD[1:].tolist(), boot[-1].item()]
    assert whole == pytest.approx(sum(0.9**j * reward for j, reward in enumerate(rewards)))
    torch.testing.assert_close(lambda_return(REWARD, live, boot, 0.0), REWARD[1:] + 0.9 * boot[1:])


def test_percentile_norm_after_one_update():
    norm = PercentileNorm()
    low, scale = norm(torch.arange(1.0, 101.0))
    assert norm.range.tolist() == pytest.approx([0.0595, 0.9505])
    assert low.item() == pytest.approx(0.0595)
    assert scale.item() == 1.0


def test_percentile_norm_scales_large_returns_and_waits_without_update():
    norm = PercentileNorm(rate=1.0)
    norm(torch.linspace(0, 1000, 1001))
    assert norm.stats()[1].item() == pytest.approx(900)
    norm(torch.zeros(10), update=False)
    assert norm.stats()[1].item() == pytest.approx(900)


def test_debiased_mean_and_deviation_are_those_of_the_batch_at_first():
    norm = MeanStdNorm(rate=0.01)
    x = torch.tensor([1.0, 2.0, 3.0, 6.0])
    mean, std = norm(x)
    assert mean.item() == pytest.approx(3.0, rel=1e-5)
    assert std.item() == pytest.approx(x.std(correction=0).item(), rel=1e-4)


def test_quantile_is_torch_quantile():
    x, q = torch.randn(1001, generator=torch.Generator().manual_seed(0)), torch.tensor([0.05, 0.5, 0.95])
    torch.testing.assert_close(quantile(x, q), torch.quantile(x, q))

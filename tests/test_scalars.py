"""symlog, symexp and the two-hot code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_lightning.ops.scalars import symexp, symexp_bins, symlog, twohot_decode, twohot_encode
from golden import assert_close, golden

BINS = symexp_bins(255)


def test_symlog_and_symexp_have_the_reference_numbers():
    want = golden("nets")
    x = want.tensor("symlog/x").requires_grad_()
    y = symlog(x)
    assert_close(y, want["symlog/y"])
    y.sum().backward()
    assert_close(x.grad, want["symlog/grad"])  # 0 at exactly 0, where JAX says so too
    np.testing.assert_allclose(symexp(want.tensor("symexp/x")), want["symexp/y"], rtol=1e-5)


@settings(deadline=None)
@given(st.floats(-1e8, 1e8))
def test_symexp_undoes_symlog(x):
    got = symexp(symlog(torch.tensor(x, dtype=torch.float64))).item()
    assert got == pytest.approx(x, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("bins", [255, 5, 6, 40])
def test_bins_of_the_reference(bins):
    np.testing.assert_allclose(symexp_bins(bins), golden("heads")[f"twohot_bins/{bins}"], rtol=1e-5)


def test_bins_by_hand():
    assert len(BINS) == 255
    hand = {0: -485165194.4098, 126: -0.170557715, 127: 0, 128: 0.170557715, 129: 0.370205365, 254: 485165194.4098}
    for index, value in hand.items():
        assert BINS[index].item() == pytest.approx(value, rel=1e-6)
    assert torch.equal(BINS, -BINS.flip(0))


@pytest.mark.parametrize(
    ("target", "weights"),
    [
        (0.0, {127: 1.0}),
        (0.5, {129: 0.444607886, 130: 0.555392114}),
        (-0.5, {124: 0.555392114, 125: 0.444607886}),
        (1.0, {131: 0.617329079, 132: 0.382670921}),
        (3.7, {136: 0.184432299, 137: 0.815567701}),
        (100.0, {156: 0.710529261, 157: 0.289470739}),
        (1e9, {254: 1.0}),
        (-1e9, {0: 1.0}),
        (math.inf, {254: 1.0}),
    ],
)
def test_twohot_by_hand(target, weights):
    index, weight = twohot_encode(torch.tensor(target), BINS)
    got = torch.zeros(255).scatter_add(0, index, weight)
    want = torch.zeros(255)
    for i, w in weights.items():
        want[i] = w
    torch.testing.assert_close(got, want, rtol=0, atol=3e-6)  # float32 next to bins that differ by a few per cent


@pytest.mark.parametrize("bins", [255, 5, 6])
def test_numbers_on_a_bin_are_coded_exactly(bins):
    centres = symexp_bins(bins)
    index, weight = twohot_encode(centres, centres)
    code = torch.zeros(bins, bins).scatter_add(1, index, weight)
    assert torch.equal(code @ centres.double().float().unsqueeze(-1), centres.unsqueeze(-1))
    assert code.max(-1).values.eq(1).all()


@settings(deadline=None)
@given(st.floats(-4e8, 4e8))
def test_the_mean_of_the_code_is_the_number(x):
    bins = BINS.double()
    index, weight = twohot_encode(torch.tensor(x, dtype=torch.float64), bins)
    assert weight.sum().item() == pytest.approx(1)
    assert (bins[index] * weight).sum().item() == pytest.approx(x, rel=1e-9, abs=1e-9)


def test_a_nan_is_not_hidden():
    assert twohot_encode(torch.tensor(math.nan), BINS)[1].isnan().any()


@pytest.mark.parametrize("bins", [255, 254, 5])
def test_symmetric_probabilities_decode_to_exactly_zero(bins):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, bins, generator=generator)
    probs = torch.softmax(logits + logits.flip(-1), -1)
    assert not twohot_decode(probs, symexp_bins(bins)).any()
    assert not twohot_decode(torch.full((bins,), 1 / bins), symexp_bins(bins)).any()


@pytest.mark.parametrize("bins", [255, 254])
def test_decode_is_the_mean(bins):
    probs = torch.softmax(torch.randn(7, bins, dtype=torch.float64), -1)
    centres = symexp_bins(bins).double()
    torch.testing.assert_close(twohot_decode(probs, centres), probs @ centres)

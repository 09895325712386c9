"""Recurrences of the earlier versions, by hand-computed numbers."""

import math

import pytest
import torch

from dreamer_lightning.nets.blocks import MLP
from dreamer_lightning.nets.gru import GRURSSM, LayerNormGRU, LearnedStartRSSM, PlainGRU
from dreamer_lightning.nets.latents import Categorical
from dreamer_lightning.nets.norms import LayerNorm
from dreamer_lightning.types import Latent


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_plain_gru_by_hand():
    """One input 2, state 0.5. Kernels r 1, u -1, c 0.5 on the input, r 2, u 1, c -1 on the state; the candidate's inner
    bias 0.3 is multiplied by the reset gate too, as in Keras and torch."""
    cell = PlainGRU(1, 1)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.tensor([[1.0], [-1.0], [0.5]]))
        cell.weight_hh.copy_(torch.tensor([[2.0], [1.0], [-1.0]]))
        cell.bias_hh.copy_(torch.tensor([0.0, 0.0, 0.3]))
    reset, update = sigmoid(2.0 + 1.0), sigmoid(-2.0 + 0.5)
    cand = math.tanh(1.0 + reset * (-0.5 + 0.3))
    want = update * 0.5 + (1 - update) * cand
    assert cell(torch.tensor([[2.0]]), torch.tensor([[0.5]])).item() == pytest.approx(want)
    assert want == pytest.approx(0.638420, abs=1e-6)


def test_plain_gru_is_torchs_with_keras_initial_weights():
    torch.manual_seed(0)
    cell, other = PlainGRU(7, 32), torch.nn.GRUCell(7, 32)
    assert (cell.bias_ih.abs().sum() + cell.bias_hh.abs().sum()) == 0
    torch.testing.assert_close(cell.weight_hh.T @ cell.weight_hh, torch.eye(32), atol=1e-5, rtol=0)
    assert cell.weight_ih.abs().max() <= math.sqrt(6 / (7 + 96))
    other.load_state_dict(cell.state_dict())
    x, h = torch.randn(5, 7), torch.randn(5, 32)
    assert torch.equal(cell(x, h), other(x, h))


def test_layer_norm_by_hand():
    """(1, 3): mean 2, variance 1; 1/sqrt(1.001) = 0.99950037."""
    torch.testing.assert_close(LayerNorm(2)(torch.tensor([1.0, 3.0])), torch.tensor([-0.99950037, 0.99950037]))


def test_layer_norm_gru_by_hand():
    """One input 2, state 0.5. Gates before the norm 2, 1, -3: mean 0, variance 14/3."""
    cell = LayerNormGRU(1, 1)
    with torch.no_grad():
        cell.gates.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -2.0]]))
    reset, cand, update = (x / math.sqrt(14 / 3 + 1e-3) for x in (2.0, 1.0, -3.0))
    cand, update = math.tanh(sigmoid(reset) * cand), sigmoid(update - 1)
    want = update * cand + (1 - update) * 0.5
    assert cell(torch.tensor([[2.0]]), torch.tensor([[0.5]])).item() == pytest.approx(want)
    assert want == pytest.approx(0.484861, abs=1e-6)


def test_a_norm_of_all_gates_replaces_the_bias_in_2023():
    assert LayerNormGRU(3, 4).gates.bias is not None
    assert LayerNormGRU(3, 4, bias=False).gates.bias is None
    assert MLP(3, 4, 2, norm="layer").linears[0].bias is None
    assert MLP(3, 4, 2, norm="none").linears[0].bias is not None


def test_numbers_of_v1s_rssm():
    """36 and 1224 inputs, hidden and deter 200, 30 Gaussians: 7400 + 241200 + 40200 + 12060 + 245000 + 12060."""
    from functools import partial

    from dreamer_lightning.nets.latents import Gaussian

    rssm = GRURSSM(6, 1024, cell=PlainGRU, latents=partial(Gaussian, 30))
    assert sum(p.numel() for p in rssm.parameters()) == 557_920


def learned(**options) -> LearnedStartRSSM:
    torch.manual_seed(0)
    rssm = LearnedStartRSSM(2, 3, deter=4, hidden=8, norm="layer", latents=lambda: Categorical(2, 3), **options)
    with torch.no_grad():
        rssm.start.copy_(torch.tensor([0.1, -0.2, 0.3, 2.0]))
    return rssm


def test_the_learned_state_is_the_tanh_of_a_parameter_and_the_mode_of_the_prior():
    rssm = learned()
    start = rssm.initial(5)
    torch.testing.assert_close(start.deter, torch.tanh(rssm.start.detach()).expand(5, 4))
    want = torch.nn.functional.one_hot(rssm.prior(start.deter).argmax(-1), 3).flatten(-2).float()
    assert torch.equal(start.stoch, want)


def test_episodes_begin_from_the_learned_state_with_no_action():
    rssm = learned()
    junk, noise = Latent(torch.randn(2, 4), torch.randn(2, 6)), rssm.noise(2)
    embed, first = torch.randn(2, 3), torch.tensor([True, False])
    got, _ = rssm.observe_step(junk, torch.randn(2, 2), embed, first, noise)
    start = rssm.initial(2)
    want, _ = rssm.observe_step(start, torch.zeros(2, 2), embed, ~first, noise)
    torch.testing.assert_close(got.deter[0], want.deter[0])
    assert not torch.allclose(got.deter[1], want.deter[1])
    got.deter[0].sum().backward()
    assert rssm.start.grad.abs().sum() > 0


def test_only_2023_scales_actions_back():
    big = torch.tensor([[4.0, -0.5]])
    assert learned().project_action(big).tolist() == [[1.0, -0.5]]
    assert torch.equal(GRURSSM(2, 3).project_action(big), big)

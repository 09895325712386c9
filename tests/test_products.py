"""A dense layer on stretches of rows computes what the whole product does, value and gradients."""

import pytest
import torch
import torch.nn.functional as F

from dreamer_lightning.kernels import fused, native, products
from dreamer_lightning.nets.blocks import Linear


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def short(monkeypatch, request):
    monkeypatch.setattr(products, "MANY", 20)
    monkeypatch.setattr(products, "STRETCH", 8)
    if request.param == "torch":
        monkeypatch.setattr(products.layers, "usable", lambda *tensors: False)
    elif native.library() is None:
        pytest.skip(f"no compiled kernels: {native.why_not()}")


def inputs(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(20, 6), (37, 6), (9, 3, 6), (30, 1, 6), (2, 11, 6), (5, 2, 4, 6)])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("by_x", [False, True])
def test_stretches_agree_with_the_whole(shape, cut, by_x):
    """Also where x is a slice that is not contiguous, and where only the weights learn."""
    layer, whole = Linear(6, 5), inputs(shape).requires_grad_(by_x)
    x = whole[..., :-1, :] if cut and len(shape) > 2 else whole
    many = x.numel() >= 20 * 6
    assert products.stretches_pay(x, layer.weight) == many
    learned = [layer.weight, layer.bias, *([whole] if by_x else [])]
    got, want = layer(x), F.linear(x, layer.weight, layer.bias)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want)
    grad = torch.linspace(-1, 1, want.numel()).view(want.shape)
    for a, b in zip(torch.autograd.grad(got, learned, grad), torch.autograd.grad(want, learned, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradient_that_is_not_contiguous():
    layer, x = Linear(6, 5), inputs((30, 6)).requires_grad_()
    torch.autograd.grad(layer(x)[:, ::2].t().sum(), (x, layer.weight, layer.bias))
    got = torch.autograd.grad(layer(x).t().contiguous().square().sum(), x)[0]
    want = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).square().sum(), x)[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_who_gets_the_whole_product():
    """Few rows, other types, layers without a bias, autocast."""
    layer, x = Linear(6, 5), inputs((30, 6))
    assert products.stretches_pay(x, layer.weight)
    assert not products.stretches_pay(x[:19], layer.weight)
    assert not products.stretches_pay(x[0], layer.weight)
    assert not products.stretches_pay(x.double(), layer.weight.double())
    assert not products.stretches_pay(x.to("meta"), layer.weight)
    with fused.eager():
        assert not products.stretches_pay(x, layer.weight)
    assert Linear(6, 5, bias=False)(x).shape == (30, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16

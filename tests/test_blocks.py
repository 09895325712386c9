"""Layers against the reference's arrays, and what each promises."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreamer_lightning import interop
from dreamer_lightning.nets import blocks
from dreamer_lightning.nets.blocks import MLP, BlockLinear, Conv2d, ConvTranspose2d, Linear, RMSNorm
from dreamer_lightning.nets.upsample import UpsampleConv2d
from dreamer_lightning.types import UserError
from golden import assert_close, assert_grad, golden

LAYERS = {
    "linear": lambda: Linear(7, 11),
    "linear_multi": lambda: Linear(7, 6),
    "linear_scalar": lambda: Linear(7, 1),
    "blocklinear": lambda: BlockLinear(24, 20, 4),
    "rmsnorm": lambda: RMSNorm(10),
    "rmsnorm_image": lambda: RMSNorm(6),
    "conv_same": lambda: Conv2d(3, 6),
    "conv_stride2_odd": lambda: Conv2d(3, 6, stride=2),
    "conv_stride2_even": lambda: Conv2d(3, 6, stride=2),
    "conv_transp2": lambda: ConvTranspose2d(3, 6),
    "mlp": lambda: MLP(10, 16, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_has_the_reference_numbers_and_gradients(name):
    want, layer = golden("nets").at(name), LAYERS[name]()
    layers = interop.mlp_layers(layer) if name == "mlp" else {"": layer}
    prefix = "" if name == "mlp" else "/"
    interop.load(layers, {prefix + key: value for key, value in want.under("param").items()})
    x, dy = want.tensor("x").requires_grad_(), want.tensor("dy")
    images = name.startswith("conv")
    y = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if images else layer(x).reshape(dy.shape)
    assert_close(y, want["y"])
    (y * dy).sum().backward()
    assert_grad(x.grad, want["grad_x"])
    for key, grad in interop.gradients(layers).items():
        assert_grad(grad, want[f"grad/{key.lstrip('/')}"])


@pytest.mark.parametrize("name", ["silu", "gelu", "relu", "mish", "relu2"])
def test_activation(name):
    want = golden("nets").at("act")
    assert_close(blocks.activation(name)(want.tensor("x")), want[name])


INITS = {
    "linear": lambda: Linear(768, 1024),
    "linear_outscale0.01": lambda: Linear(1024, 512, outscale=0.01),
    "linear_multi": lambda: Linear(512, 768),
    "blocklinear": lambda: BlockLinear(1024, 2048, 8),
    "blocklinear_gru": lambda: BlockLinear(2048, 6144, 8),
    "conv": lambda: Conv2d(64, 96),
    "conv_rgb": lambda: Conv2d(3, 128),
}


def check_stats(weight: torch.Tensor, stats: np.ndarray):
    """Mean, std, min, max, 25 % and 97.5 % quantile of one large draw."""
    got = weight.detach().double().flatten().numpy()
    assert abs(got.mean() - stats[0]) < 0.05 * stats[1]
    assert got.std() == pytest.approx(stats[1], rel=0.02)
    np.testing.assert_allclose(np.quantile(got, [0.25, 0.975]), stats[4:], rtol=0.05)
    return got


@pytest.mark.parametrize("name", INITS)
def test_initialiser_draws_like_the_reference(name):
    torch.manual_seed(0)
    want, layer = golden("init").at(name), INITS[name]()
    assert layer.weight.numel() == np.prod(want["shape"])
    got = check_stats(layer.weight, want["stats"])
    np.testing.assert_allclose([got.min(), got.max()], want["stats"][2:4], rtol=0.01)  # the truncation
    assert not layer.bias.any()


@pytest.mark.parametrize("kind", ["trunc_normal", "normal", "uniform"])
@pytest.mark.parametrize("mode", ["in", "out", "avg"])
def test_other_initialisers(kind, mode):
    torch.manual_seed(0)
    layer = Linear(800, 200, init=f"{kind}_{mode}")
    check_stats(layer.weight, golden("init")[f"initializer/{kind}_{mode}"])


def test_glorot_is_that_of_keras():
    weight = Linear(800, 200, init="glorot").weight
    assert weight.abs().max().item() == pytest.approx((6 / 1000) ** 0.5, rel=1e-3)
    assert weight.std().item() == pytest.approx((2 / 1000) ** 0.5, rel=0.02)


def test_zero_outscale_starts_at_zero():
    assert not Linear(5, 3, outscale=0.0).weight.any()


def test_shared_input_of_block_linear_equals_concatenation():
    torch.manual_seed(0)
    layer = BlockLinear(4 * (6 + 5), 12, 4)
    x, shared = torch.randn(2, 3, 24), torch.randn(2, 3, 5)
    each = [torch.cat([part, shared], -1) for part in x.chunk(4, -1)]
    assert_close(layer(x, shared), layer(torch.cat(each, -1)))


def test_rms_norm_is_float32_inside_and_keeps_the_type():
    x = torch.full((1, 512), 300.0, dtype=torch.bfloat16)  # squares would lose bits in bfloat16
    y = RMSNorm(512)(x)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), torch.ones(1, 512))
    assert_close(RMSNorm(4)(torch.full((1, 4), 1e-6)), np.full((1, 4), 1e-4))  # small rows: a gain of 1/sqrt(eps) = 100


@pytest.mark.parametrize(("size", "stride", "pads"), [(8, 1, (2, 2)), (8, 2, (1, 2)), (9, 2, (2, 2)), (2, 4, (1, 2))])
def test_same_padding(size, stride, pads):
    assert blocks.same_padding(size, 5, stride) == pads


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_upsampling_convolution_equals_upsampling_then_convolution(kernel):
    torch.manual_seed(0)
    layer = UpsampleConv2d(4, 3, kernel).double()
    layer.bias.data.normal_()
    x = torch.randn(2, 5, 7, 4, dtype=torch.float64, requires_grad=True)
    large = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
    want = F.conv2d(large, layer.weight, layer.bias, padding=kernel // 2).permute(0, 2, 3, 1)
    got, dy = layer(x), torch.randn(2, 10, 14, 3, dtype=torch.float64)
    assert_close(got, want, 1e-12)
    inputs = (x, *layer.parameters())
    for a, b in zip(torch.autograd.grad(got, inputs, dy), torch.autograd.grad(want, inputs, dy), strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(3, 4, 1, act="swish"), "unknown activation 'swish'.*silu"),
        (lambda: MLP(3, 4, 1, norm="batch"), "unknown normalisation 'batch'.*rms"),
        (lambda: Linear(3, 4, init="xavier"), "unknown initialiser 'xavier'.*glorot"),
        (lambda: BlockLinear(10, 8, 4), "blocks=4 must divide"),
        (lambda: UpsampleConv2d(3, 3, 4), "odd kernel"),
    ],
)
def test_mistakes_are_told_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_mlp_without_layers_passes_through():
    mlp = MLP(7, 4, 0)
    x = torch.randn(2, 7)
    assert mlp.out_dim == 7
    assert mlp(x) is x

"""Decoders against the reference's arrays, their shapes, and the mistakes they catch."""

from functools import partial

import pytest
import torch

from dreamer_lightning import interop
from dreamer_lightning.nets.decoders import (
    DictDecoder,
    MLPDecoder,
    StridedDecoder,
    SymlogMLPDecoder,
    UnitNormal,
    UpsampleDecoder,
)
from dreamer_lightning.nets.outputs import Categorical, ImageMSE, ImageNormal, SymlogMSE
from dreamer_lightning.types import Latent, Space, UserError
from golden import assert_close, assert_grad, golden
from test_encoders import IMAGE, OBS, specs

IMAGE_LOSS = 5e-5  # the reference adds 12288 terms one by one in float32


@pytest.mark.parametrize("name", OBS)
def test_decoder_has_the_reference_numbers_and_gradients(name):
    want, obs = golden("nets").at(f"{name}/dec"), golden("nets").under(f"{name}/enc/obs")
    options = {"vector": partial(SymlogMLPDecoder, units=16), "image": partial(UpsampleDecoder, units=16)}
    decoder = DictDecoder(specs(**OBS[name]), 64, 32, **options)
    layers = interop.decoder_layers(decoder)
    interop.load(layers, want.under("param"))
    deter, stoch = want.tensor("deter").requires_grad_(), want.tensor("stoch").requires_grad_()
    outputs = decoder(Latent(deter, stoch.flatten(-2)))
    assert set(outputs) == set(obs)
    losses = {key: output.loss(obs[key]) for key, output in outputs.items()}
    for key, output in outputs.items():
        pred = output.mean if isinstance(output, SymlogMSE) else output.pred()
        assert_close(pred, want[f"pred/{key}"])
        assert_close(losses[key], want[f"loss/{key}"], IMAGE_LOSS if obs[key].dtype == torch.uint8 else 1e-5)
    sum((losses[key] * want.tensor(f"dloss/{key}")).sum() for key in losses).backward()
    assert_grad(deter.grad, want["grad_deter"])
    assert_grad(stoch.grad, want["grad_stoch"])
    for key, grad in interop.gradients(layers).items():
        assert_grad(grad, want[f"grad/{key}"])


def latent(*lead: int, deter: int = 64, stoch: int = 32) -> Latent:
    return Latent(torch.randn(*lead, deter), torch.randn(*lead, stoch))


@pytest.mark.parametrize("lead", [(3,), (2, 3)])
def test_outputs_by_kind_in_environment_units(lead):
    spaces = {"image": IMAGE, "a": Space((5,)), "b": Space((), "bool", 2), "c": Space((2,), "int32", 3)}
    outputs = DictDecoder(specs(**spaces), 64, 32)(latent(*lead))
    kinds = {"image": ImageMSE, "a": SymlogMSE, "b": Categorical, "c": Categorical}
    assert {key: type(output) for key, output in outputs.items()} == kinds
    for key, output in outputs.items():
        assert output.pred().shape == (*lead, *spaces[key].shape)
        assert output.loss(torch.zeros(*lead, *spaces[key].shape)).shape == lead


def test_the_decoder_of_the_older_agents():
    spaces = {"image": IMAGE, "a": Space((5,)), "b": Space((), "int32", 3)}
    decoder = DictDecoder(specs(**spaces), 40, 30, vector=partial(MLPDecoder, units=16), image=StridedDecoder)
    outputs = decoder(latent(2, 3, deter=40, stoch=30))
    assert {k: type(v) for k, v in outputs.items()} == {"image": ImageNormal, "a": UnitNormal, "b": Categorical}
    assert outputs["image"].pred().shape == (2, 3, 64, 64, 3)
    assert outputs["a"].loss(torch.zeros(2, 3, 5)).shape == (2, 3)
    missing = torch.zeros(2, 3, 5).index_fill(2, torch.tensor([1]), -torch.inf)
    assert outputs["a"].loss(missing).isfinite().all()
    (grad,) = torch.autograd.grad(outputs["a"].loss(missing).sum(), outputs["a"].mean)
    assert grad[..., 1].eq(0).all()
    assert grad[..., 0].ne(0).all()
    shapes = [(32 * 32, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in decoder.parts[1].convs] == shapes


def test_keys_choose_what_is_predicted_and_may_be_none():
    spaces = {"image": IMAGE, "a": Space((5,)), "log/x": Space(())}
    assert set(DictDecoder(specs(**spaces), 64, 32)(latent(2))) == {"image", "a"}
    assert set(DictDecoder(specs(**spaces), 64, 32, keys=["a"])(latent(2))) == {"a"}
    assert DictDecoder(specs(**spaces), 64, 32, keys=[])(latent(2)) == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DictDecoder(specs(a=Space((3,))), 64, 32, keys=["b"]), "decoder keys: 'b' matches no observation"),
        (lambda: DictDecoder(specs(a=Space((4, 4, 3))), 64, 32), "decoder keys: no network takes 'a'"),
        (lambda: DictDecoder(specs(a=Space((40, 64, 3), "uint8")), 64, 32), "'a' is 40x64"),
        (lambda: DictDecoder(specs(a=IMAGE), 60, 32), "blocks=8 must divide deter=60"),
        (lambda: StridedDecoder({"a": Space((96, 96, 3), "uint8")}, 64, 32), "64x64 images, not 96x96"),
    ],
)
def test_mistakes_are_told_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_forward_under_autocast_keeps_losses_in_float32():
    decoder = DictDecoder(specs(image=IMAGE, a=Space((5,))), 64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = decoder(latent(2))
        losses = [
            outputs["image"].loss(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)),
            outputs["a"].loss(torch.zeros(2, 5)),
        ]
    assert all(loss.dtype == torch.float32 for loss in losses)
    sum(loss.sum() for loss in losses).backward()
    assert all(p.grad.dtype == torch.float32 for p in decoder.parameters())

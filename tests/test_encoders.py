"""Encoders against the reference's arrays, their choice of observations, and the mistakes they catch."""

import json
import math
from collections.abc import Callable
from functools import partial

import jsonargparse
import pytest
import torch

from dreamer_lightning import interop
from dreamer_lightning.nets.encoders import (
    DictEncoder,
    Encoder,
    MaxPoolEncoder,
    MLPEncoder,
    StridedEncoder,
    SymlogMLPEncoder,
    concat_vectors,
)
from dreamer_lightning.types import Space, Specs, UserError
from golden import assert_close, assert_grad, golden

IMAGE = Space((64, 64, 3), "uint8")
OBS = {
    "vector": {"height": Space(()), "orientations": Space((14,)), "velocity": Space((9,))},
    "image": {"image": IMAGE},
    "mixed": {
        "zimg": Space((64, 64, 1), "uint8"),
        "aimg": Space((64, 64, 2), "uint8"),
        "vec": Space((3,)),
        "disc": Space((), "int32", 4),
    },
}


def specs(**obs: Space) -> Specs:
    return Specs(obs, {"action": Space((6,))})


@pytest.mark.parametrize("name", OBS)
def test_encoder_has_the_reference_numbers_and_gradients(name):
    want = golden("nets").at(f"{name}/enc")
    encoder = DictEncoder(specs(**OBS[name]), vector=partial(SymlogMLPEncoder, units=16))
    layers = interop.encoder_layers(encoder)
    interop.load(layers, want.under("param"))
    embed = encoder(want.under("obs"))
    assert embed.shape[-1] == encoder.embed_dim
    assert_close(embed, want["tokens"])
    (embed * want.tensor("dtokens")).sum().backward()
    for key, grad in interop.gradients(layers).items():
        assert_grad(grad, want[f"grad/{key}"])


def vector_spaces() -> dict[str, Space]:
    entries = json.loads(str(golden("nets")["dictconcat/spaces"]))
    return {k: Space(tuple(v["shape"]), v["dtype"], v["classes"] or 0) for k, v in sorted(entries.items())}


@pytest.mark.parametrize("squash", [True, False])
def test_vectors_are_joined_like_the_reference(squash):
    want = golden("nets")
    got = concat_vectors(want.under("dictconcat/in"), vector_spaces(), squash)
    assert_close(got, want["dictconcat/out_symlog" if squash else "dictconcat/out_plain"])


def test_entries_with_a_missing_number_are_zero():
    want = golden("nets")
    got = concat_vectors(want.under("dictconcat_missing/in"), vector_spaces(), squash=True)
    assert_close(got, want["dictconcat_missing/out"])


def test_one_missing_component_blanks_the_whole_entry():
    spaces = {"a": Space((2,)), "b": Space((2,), "int32", 3)}
    obs = {"a": torch.tensor([[1.0, -math.inf]]), "b": torch.tensor([[2, -1]], dtype=torch.int32)}
    assert not concat_vectors(obs, spaces, squash=True).any()


def test_gradients_stay_finite_beside_missing_numbers():
    encoder = SymlogMLPEncoder({"a": Space((2,))})
    encoder({"a": torch.tensor([[1.0, -math.inf], [1.0, 2.0]])}).sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)])
def test_any_batch_shape(lead):
    encoder = DictEncoder(specs(image=IMAGE, a=Space((5,)), b=Space((), "bool", 2)))
    obs = {
        "image": torch.randint(0, 256, (*lead, 64, 64, 3), dtype=torch.uint8),
        "a": torch.randn(*lead, 5),
        "b": torch.rand(lead) < 0.5,
    }
    embed = encoder(obs)
    assert embed.shape == (*lead, encoder.embed_dim)
    torch.testing.assert_close(
        embed.flatten()[: encoder.embed_dim],
        encoder({k: v.view(-1, *s) for k, v, s in zip(obs, obs.values(), [(64, 64, 3), (5,), ()], strict=True)})[0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_images_reach_the_convolution_without_a_copy_to_another_layout():
    encoder = MaxPoolEncoder({"image": IMAGE})
    seen = []
    encoder.convs[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder({"image": torch.zeros(2, 3, 64, 64, 3, dtype=torch.uint8)})
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[0].eq(-0.5).all()


def test_keys_are_names_or_patterns_and_log_entries_never_enter():
    obs = {"position": Space((3,)), "velocity": Space((2,)), "log/secret": Space((9,))}
    encoder = DictEncoder(specs(**obs), keys=["pos.*"])
    assert list(encoder.parts[0].spaces) == ["position"]
    assert list(DictEncoder(specs(**obs)).parts[0].spaces) == ["position", "velocity"]
    assert DictEncoder(specs(**{"a(b": Space((2,))}), keys=["a(b", ".*"]).parts[0].mlp.linears[0].in_features == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DictEncoder(specs(a=Space((3,))), keys=["b"]),
            "encoder keys: 'b' matches no observation; there are: a",
        ),
        (lambda: DictEncoder(specs(a=Space((3,))), keys=["("]), "no regular expression"),
        (lambda: DictEncoder(specs(a=Space((3,))), keys=[]), "no observation is left"),
        (lambda: DictEncoder(specs(**{"log/a": Space((3,))})), "matches no observation; there are: none"),
        (lambda: DictEncoder(specs(a=Space((4, 4, 3)))), r"no network takes 'a' \(float32, shape \(4, 4, 3\)\)"),
        (
            lambda: DictEncoder(specs(a=Space((50, 64, 3), "uint8"))),
            "'a' is 50x64.*multiples of 16 from 48 to 256.*image_size",
        ),
        (lambda: DictEncoder(specs(a=Space((32, 32, 3), "uint8"))), "'a' is 32x32"),
        (lambda: DictEncoder(specs(a=Space((320, 320, 3), "uint8"))), "'a' is 320x320"),
        (lambda: DictEncoder(specs(a=IMAGE, b=Space((96, 96, 3), "uint8"))), "share their size, got a 64x64, b 96x96"),
        (lambda: StridedEncoder({"a": Space((32, 32, 3), "uint8")}), "too small for StridedEncoder"),
    ],
)
def test_mistakes_are_told_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("depth", "act", "size"), [(32, "relu", 1024), (48, "elu", 1536)])
def test_strided_encoder_of_v1_and_v2(depth, act, size):
    encoder = StridedEncoder({"image": IMAGE}, depth=depth, act=act)
    assert encoder.embed_dim == size
    assert encoder({"image": torch.zeros(2, 64, 64, 3, dtype=torch.uint8)}).shape == (2, size)


def test_larger_images_and_plain_vectors():
    assert MaxPoolEncoder({"image": Space((96, 64, 1), "uint8")}, depth=2).embed_dim == 6 * 4 * 8
    encoder = MLPEncoder({"a": Space((3,))}, units=8, layers=2)
    assert encoder({"a": torch.full((2, 3), 1e3)}).shape == (2, 8)


def test_a_config_chooses_encoders_and_their_options():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=Callable[[Specs], Encoder])
    module = "dreamer_lightning.nets.encoders"
    vector = {"class_path": f"{module}.MLPEncoder", "init_args": {"units": 7, "layers": 1}}
    choice = {"class_path": f"{module}.DictEncoder", "init_args": {"vector": vector}}
    build = parser.instantiate(parser.parse_args(["--encoder", json.dumps(choice)])).encoder
    assert build(specs(a=Space((3,)))).embed_dim == 7
    vector["init_args"]["unit"] = 7
    with pytest.raises(jsonargparse.ArgumentError, match="unit"):
        parser.parse_args(["--encoder", json.dumps(choice)])

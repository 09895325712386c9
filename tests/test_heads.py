"""Heads against the reference's arrays, and the sizes of every network in every preset."""

import json
from functools import partial

import pytest
import torch

from dreamer_lightning import interop
from dreamer_lightning.nets.decoders import DictDecoder, SymlogMLPDecoder, UpsampleDecoder
from dreamer_lightning.nets.encoders import DictEncoder, MaxPoolEncoder, SymlogMLPEncoder
from dreamer_lightning.nets.heads import (
    BinaryHead,
    MSEHead,
    PolicyHead,
    TanhPolicyHead,
    TruncatedPolicyHead,
    TwoHotHead,
)
from dreamer_lightning.types import Space, Specs, UserError
from golden import assert_close, assert_grad, golden

HEADS = {
    "rewhead": lambda: TwoHotHead(20, units=16, layers=1),
    "conhead": lambda: BinaryHead(20, units=16),
    "valuehead": lambda: TwoHotHead(20, units=16),
}
ACTIONS = {
    "policy_cont": {"action": Space((6,))},
    "policy_disc": {"action": Space((), "int32", 5)},
    "policy_multi": {"zz": Space((), "int32", 4), "aa": Space((2,)), "mm": Space((3,), "int32", 3)},
}


def check_gradients(layers, want):
    for key, grad in interop.gradients(layers).items():
        assert_grad(grad, want[f"grad/{key}"])


@pytest.mark.parametrize("name", HEADS)
def test_scalar_head_has_the_reference_numbers_and_gradients(name):
    want, head = golden("heads").at(name), HEADS[name]()
    layers = interop.head_layers(head)
    for key, zero in want.json("zero_at_init").items():
        assert (not layers[key.removesuffix("/kernel")].weight.any()) == zero
    interop.load(layers, want.under("param"))
    x = want.tensor("x").requires_grad_()
    output = head(x)
    loss = output.loss(want.tensor("target"))
    assert_close(loss, want["loss"])
    if name == "conhead":
        assert_close(output.pred(), want["prob1"])
    else:
        unit = (torch.softmax(output.logits, -1) * output.bins).abs().sum(-1)
        assert ((output.pred() - want.tensor("pred")).abs() <= 1e-6 * unit).all()
    (loss * want.tensor("dloss")).sum().backward()
    assert_grad(x.grad, want["grad_x"])
    check_gradients(layers, want)


@pytest.mark.parametrize("name", ACTIONS)
def test_policy_has_the_reference_numbers_and_gradients(name):
    want, spaces = golden("heads").at(name), ACTIONS[name]
    head = PolicyHead(20, Specs({}, spaces), units=16)
    layers = interop.head_layers(head)
    interop.load(layers, want.under("param"))
    x = want.tensor("x").requires_grad_()
    policy = head(x)
    events = {}
    for key, space in head.spaces.items():
        event, dist = want.tensor(f"event/{key}"), policy.by_key[key]
        events[key] = torch.nn.functional.one_hot(event.long(), space.classes).float() if space.discrete else event
        assert_close(dist.log_prob(events[key]), want[f"out/{key}/logp"])
        assert_close(dist.entropy(), want[f"out/{key}/entropy"])
        pred = dist.pred().argmax(-1) if space.discrete else dist.pred()
        assert_close(pred, want[f"out/{key}/pred"])
    joined = head.spaces.join(events)
    assert_close(policy.log_prob(joined), sum(want[f"out/{key}/logp"] for key in spaces))
    objective = (policy.log_prob(joined) * want.tensor("dlogp") + policy.entropy() * want.tensor("dentropy")).sum()
    objective.backward()
    assert_grad(x.grad, want["grad_x"])
    check_gradients(layers, want)


@pytest.mark.parametrize("make", [PolicyHead, TanhPolicyHead, TruncatedPolicyHead])
def test_draws_are_flat_actions(make):
    torch.manual_seed(0)
    head = make(20, Specs({}, ACTIONS["policy_multi"]))
    noise = head.noise((5, 3), torch.Generator().manual_seed(1))
    assert torch.equal(noise, head.noise((5, 3), torch.Generator().manual_seed(1)))
    policy = head(torch.randn(5, 3, 20))
    action = policy.sample(noise)
    assert action.shape == (5, 3, 2 + 9 + 4)
    onehots = action[..., 2:11].unflatten(-1, (3, 3))
    assert onehots.sum(-1).eq(1).all()
    assert action[..., 11:].sum(-1).eq(1).all()
    for part in (policy.log_prob(action.detach()), policy.entropy()):
        assert part.shape == (5, 3)
        assert part.isfinite().all()
    assert policy.pred().shape == action.shape
    action.sum().backward()  # gradients reach the parameters through the draw, discrete ones too
    assert all(out.weight.grad is not None for outs in head.outs for out in outs)


def test_a_fresh_policy_is_as_random_as_it_may_be():
    for name, space in ACTIONS["policy_multi"].items():
        head = PolicyHead(20, Specs({}, {name: space}))
        low, high = head.entropy_range
        randomness = (head(torch.randn(100, 20)).entropy().mean().item() - low) / (high - low)
        assert randomness == pytest.approx(1, abs=1e-3) if space.discrete else 0.9 < randomness < 1


@pytest.mark.compile
def test_outputs_leave_no_break_in_a_compiled_graph():
    policy, value, cont = PolicyHead(20, Specs({}, ACTIONS["policy_multi"])), TwoHotHead(20), BinaryHead(20)

    def losses(feat, noise, target):
        output, actions = value(feat), policy(feat)
        total = output.loss(target) + output.loss(2 * target) + output.pred() + cont(feat).loss(target > 0)
        return total + actions.log_prob(actions.sample(noise).detach()) + actions.entropy()

    args = torch.randn(4, 20), policy.noise((4,)), torch.randn(4)
    compiled = torch.compile(losses, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*args), losses(*args))


def test_the_older_heads():
    output = MSEHead(20, units=8, layers=2)(torch.randn(2, 3, 20))
    assert output.pred().shape == (2, 3)
    want = 0.5 * (output.pred() - 1).square() + 0.9189385
    torch.testing.assert_close(output.loss(torch.ones(2, 3)), want)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoHotHead(3, bins=1), "bins=1"),
        (lambda: PolicyHead(3, Specs({}, {}), minstd=0.5, maxstd=0.1), "minstd=0.5"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


SIZES = {  # deter, hidden, classes, depth, units
    "size1m": (512, 64, 4, 4, 64),
    "size12m": (2048, 256, 16, 16, 256),
    "size25m": (3072, 384, 24, 24, 384),
    "size50m": (4096, 512, 32, 32, 512),
    "size100m": (6144, 768, 48, 48, 768),
    "size200m": (8192, 1024, 64, 64, 1024),
    "size400m": (12288, 1536, 96, 96, 1536),
}


@pytest.mark.parametrize("task", ["dmc_proprio", "dmc_vision", "atari100k"])
@pytest.mark.parametrize("size", SIZES)
def test_every_tensor_has_the_reference_shape_in_every_preset(task, size):
    counts = golden("counts")
    spaces = json.loads(str(counts[f"{task}/spaces"]))
    obs, act = (
        {key: Space(tuple(s["shape"]), s["dtype"], s.get("classes") or 0) for key, s in spaces[kind].items()}
        for kind in ("obs", "act")
    )
    specs, (deter, _, classes, depth, units) = Specs(obs, act), SIZES[size]
    stoch = 32 * classes
    with torch.device("meta"):
        encoder = DictEncoder(
            specs, vector=partial(SymlogMLPEncoder, units=units), image=partial(MaxPoolEncoder, depth=depth)
        )
        image = partial(UpsampleDecoder, depth=depth, units=units)
        decoder = DictDecoder(specs, deter, stoch, vector=partial(SymlogMLPDecoder, units=units), image=image)
        modules = {
            "enc": interop.encoder_layers(encoder),
            "dec": interop.decoder_layers(decoder),
            "rew": interop.head_layers(TwoHotHead(deter + stoch, units=units, layers=1)),
            "con": interop.head_layers(BinaryHead(deter + stoch, units=units)),
            "pol": interop.head_layers(PolicyHead(deter + stoch, specs, units=units)),
            "val": interop.head_layers(TwoHotHead(deter + stoch, units=units)),
        }
    want = json.loads(str(counts[f"{task}/{size}/shapes"]))
    for name, layers in modules.items():
        got = {f"{name}/{key}": list(value.shape) for key, value in interop.dump(layers).items()}
        assert got == {key: shape for key, shape in want.items() if key.startswith(f"{name}/")}
        total = sum(value.numel() for value in interop.dump(layers).values())
        assert total == counts[f"{task}/{size}/{name}"]

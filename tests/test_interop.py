"""The reference's parameter names and layouts, there and back."""

import pytest
import torch

from dreamer_lightning import interop
from dreamer_lightning.errors import UserError
from dreamer_lightning.nets.blocks import BlockLinear, Conv2d, ConvTranspose2d, Linear
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.record import Vectors
from golden import DATA


def agent(name):
    v = Vectors.load(DATA / f"agent_{name}.npz")
    config = v.json(f"{name}/config")
    specs = build.specs(config["obs"], config["act"], v.json(f"{name}/obs_order"))
    return build.dreamer(config["agent"], specs), v.under(f"{name}/rand/param")


@pytest.mark.parametrize("name", ["proprio", "image", "flags"])
def test_parameters_go_in_and_come_back_unchanged(name):
    dreamer, params = agent(name)
    interop.load_agent(dreamer.world_model, dreamer.actor_critic, params)
    back = interop.dump_agent(dreamer.world_model, dreamer.actor_critic)
    assert back.keys() == params.keys()
    assert all(torch.equal(back[key], params[key]) for key in params)
    ours = {id(p) for p in dreamer.parameters()}
    named = [p for _, _, p in interop.tensors(interop.agent_layers(dreamer.world_model, dreamer.actor_critic))]
    assert {id(p) for p in named} == ours  # every parameter has a name there
    assert len(named) == len(ours)


@pytest.mark.parametrize("layer", [Linear(3, 5), BlockLinear(4, 6, 2), Conv2d(3, 4), ConvTranspose2d(3, 4)], ids=str)
def test_layouts_are_inverse_and_end_with_the_outputs(layer):
    there = interop.to_reference(layer, layer.weight)
    assert torch.equal(interop.to_ours(layer, there), layer.weight)
    assert there.shape[-1] == layer.bias.numel() // getattr(layer, "blocks", 1)


def test_wrong_names_and_shapes_are_told():
    dreamer, params = agent("proprio")
    layers = interop.head_layers(dreamer.world_model.cont)
    params = {key.removeprefix("con/"): value for key, value in params.items() if key.startswith("con/")}
    with pytest.raises(UserError, match="one side only: head/logit/bias"):
        interop.load(layers, {key: value for key, value in params.items() if key != "head/logit/bias"})
    with pytest.raises(UserError, match="head/logit/kernel has shape"):
        interop.load(layers, {**params, "head/logit/kernel": torch.zeros(3, 1)})


def test_gradients_are_zero_where_there_is_none():
    head = agent("proprio")[0].world_model.cont
    assert all((grad == 0).all() for grad in interop.gradients(interop.head_layers(head)).values())


def test_start_gradient_reaches_the_latents_from_the_first_state_alone():
    """The reference's ``ac_grads``: off, dreams leave the world model alone; on, policy and value losses shape it."""
    found = {}
    for on in (False, True):
        v = Vectors.load(DATA / "agent_proprio.npz")
        config = v.json("proprio/config")
        config["agent"]["ac_grads"] = on
        dreamer = build.dreamer(config["agent"], build.specs(config["obs"], config["act"]))
        interop.load_agent(dreamer.world_model, dreamer.actor_critic, v.under("proprio/rand/param"))
        start = torch.randn(4, dreamer.world_model.feat_dim, requires_grad=True)
        latent = dreamer.world_model.rssm.initial(4)
        noise = dreamer.noise(4, 1, torch.Generator().manual_seed(0))
        dream = dreamer.actor_critic.imagine(latent, dreamer.world_model, noise.imag, noise.action)
        losses, _, _ = dreamer.actor_critic.dream_losses(dream, start=start if on else None)
        sum(loss.sum() for loss in losses.values()).backward()
        found[on] = start.grad
    assert found[False] is None
    assert found[True].abs().sum() > 0

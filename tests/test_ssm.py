"""The linear recurrence: its equations by hand, its scan against its steps, a run that trains, resumes and dreams."""

from __future__ import annotations

import math

import pytest
import torch

import dreamer_lightning
from dreamer_lightning import Agent
from dreamer_lightning.nets.rssm import RSSM
from dreamer_lightning.nets.ssm import LinearLayer, LinearRSSM, Memory, scan

SMALL = {"deter": 12, "hidden": 8, "layers": 2, "states": 5, "stoch": 3, "classes": 4}


def random_memory(rssm: LinearRSSM, batch: int) -> Memory:
    return rssm.initial(batch).map(torch.randn_like)


def test_a_layer_remembers_by_lambda():
    layer = LinearLayer(2, 1)
    with torch.no_grad():
        layer.log_decay.fill_(torch.tensor(0.5).log())  # |lambda| = e^-0.5
        layer.log_angle.fill_(torch.tensor(torch.pi / 2).log())  # a quarter turn each step
        layer.into.weight.zero_()
    _, states = layer.step(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(states, torch.tensor([[0.0, 0.60653066]]), atol=1e-6, rtol=0)
    _, states = layer.step(torch.ones(1, 2), states)
    torch.testing.assert_close(states, torch.tensor([[-0.36787944, 0.0]]), atol=1e-6, rtol=0)


def test_inputs_are_scaled_so_that_states_keep_their_size():
    layer = LinearLayer(4, 3)
    re, im, gain = layer.factors()
    torch.testing.assert_close(re**2 + im**2 + gain**2, torch.ones(3))
    assert ((re**2 + im**2).sqrt() < 0.99001).all()


@pytest.mark.parametrize("length", [1, 2, 5, 8, 13])
def test_scan_is_the_loop(length: int):
    turn, inputs = (torch.randn(2, length, 3, dtype=torch.complex128) * 0.7 for _ in range(2))
    turn[1, length // 2] = 0  # an episode begins
    before, wanted = torch.randn(2, 3, dtype=torch.complex128), []
    state = before
    for t in range(length):
        state = turn[:, t] * state + inputs[:, t]
        wanted.append(state)
    packed = torch.cat([before.real, before.imag], -1)
    re, im = scan(turn.real, turn.imag, inputs.real, inputs.imag, packed)
    torch.testing.assert_close(torch.complex(re, im), torch.stack(wanted, 1))


def test_a_sequence_at_once_is_step_by_step():
    rssm = LinearRSSM(2, 6, **SMALL).double()
    action, embed = torch.randn(3, 11, 2).double(), torch.randn(3, 11, 6).double()
    is_first = torch.rand(3, 11) < 0.2
    noise, carry = rssm.noise(3, 11), random_memory(rssm, 3).map(torch.Tensor.double)
    found = {}
    for name, observe in {"steps": RSSM.observe, "scan": LinearRSSM.observe}.items():
        rssm.zero_grad()
        latents, logits = observe(rssm, carry, action, embed, is_first, noise)
        (latents.feat.square().mean() + rssm.prior(latents.deter).square().mean()).backward()
        gradients = [weight.grad for weight in rssm.parameters() if weight.grad is not None]
        found[name] = [*latents, logits, *gradients]
    assert len(found["steps"]) > 10
    for one, other in zip(found["steps"], found["scan"], strict=True):  # the states are kept in float32
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_dream_can_be_retraced():
    rssm = LinearRSSM(2, 6, **SMALL)
    latents, actions = rssm.imagine(random_memory(rssm, 4), lambda feat, _: feat[:, :2].tanh(), rssm.noise(4, 5))
    again = rssm.retrace(latents.detach(), actions.detach())
    for one, other in zip(latents, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_what_replay_keeps_comes_back():
    rssm = LinearRSSM(2, 6, **SMALL)
    latent = rssm.observe_step(
        random_memory(rssm, 3), torch.randn(3, 2), torch.randn(3, 6), torch.zeros(3, dtype=torch.bool), rssm.noise(3)
    )[0]
    back = rssm.unpack(rssm.pack(latent))
    assert all(torch.equal(one, other) for one, other in zip(latent.detach(), back, strict=True))


@pytest.mark.parametrize("gradient", ["ScoreFunction", "Pathwise"])
def test_it_trains_resumes_and_dreams(tmp_path, gradient: str):
    env = {"class_path": "dreamer_lightning.envs.counting.Counting", "init_args": {"lengths": [20, 25]}}
    options = {"env": env, "learning_starts": 40, "log_every": 1, "wandb": {"mode": "disabled"}}
    options |= {"run_dir": str(tmp_path / "run"), "actor_critic": {"gradient": gradient}}
    dreamer_lightning.fit("dmc.yaml", "ssm.yaml", "debug.yaml", updates=3, **options)
    again = dreamer_lightning.fit(resume=str(tmp_path / "run"), updates=6)
    losses = again.series("loss/dyn", "update")
    assert losses[0] == [1, 2, 3, 4, 5, 6]
    assert all(map(math.isfinite, losses[1]))
    agent = Agent.load(tmp_path / "run")
    assert isinstance(agent.dreamer.world_model.rssm, LinearRSSM)
    env = agent.dream_env()
    env.reset(seed=0)
    assert math.isfinite(env.step(env.action_space.sample())[1])

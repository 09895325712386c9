"""The agent: which loss reaches which module, what its switches do, and that acting and training see the same model."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

import tiny
from dreamer_lightning.dreamer import by_module
from dreamer_lightning.nets.gradients import Mix, Pathwise, ScoreFunction
from dreamer_lightning.types import Latent, UserError

MODEL = {"encoder", "rssm"}
# The reward head, the decoder and so on are trained by their own loss alone; every model loss also shapes the latents.
REACHES = {
    "recon/position": MODEL | {"decoder"},
    "recon/velocity": MODEL | {"decoder"},
    "reward": MODEL | {"reward"},
    "cont": MODEL | {"cont"},
    "dyn": {"encoder", "rssm"},  # through deter, which the prior reads; the posterior's logits are held
    "rep": MODEL,
    "policy": {"policy"},
    "value": {"value"},
    "repval": MODEL | {"value"},
}


def reached(dreamer, name: str, seed: int = 0) -> set[str]:
    dreamer.zero_grad()
    output = dreamer(tiny.batch(dreamer, seed=seed), torch.Generator().manual_seed(1))
    output.losses[name].sum().backward()
    touched = set()
    for module, parameters in by_module(dreamer).items():
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters()):
            touched.add(module)
    return touched


@pytest.mark.parametrize("name", REACHES)
def test_which_loss_reaches_which_module(name):
    free = {"rssm": lambda a, e: tiny.BlockRSSM(a, e, deter=16, hidden=8, stoch=3, classes=4, blocks=2, free_nats=0.0)}
    assert reached(tiny.agent(model_options=free), name) == REACHES[name]


def test_reward_grad_off_keeps_the_reward_loss_in_its_head():
    assert reached(tiny.agent(model_options={"reward_grad": False}), "reward") == {"reward"}


def test_value_aware_critic_keeps_the_replay_value_loss_out_of_the_model():
    assert reached(tiny.agent(value_aware="critic"), "repval") == {"value"}


def test_value_aware_off_has_no_replay_value_loss():
    dreamer = tiny.agent(value_aware="off")
    assert "repval" not in dreamer(tiny.batch(dreamer)).losses


@pytest.mark.parametrize("gradient", [ScoreFunction, Pathwise, Mix])
@pytest.mark.parametrize("specs", [tiny.SPECS, tiny.DISCRETE], ids=["continuous", "discrete"])
def test_policy_loss_trains_the_policy_alone(gradient, specs):
    assert reached(tiny.agent(specs, gradient=gradient), "policy") == {"policy"}


@pytest.mark.parametrize("gradient", [ScoreFunction, Pathwise, Mix])
def test_world_model_gradients_are_identical_with_the_policy_loss_on_and_off(gradient):
    grads = []
    for scale in (0.0, 1.0):
        dreamer = tiny.agent(gradient=gradient, scales={"policy": scale})
        dreamer(tiny.batch(dreamer), torch.Generator().manual_seed(1)).loss.backward()
        grads.append({name: p.grad for name, p in dreamer.world_model.named_parameters()})
        assert any(p.grad.abs().sum() > 0 for p in dreamer.actor_critic.policy.parameters()) == bool(scale)
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_gradient_through_the_dynamics_is_that_of_the_return():
    """Finite differences of the summed return over one bias of the policy, noise held, against the actor's gradient."""
    dreamer = tiny.agent(gradient=Pathwise, actent=0.0, imag_length=1).double()
    model, actor = dreamer.world_model, dreamer.actor_critic
    n, generator = 64, torch.Generator().manual_seed(3)
    start = Latent(torch.randn(n, 16, dtype=torch.double, generator=generator), torch.zeros(n, 12, dtype=torch.double))
    stoch = torch.zeros(n, 1, 3, dtype=torch.long)
    model.rssm.draw = lambda logits, noise: torch.zeros(len(logits), 12, dtype=torch.double)  # deter alone is smooth
    noise = torch.zeros(n, 2, 2, dtype=torch.double)  # actions stay inside [-1, 1], beyond which the RSSM rescales them
    bias = [p for name, p in actor.policy.named_parameters() if name.endswith("bias") and p.shape == (12,)][-1]

    def loss():
        losses, _, _ = actor.dream_losses(actor.imagine(start, model, stoch, noise), update=False)
        return losses["policy"].sum()

    loss().backward()
    got = bias.grad[3].item()
    weights = actor.imagine(start, model, stoch, noise).cont.detach()
    h = 1e-4
    sides = []
    for side in (h, -h):
        bias.data[3] += side
        dream = actor.imagine(start, model, stoch, noise)
        boot = actor.value(dream.feat).pred()
        ret = tiny_return(dream.reward, dream.cont, boot, actor.lam)
        weight = torch.cumprod(weights, -1)[:, :-1]
        sides.append(-(weight * ret).sum().item())
        bias.data[3] -= side
    assert got == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-4)


def tiny_return(reward, cont, boot, lam):
    ret = boot[:, -1]
    out = []
    for j in range(boot.shape[1] - 1, 0, -1):
        ret = reward[:, j] + cont[:, j] * ((1 - lam) * boot[:, j] + lam * ret)
        out.append(ret)
    return torch.stack(out[::-1], 1)


@pytest.mark.parametrize(("last", "starts"), [(0, 6), (1, 1), (3, 3), (100, 6)])
def test_imag_last_limits_the_dreams_and_the_replay_value_loss(last, starts):
    dreamer = tiny.agent(imag_last=last)
    losses = dreamer(tiny.batch(dreamer)).losses
    assert losses["policy"].shape == losses["value"].shape == (4, starts)
    if starts == 1:
        assert "repval" not in losses
    else:
        assert losses["repval"].shape == (4, starts - 1)


@pytest.mark.parametrize("length", [1, 50, 333])
def test_dreams_of_any_length(length):
    dreamer = tiny.agent(imag_length=length, imag_last=2)
    output = dreamer(tiny.batch(dreamer))
    output.loss.backward()
    assert torch.isfinite(output.loss)


def test_dreams_of_no_length_are_refused():
    with pytest.raises(UserError, match="imag_length=0"):
        tiny.agent(imag_length=0)


def test_same_noise_same_loss_and_training_leaves_the_batch_alone():
    dreamer = tiny.agent()
    data = tiny.batch(dreamer)
    before = copy.deepcopy(data)
    dreamer.actor_critic.return_norm.requires_grad_(False)
    noise = dreamer.noise(4, 6, torch.Generator().manual_seed(5))
    state = {key: value.clone() for key, value in dreamer.state_dict().items()}
    first = dreamer(data, noise=noise).loss
    dreamer.load_state_dict(state)
    assert torch.equal(first, dreamer(data, noise=noise).loss)
    assert all(torch.equal(x, y) for x, y in zip(tree_leaves(before), tree_leaves(data), strict=True))


def test_acting_step_by_step_is_observing_the_sequence():
    """The collector's policy and the training forward filter alike: with sampling noise given, latents are equal."""
    dreamer = tiny.agent()
    data = tiny.records(b=3, t=6)
    rssm = dreamer.world_model.rssm
    noise = rssm.noise(3, 6, generator=torch.Generator().manual_seed(0))
    embed = dreamer.world_model.encoder(data["obs"])
    want, _ = rssm.observe(rssm.initial(3), data["prev_action"], embed, data["is_first"], noise)
    state, got = dreamer.initial(3), []
    for t in range(6):
        rssm.noise = lambda n, generator=None, t=t: noise[:, t]
        state["prev_action"] = data["prev_action"][:, t]
        obs = {key: value[:, t] for key, value in data["obs"].items()}
        _, state = dreamer.act(obs, state, data["is_first"][:, t])
        got.append(rssm.unpack(state))
    torch.testing.assert_close(torch.stack([x.deter for x in got], 1), want.deter)
    assert torch.equal(torch.stack([x.stoch for x in got], 1), want.stoch)


def test_greedy_acting_is_repeatable_but_for_the_latent():
    dreamer = tiny.agent()
    obs = {name: torch.randn(5, *space.shape) for name, space in tiny.SPECS.obs.items()}
    first = torch.ones(5, dtype=torch.bool)
    one, state = dreamer.act(obs, dreamer.initial(5), first, torch.Generator().manual_seed(1), greedy=True)
    mode = dreamer.actor_critic.policy(dreamer.world_model.rssm.unpack(state).feat).pred()
    torch.testing.assert_close(one, mode)
    assert not torch.allclose(dreamer.act(obs, dreamer.initial(5), first, torch.Generator().manual_seed(1))[0], mode)
    two, _ = dreamer.act(obs, dreamer.initial(5), first, torch.Generator().manual_seed(1), greedy=True)
    assert torch.equal(one, two)
    assert one.abs().max() <= 1


def test_slow_critic_starts_as_a_copy_and_follows():
    dreamer = tiny.agent(slow_rate=0.25)
    agent = dreamer.actor_critic
    slow, fast = next(agent.slow_critic.parameters()), next(agent.value.parameters())
    assert torch.equal(slow, fast)
    fast.data += 1
    before = slow.clone()
    agent.update_slow_critic()
    torch.testing.assert_close(slow.data, before + 0.25)


def test_fresh_heads_predict_exactly_nothing():
    """Golden numbers of a fresh V3 agent: reward loss ln 255, value loss 2 ln 255 per unit weight, advantage 0."""
    from dreamer_lightning.actor_critic import ActorCritic
    from dreamer_lightning.dreamer import Dreamer
    from dreamer_lightning.world_model import WorldModel

    torch.manual_seed(0)
    world = WorldModel(tiny.SPECS)
    dreamer = Dreamer(world, ActorCritic(tiny.SPECS, world.feat_dim))
    output = dreamer(tiny.batch(dreamer))
    torch.testing.assert_close(output.losses["reward"], torch.full((4, 6), 5.541264))
    kept = 1 - tiny.batch(dreamer)["is_last"][:, 1:-1].float()
    torch.testing.assert_close(output.losses["repval"], 11.082527 * kept)
    assert output.metrics["dream/advantage_mag"] == 0
    assert output.metrics["dream/return"] == 0


def test_the_memory_forecast_grows_with_the_length_of_dreams():
    from types import SimpleNamespace

    from dreamer_lightning.callbacks.forecast import dream_bytes

    def forecast(**options):
        replay = SimpleNamespace(batch_size=16, length=65)
        return dream_bytes(SimpleNamespace(dreamer=tiny.agent(**options), replay=replay))

    assert forecast(imag_length=50) == pytest.approx(forecast(imag_length=15) * 51 / 16)
    assert forecast(imag_length=333, imag_last=4) == pytest.approx(forecast(imag_length=333) / 16)
    assert forecast(gradient=Pathwise) > forecast()

"""TorchRL 0.14's Dreamer pieces beside ours where both claim the same function; the recorded arrays decide.

A test named `..._differs_...` shows where TorchRL computes something else than the reference, and by how much
(docs/torchrl.md lists them). If one of them fails after an update of TorchRL, TorchRL has changed: edit that page.
"""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torchrl import objectives
from torchrl.modules import (
    DreamerV3DiscreteActor,
    DreamerV3ImageEncoder,
    DreamerV3MLP,
    IndependentNormal,
    PercentileValueNorm,
    RSSMPosteriorV3,
    RSSMPriorV3,
    RSSMRolloutV3,
    SymExpTwoHot,
)
from torchrl.objectives.utils import ValueEstimators
from torchrl.objectives.value.functional import td_lambda_return_estimate, vec_td_lambda_return_estimate
from torchrl.trainers.algorithms import DreamerV3Optimizer

from dreamer_lightning.nets.latents import Gaussian, batch_mean, per_step
from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.returns import lambda_return
from dreamer_lightning.ops.scalars import symexp_bins
from golden import assert_close, assert_grad, golden

HEADS, LOSSES, NETS, OPTIM, RSSM = (golden(name) for name in ("heads", "losses", "nets", "optim", "rssm"))


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


# Scalars.


@pytest.mark.parametrize("bins", [5, 255])
def test_odd_numbers_of_bins_agree(bins):
    theirs = SymExpTwoHot(bins).bins
    assert_close(theirs, HEADS[f"twohot_bins/{bins}"])
    assert_close(theirs, symexp_bins(bins))


@pytest.mark.parametrize(("bins", "innermost"), [(6, 53.6), (40, 0.67)])
def test_even_numbers_of_bins_differs_no_bin_is_zero(bins, innermost):
    want = HEADS.tensor(f"twohot_bins/{bins}")
    assert (want == 0).sum() == 2
    assert_close(symexp_bins(bins), want)
    assert SymExpTwoHot(bins).bins.abs().min().item() == pytest.approx(innermost, rel=0.01)


@pytest.mark.parametrize("group", ["twohot", "twohot_small", "twohot_even"])
def test_twohot_prediction_and_loss_agree_given_the_bins(group):
    v = HEADS.at(group)
    logits, bins = v.tensor("logits").requires_grad_(), v.tensor("bins")
    pred = objectives.two_hot_decode(logits, bins)
    scale = (torch.softmax(logits.detach(), -1) * bins).abs().sum(-1)
    assert ((pred - v.tensor("pred")).abs() <= 1e-6 * scale).all()
    assert (pred[8:11] == 0).all()  # symmetric logits
    loss = objectives.two_hot_cross_entropy(logits, v.tensor("target"), bins)
    assert_close(loss, v["loss"])
    (loss * v.tensor("dloss")).sum().backward()
    assert_grad(logits.grad, v["grad_loss"])


# Latents.


@pytest.mark.parametrize("group", ["kl", "kl_nofree"])
def test_kl_terms_agree(group):
    v = LOSSES.at(group)
    unimix, free = v["unimix_free"].tolist()
    terms = objectives.categorical_kl_terms(v.tensor("post"), v.tensor("prior"), free_nats=free, unimix=unimix)
    for got, name in zip(terms, ("dyn", "rep"), strict=True):
        assert_close(got, v[name].mean())


@pytest.mark.parametrize(("group", "factor"), [("kl", 0.735), ("kl_nofree", 0.287)])
def test_balanced_kl_differs_free_nats_per_categorical_mean_over_them_no_unimix(group, factor):
    """The default of ``DreamerV3ModelLoss``; with alpha 1/1.1 it should be the reference's dyn + 0.1 rep over 1.1."""
    v = LOSSES.at(group)
    free = v["unimix_free"].tolist()[1]
    got = 1.1 * objectives.categorical_kl_balanced(v.tensor("post"), v.tensor("prior"), alpha=1 / 1.1, free_bits=free)
    assert (got / (v["dyn"].mean() + 0.1 * v["rep"].mean())).item() == pytest.approx(factor, rel=0.01)


def load(module: nn.Module, v, names: dict[str, nn.Module]) -> None:
    """Fill TorchRL's layers with the reference's arrays, by the reference's names."""
    with torch.no_grad():
        for name, layer in names.items():
            if f"param/{name}/scale" in v:
                layer.weight.copy_(v.tensor(f"param/{name}/scale"))
                continue
            kernel = v.tensor(f"param/{name}/kernel")
            layer.weight.copy_(kernel.T if isinstance(layer, nn.Linear) else kernel)
            layer.bias.copy_(v.tensor(f"param/{name}/bias"))
    assert sum(p.numel() for layer in names.values() for p in layer.parameters()) == sum(
        p.numel() for p in module.parameters()
    )


def rssm() -> tuple[RSSMPriorV3, RSSMPosteriorV3, dict[str, nn.Module]]:
    """TorchRL's RSSM with the recorded weights of ``rssm.npz: cont``."""
    v = RSSM.at("cont")
    size = v.json("config")["rssm"]
    sizes = {"hidden_dim": size["hidden"], "rnn_hidden_dim": size["deter"], "num_categoricals": size["stoch"]}
    sizes |= {"num_classes": size["classes"], "unimix": size["unimix"]}
    prior = RSSMPriorV3(action_shape=(6,), action_dim=6, recurrent_model="block_gru", num_blocks=8, **sizes)
    post = RSSMPosteriorV3(obs_embed_dim=v.json("config")["token_size"], use_rms_norm=True, **sizes)
    core, layers = prior.rnn, {}
    for i, part in enumerate((core.belief_projection, core.state_projection, core.action_projection)):
        layers |= {f"dynin{i}": part[0], f"dynin{i}norm": part[1]}
    layers |= {"dynhid0": core.hidden_layers[0], "dynhid0norm": core.hidden_layers[1], "dyngru": core.gates}
    head, post_head = prior.rnn_to_prior_projector, post.obs_rnn_to_post_projector
    layers |= {"prior0": head[0], "prior0norm": head[1], "prior1": head[3], "prior1norm": head[4]}
    layers |= {"priorlogit": head[6], "obs0": post_head[0], "obs0norm": post_head[1], "obslogit": post_head[3]}
    load(nn.ModuleList([prior, post]), v, layers)
    return prior, post, layers


def test_recurrent_step_and_prior_agree():
    prior, _, layers = rssm()
    v = RSSM.at("cont/core")
    deter, action = v.tensor("deter").requires_grad_(), v.tensor("action").requires_grad_()
    stoch = v.tensor("stoch").flatten(-2).requires_grad_()
    _, _, out = prior(stoch, deter, action)
    assert_close(out, v["out"])
    (out * v.tensor("dout")).sum().backward()
    for leaf, name in ((deter, "grad_deter"), (action, "grad_action")):
        assert_grad(leaf.grad, v[name])
    assert_grad(stoch.grad.view(3, 4, 8), v["grad_stoch"])
    for name in ("dyngru", "dynhid0"):
        assert_grad(layers[name].weight.grad, v[f"grad/{name}/kernel"])
    v = RSSM.at("cont/prior")
    assert_close(prior.rnn_to_prior_projector(v.tensor("deter")).view(3, 4, 8), v["logit"])


def test_observing_agrees_as_long_as_the_draws_do(monkeypatch):
    """Over eight steps with resets; the recorded draws are put in the place of TorchRL's own."""
    prior, post, _ = rssm()
    v = RSSM.at("cont/observe")
    drawn = (index for step in v.tensor("sample_idx").unbind(1) for index in (step, step))  # prior first: it is unused

    def recorded(logits, unimix, uniform):
        return onehot.sample(onehot.mixed_probs(logits, unimix), next(drawn))

    monkeypatch.setattr("torchrl.modules.models.model_based._straight_through_categorical", recorded)
    keys = ["state", "belief", "action"], [("next", "prior_logits"), ("next", "state"), ("next", "belief")]
    posts = [("next", "belief"), ("next", "encoded_latents")], [("next", "posterior_logits"), ("next", "state")]
    rollout = RSSMRolloutV3(TensorDictModule(prior, *keys), TensorDictModule(post, *posts))
    first = {"state": v.tensor("carry/stoch").flatten(-2), "belief": v.tensor("carry/deter")}
    data = {key: x.unsqueeze(1).expand(-1, 8, -1) for key, x in first.items()}
    data |= {"action": v.tensor("action/action"), "is_init": v.tensor("reset").bool().unsqueeze(-1)}
    out = rollout(TensorDict({**data, "next": {"encoded_latents": v.tensor("token")}}, [3, 8]))["next"]
    assert_close(out["belief"], v["deter"], 1e-4)
    assert_close(out["posterior_logits"], v["logit"], 1e-4)


def test_straight_through_samples_agree():
    """TorchRL adds ``onehot - probs`` to ``probs``, which is one-hot up to rounding; the gradient is the same."""
    _, post, _ = rssm()
    torch.manual_seed(0)
    logits, state = post(torch.randn(64, 64), 3 * torch.randn(64, 16))
    weight = torch.randn(64, 32)
    (got,) = torch.autograd.grad((state * weight).sum(), logits)
    raw = logits.detach().requires_grad_()
    drawn = onehot.sample(onehot.mixed_probs(raw, post.unimix), state.detach().view(64, 4, 8).argmax(-1))
    (drawn.flatten(-2) * weight).sum().backward()
    assert_grad(got, raw.grad, 1e-6)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (state.view(64, 4, 8) - drawn).abs().max() < 2e-7


# Heads and encoders.


def test_mlp_and_value_head_agree():
    v = HEADS.at("valuehead")
    mlp = DreamerV3MLP(20, 255, depth=3, num_cells=16)
    layers = {"head/logits": mlp.model[9]}
    for i in range(3):
        layers |= {f"mlp/linear{i}": mlp.model[3 * i], f"mlp/norm{i}": mlp.model[3 * i + 1]}
    load(mlp, v, layers)
    x = v.tensor("x").requires_grad_()
    loss = objectives.two_hot_cross_entropy(mlp(x), v.tensor("target"), SymExpTwoHot(255).bins)
    assert_close(loss, v["loss"])
    (loss * v.tensor("dloss")).sum().backward()
    assert_grad(x.grad, v["grad_x"])


def test_discrete_policy_differs_it_mixes_in_the_uniform_distribution_by_default():
    v = HEADS.at("policy_disc")
    errors = {}
    for unimix in (0.01, 0.0):
        actor = DreamerV3DiscreteActor(20, 5, num_cells=16, unimix=unimix, in_keys=["state", "belief"])
        linears = [m for m in actor.modules() if isinstance(m, nn.Linear)]
        norms = [m for m in actor.modules() if hasattr(m, "eps") and hasattr(m, "weight")]
        layers = {f"mlp/linear{i}": x for i, x in enumerate(linears[:3])} | {"head/action/logits": linears[3]}
        load(actor, v, layers | {f"mlp/norm{i}": x for i, x in enumerate(norms)})
        x = v.tensor("x")
        dist = actor.get_dist(TensorDict({"belief": x[..., :12], "state": x[..., 12:]}, x.shape[:-1]))
        logp = torch.log_softmax(dist.logits, -1).gather(-1, v.tensor("event/action").long().unsqueeze(-1)).squeeze(-1)
        errors[unimix] = relative(logp, v.tensor("out/action/logp"))
    assert errors[0.0] < 1e-6
    assert errors[0.01] > 1e-5


def test_image_encoder_differs_strides_where_the_reference_pools():
    """The same weights fit; the reference's default convolves at full size and takes the maximum of 2x2."""
    v = NETS.at("image/enc")
    encoder = DreamerV3ImageEncoder(3, depth=4)
    with torch.no_grad():
        for i in range(4):
            conv, norm = encoder.layers[3 * i], encoder.layers[3 * i + 1]
            conv.weight.copy_(v.tensor(f"param/cnn{i}/kernel").permute(3, 2, 0, 1))
            conv.bias.copy_(v.tensor(f"param/cnn{i}/bias"))
            norm.weight.copy_(v.tensor(f"param/cnn{i}norm/scale"))
    got = encoder(v.tensor("obs/image").movedim(-1, -3)).view(1, 2, 16, 4, 4).movedim(-3, -1).flatten(-3)
    assert relative(got, v.tensor("tokens")) > 0.3


def test_strided_convolution_differs_it_pads_both_sides_alike():
    """SAME padding of a kernel of 5 with stride 2 on an even size is 1 before and 2 after; TorchRL pads 2 and 2."""
    v = NETS.at("conv_stride2_even")
    conv = DreamerV3ImageEncoder(3, depth=6, mults=(1,)).layers[0]
    with torch.no_grad():
        conv.weight.copy_(v.tensor("param/kernel").permute(3, 2, 0, 1))
        conv.bias.copy_(v.tensor("param/bias"))
    x = v.tensor("x").movedim(-1, -3)
    assert conv(x).movedim(-3, -1).shape == v["y"].shape
    assert relative(conv(x).movedim(-3, -1), v.tensor("y")) > 0.3
    shifted = nn.functional.conv2d(nn.functional.pad(x, (1, 2, 1, 2)), conv.weight, conv.bias, stride=2)
    assert_close(shifted.movedim(-3, -1), v["y"])


# Returns and the losses of actor and critic.


@pytest.mark.parametrize("estimate", [td_lambda_return_estimate, vec_td_lambda_return_estimate])
@pytest.mark.parametrize("group", ["lambda_replay", "lambda_other"])
def test_lambda_returns_agree(group, estimate):
    v = LOSSES.at(group)
    disc, lam = v["disc_lam"].tolist()
    last, term, reward, boot = (v.tensor(name).float() for name in ("last", "term", "rew", "boot"))
    later = [x[:, 1:, None] for x in (boot, reward, last.bool(), term.bool())]
    names = ("next_state_value", "reward", "done", "terminated")
    got = estimate(gamma=disc, lmbda=lam, **dict(zip(names, later, strict=True))).squeeze(-1)
    assert_close(got, v["ret"])
    assert_close(got, lambda_return(reward, (1 - term) * disc, boot, (1 - last) * lam))


@pytest.mark.parametrize("group", ["norm_default", "norm_fast"])
def test_return_normalisers_agree(group):
    v = LOSSES.at(group)
    norm = PercentileValueNorm(rate=v.json("config")["rate"])
    scales = [norm.scale()]
    for x in v.tensor("x"):
        norm.update(x.reshape(-1, 1))
        scales.append(norm.scale())
    assert_close(torch.cat(scales), v["scale"])


class Recorded(nn.Module):
    """Stands for a network whose outputs [n, t, ...] were recorded; the state [..., 1] counts them."""

    def __init__(self, *outputs: torch.Tensor):
        super().__init__()
        self.outputs = [x.flatten(0, 1) for x in outputs]

    def forward(self, state):
        found = tuple(x[state.squeeze(-1).long()] for x in self.outputs)
        return found if len(found) > 1 else found[0]


class RecordedDreams(nn.Module):
    """Stands for the imagination: the recorded actions, rewards and counted states."""

    def __init__(self, action: torch.Tensor, reward: torch.Tensor):
        super().__init__()
        n, t = reward.shape
        state = torch.arange(n * t, dtype=torch.float32).view(n, t, 1)
        after = {"state": state[:, 1:], "belief": state[:, 1:], "reward": reward[:, 1:, None]}
        before = {"state": state[:, :-1], "belief": state[:, :-1], "action": action[:, :-1]}
        self.dreams = TensorDict({**before, "next": after}, [n, t - 1])

    def reset(self, tensordict):
        return tensordict

    def rollout(self, **_):
        return self.dreams.clone()


def recorded_losses(group: str):
    """TorchRL's actor and value losses on the recorded outputs of all networks."""
    v = LOSSES.at(group)
    raw = v.tensor("policy_raw/mean"), v.tensor("policy_raw/std")
    squashed = torch.tanh(raw[0]), 0.9 * torch.sigmoid(raw[1] + 2) + 0.1
    policy = TensorDictModule(Recorded(*squashed), ["state"], ["m", "s"])
    actor = ProbabilisticTensorDictSequential(
        policy,
        ProbabilisticTensorDictModule(
            {"loc": "m", "scale": "s"}, ["action"], distribution_class=IndependentNormal, return_log_prob=True
        ),
    )
    raws = v.tensor("value_logits"), v.tensor("value_pred").unsqueeze(-1)
    value = TensorDictModule(Recorded(*raws), ["state"], ["state_value_logits", "state_value"])
    cont = TensorDictModule(Recorded(v.tensor("con").unsqueeze(-1)), ["state"], ["continuation"])
    options = v.json("config")["kwargs"]
    loss = objectives.DreamerV3ActorLoss(
        actor,
        value,
        RecordedDreams(v.tensor("act/action"), v.tensor("rew")),
        continuation_model=cont,
        imagination_horizon=v["rew"].shape[1] - 1,
        entropy_bonus=options["actent"],
        use_reinforce=True,
    )
    loss.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=options["lam"])  # con holds the discount
    for ours, name in (("low", "lo"), ("high", "hi")):
        getattr(loss.retnorm, ours).fill_(v[f"state_before/retnorm/{name}/value"].item())
    return v, loss, value


def test_actor_loss_agrees_on_recorded_dreams():
    v, loss, _ = recorded_losses("imag_cont")
    zeros = torch.zeros(len(v["rew"]), 1)
    out, dreams = loss(TensorDict({"state": zeros, "belief": zeros}, [len(zeros)]))
    assert_close(dreams["lambda_target"].squeeze(-1), v["ret"])
    assert_close(out["loss_actor"], v["loss/policy"].mean())
    assert_close(loss.retnorm.high, v["state_after/retnorm/hi/value"].reshape(1))


def test_value_loss_agrees_on_recorded_dreams():
    """Without the slow critic's part, which TorchRL can only take from a copy of the network."""
    v, actor, value = recorded_losses("imag_cont")
    zeros = torch.zeros(len(v["rew"]), 1)
    _, dreams = actor(TensorDict({"state": zeros, "belief": zeros}, [len(zeros)]))
    got = objectives.DreamerV3ValueLoss(value, value_loss="two_hot", actor_loss=actor)(dreams)[0]["loss_value"]
    slow = objectives.two_hot_cross_entropy(v.tensor("value_logits"), v.tensor("slowvalue_pred"), symexp_bins(255))
    weight = torch.cumprod(v.tensor("con"), -1)
    assert_close(got, (v.tensor("loss/value") - (weight * slow)[:, :-1]).mean())


def test_replay_value_loss_agrees():
    v = LOSSES.at("repl")
    b, k = v["rew"].shape
    logits, options = v.tensor("value_logits"), v.json("config")["kwargs"]
    value = TensorDictModule(Recorded(logits, torch.zeros(b, k, 1)), ["state"], ["state_value_logits", "state_value"])
    flags = {name: v.tensor(key).bool().unsqueeze(-1) for name, key in (("done", "last"), ("terminated", "term"))}
    data = {"state": torch.arange(b * k).view(b, k, 1).float(), "bootstrap": v.tensor("boot")}
    data["next"] = {"reward": v.tensor("rew").unsqueeze(-1), **flags}
    loss = objectives.DreamerV3ValueLoss(value, value_loss="two_hot")
    found = loss.replay_value_loss(TensorDict(data, [b, k]), horizon=options["horizon"], lmbda=options["lam"])
    slow = objectives.two_hot_cross_entropy(
        logits, objectives.two_hot_decode(v.tensor("slowvalue_logits"), symexp_bins(255)), symexp_bins(255)
    )
    kept = 1 - v.tensor("last").float()
    assert_close(found["loss_replay_value"], (v.tensor("loss/repval") - (kept * slow)[:, :-1]).mean())


# The optimiser.


@pytest.mark.parametrize("group", ["default", "short_warmup", "no_warmup", "no_clip"])
def test_optimisers_agree(group):
    v = OPTIM.at(group)
    options = v.json("config")
    params = {name: nn.Parameter(value) for name, value in v.under("param0").items()}
    names = {"lr": "lr", "agc": "agc", "eps": "eps", "beta1": "beta1", "beta2": "beta2", "warmup_steps": "warmup"}
    optimizer = DreamerV3Optimizer(params.values(), **{theirs: options[ours] for theirs, ours in names.items()})
    for step in range(6):
        for name, parameter in params.items():
            grad = v.tensor(f"grad/{name}")[step]
            parameter.grad = grad if grad.any() else None
        optimizer.step()
        for name, parameter in params.items():
            error = (parameter.detach() - v.tensor(f"param/{name}")[step]).abs().max()
            assert error <= 2e-4 * options["lr"], name


def test_optimiser_differs_a_tensor_without_a_gradient_stops_where_the_reference_coasts():
    """No gradient counts as zero in the reference: the momentum goes on, and falls off."""
    moved = {}
    for missing in (None, torch.zeros(3)):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = DreamerV3Optimizer([parameter, nn.Parameter(torch.ones(3))], lr=0.1, warmup_steps=0)
        for grad in (torch.ones(3), missing):
            before = parameter.detach().clone()
            parameter.grad, optimizer.param_groups[0]["params"][1].grad = grad, torch.ones(3)
            optimizer.step()
        moved[missing is None] = (parameter.detach() - before).abs().max().item()
    assert moved[True] == 0
    assert moved[False] > 0.04


# DreamerV1: no arrays; the formulas of danijar/dreamer@56d4d44.


def normals(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(5, 7, 6, generator=generator)  # noqa: E731
    return draw(), draw().exp() + 0.1, draw(), draw().exp() + 0.1  # post mean, std, prior mean, std


def v1_kl(free: float, delayed: bool) -> torch.Tensor:
    loss = objectives.DreamerModelLoss(nn.ModuleList([nn.ModuleList([nn.Identity()]), nn.Identity()]))
    loss.free_nats, loss.delayed_clamp = free, delayed
    post_mean, post_std, prior_mean, prior_std = normals()
    return loss.kl_loss(prior_mean, prior_std, post_mean, post_std)


@pytest.mark.parametrize(("delayed", "clip"), [(True, batch_mean), (False, per_step)])
def test_v1_gaussian_kl_agrees(delayed, clip):
    """``delayed_clamp=True`` is V1's free nats, on the batch mean; TorchRL's default clips each step, as V3 does."""
    post_mean, post_std, prior_mean, prior_std = normals()
    kl = Gaussian(6).divergence(torch.cat([post_mean, post_std], -1), torch.cat([prior_mean, prior_std], -1)).rep
    for free in (0.0, 3.0, kl.median().item(), 1000.0):
        assert_close(v1_kl(free, delayed), clip(kl, free).mean())


def test_v1_free_nats_differs_by_default_each_step_is_clipped():
    free = v1_kl(0.0, True).item()
    assert v1_kl(free, True).item() == pytest.approx(free)
    assert v1_kl(free, False).item() > 1.2 * free


def test_v1_standard_deviation_differs_a_bound_where_the_reference_adds():
    """V1 has ``softplus(x) + 0.1``; TorchRL's RSSM has ``max(softplus(x), 0.1)``: smaller by 0.1, and then constant."""
    raw = torch.cat([torch.zeros(2), torch.tensor([-4.0, 1.0])])
    _, theirs = NormalParamExtractor(scale_lb=0.1, scale_mapping="softplus")(raw)
    _, ours = Gaussian(2).params(raw).chunk(2, -1)
    assert_close(ours, torch.nn.functional.softplus(raw[2:]) + 0.1)
    assert_close(ours - theirs, torch.tensor([0.018150, 0.1]), 1e-4)


def test_v1_losses_differs_sums_over_time_and_no_half():
    """TorchRL sums the value loss over the dream and leaves out the 1/2 of a unit normal: 2h times V1's gradient."""
    n, h, gamma = 4, 15, 0.99
    target, raw = torch.randn(n, h, 1), torch.randn(n, h, 1).requires_grad_()
    value = TensorDictModule(nn.Identity(), ["state"], ["state_value"])
    data = TensorDict({"state": raw, "lambda_target": target}, [n, h])
    objectives.DreamerValueLoss(value, gamma=gamma)(data)[0]["loss_value"].backward()
    discount = gamma ** torch.arange(h).view(1, h, 1)
    own = raw.detach().requires_grad_()
    (0.5 * discount * (own - target).square()).mean().backward()  # -log p of a unit normal, mean over dream and batch
    assert_grad(raw.grad, 2 * h * own.grad)

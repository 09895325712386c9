"""``rssm.npz``: recurrent step, posterior, prior, observing, imagining, and the gradient of a sample."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from dreamer_lightning import interop, kernels
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.ops import onehot
from dreamer_lightning.types import Latent, Specs
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.record import GRADIENT, SEQUENCE, Job, Vectors, watch


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file: one for each kind of actions."""
    for group in v.groups():
        yield group, partial(_group, v, group)


def _group(v: Vectors, group: str) -> None:
    config = v.json(f"{group}/config")
    layout = Specs({}, {name: build.space(entry) for name, entry in config["act"].items()}).actions
    rssm = build.rssm(config["rssm"], layout.size, config["token_size"]).to(v.dtype)
    interop.load(interop.rssm_layers(rssm), v.under(f"{group}/param"))

    def action(name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The flat actions, and the continuous entries as leaves."""
        actions = v.under(name)
        floats = {key: x.requires_grad_() for key, x in actions.items() if x.is_floating_point()}
        return layout.one_hot(actions, v.dtype), floats

    _core(v, f"{group}/core", rssm)
    _prior(v, f"{group}/prior", rssm)
    _obs1(v, f"{group}/obs1", rssm, action)
    kernels.accelerate(rssm)  # whose sequences are compared as a run computes them
    observed = _observe(v, f"{group}/observe", rssm, action)
    _imagine(v, f"{group}/imagine", rssm, action)
    _dist(v, f"{group}/dist", rssm.unimix)
    _starts(v, f"{group}/starts", observed, rssm)


def _latent(v: Vectors, prefix: str) -> Latent:
    """The incoming state, as leaves that take gradients."""
    deter, stoch = v.tensor(f"{prefix}/deter"), v.tensor(f"{prefix}/stoch")
    return Latent(deter.requires_grad_(), stoch.flatten(-2).requires_grad_())


def _groups(rssm: BlockRSSM, stoch: Tensor) -> Tensor:
    return stoch.unflatten(-1, (rssm.stoch, rssm.classes))


def _grads(v: Vectors, prefix: str, rssm: BlockRSSM) -> None:
    """Compare the parameter gradients that are recorded, and forget ours."""
    grads = interop.gradients(interop.rssm_layers(rssm))
    for name in v.names(f"{prefix}/grad"):
        v.norm(f"{prefix}/grad/{name}", grads[name], GRADIENT)
    rssm.zero_grad()


def _core(v: Vectors, group: str, rssm: BlockRSSM) -> None:
    latent, action = _latent(v, group), v.tensor(f"{group}/action").requires_grad_()
    with watch(interop.rssm_layers(rssm)) as mids:
        out = rssm.core(latent, rssm.project_action(action)).deter
    v.close(f"{group}/out", out)
    for name in v.names(f"{group}/mid"):
        v.close(f"{group}/mid/{name}", mids[name])
    (out * v.tensor(f"{group}/dout")).sum().backward()
    v.norm(f"{group}/grad_deter", latent.deter.grad)
    v.norm(f"{group}/grad_stoch", _groups(rssm, latent.stoch.grad))
    v.norm(f"{group}/grad_action", action.grad)
    _grads(v, group, rssm)


def _prior(v: Vectors, group: str, rssm: BlockRSSM) -> None:
    deter = v.tensor(f"{group}/deter").requires_grad_()
    logit = rssm.prior(deter)
    v.close(f"{group}/logit", logit)
    (logit * v.tensor(f"{group}/dlogit")).sum().backward()
    v.norm(f"{group}/grad_deter", deter.grad)
    _grads(v, group, rssm)


@torch.no_grad()
def _obs1(v: Vectors, group: str, rssm: BlockRSSM, action) -> None:
    flat, _ = action(f"{group}/action")
    token, reset, index = (v.tensor(f"{group}/{name}") for name in ("token", "reset", "sample_idx"))
    latent, logit = rssm.observe_step(_latent(v, f"{group}/carry"), flat, token, reset, index)
    v.close(f"{group}/deter", latent.deter)
    v.close(f"{group}/logit", logit)
    v.exact(f"{group}/stoch", _groups(rssm, latent.stoch))


def _observe(v: Vectors, group: str, rssm: BlockRSSM, action) -> Latent:
    carry, (flat, floats) = _latent(v, f"{group}/carry"), action(f"{group}/action")
    token = v.tensor(f"{group}/token").requires_grad_()
    reset, index = v.tensor(f"{group}/reset"), v.tensor(f"{group}/sample_idx")
    latent, logit = rssm.observe(carry, flat, token, reset, index)
    prior = rssm.prior(latent.deter)
    losses, metrics = rssm.loss(logit, prior)
    v.close(f"{group}/deter", latent.deter, SEQUENCE)
    v.close(f"{group}/logit", logit, SEQUENCE)
    v.close(f"{group}/prior_logit", prior, SEQUENCE)
    v.close(f"{group}/final/deter", latent.deter[:, -1], SEQUENCE)
    v.exact(f"{group}/final/stoch", _groups(rssm, latent.stoch[:, -1]))
    for name, loss in losses.items():
        v.close(f"{group}/loss/{name}", loss, SEQUENCE)
    v.close(f"{group}/metric/dyn_ent", metrics["prior_entropy"], SEQUENCE)
    v.close(f"{group}/metric/rep_ent", metrics["post_entropy"], SEQUENCE)
    outs = {"deter": latent.deter, "stoch": _groups(rssm, latent.stoch), "logit": logit} | losses
    sum((outs[name] * cot).sum() for name, cot in v.under(f"{group}/cot").items()).backward()
    v.norm(f"{group}/grad_carry/deter", carry.deter.grad)
    v.norm(f"{group}/grad_carry/stoch", _groups(rssm, carry.stoch.grad))
    v.norm(f"{group}/grad_token", token.grad)
    for name in v.names(f"{group}/grad_action"):
        v.norm(f"{group}/grad_action/{name}", floats[name].grad)
    _grads(v, group, rssm)
    return latent.detach()


def _imagine(v: Vectors, group: str, rssm: BlockRSSM, action) -> None:
    carry, (flat, _) = _latent(v, f"{group}/carry"), action(f"{group}/action")
    last = flat.shape[1] - 1  # the dream asks for one action more, which leads nowhere
    dream, _ = rssm.imagine(carry, lambda _, step: flat[:, min(step, last)], v.tensor(f"{group}/sample_idx"))
    dream = dream.map(lambda x: x[:, 1:])
    logit = rssm.prior(dream.deter)
    v.close(f"{group}/deter", dream.deter, SEQUENCE)
    v.close(f"{group}/logit", logit, SEQUENCE)
    v.close(f"{group}/final/deter", dream.deter[:, -1], SEQUENCE)
    v.exact(f"{group}/final/stoch", _groups(rssm, dream.stoch[:, -1]))
    outs = {"deter": dream.deter, "stoch": _groups(rssm, dream.stoch), "logit": logit}
    sum((outs[name] * cot).sum() for name, cot in v.under(f"{group}/cot").items()).backward()
    v.norm(f"{group}/grad_carry/deter", carry.deter.grad)
    v.norm(f"{group}/grad_carry/stoch", _groups(rssm, carry.stoch.grad))
    rssm.zero_grad()


def _dist(v: Vectors, group: str, unimix: float) -> None:
    logit = v.tensor(f"{group}/logit").requires_grad_()
    probs, logp = onehot.mixed_probs(logit, unimix), onehot.log_probs(logit, unimix)
    other = onehot.log_probs(v.tensor(f"{group}/logit_other"), unimix)
    event = v.tensor(f"{group}/logp_event")
    v.close(f"{group}/mixed_logit", logp)
    v.close(f"{group}/probs", probs)
    v.close(f"{group}/entropy", onehot.entropy(logp).sum(-1))
    v.exact(f"{group}/mode", probs.argmax(-1))
    v.close(f"{group}/kl", onehot.kl(logp, other).sum(-1))
    v.close(f"{group}/logp", logp.gather(-1, event.unsqueeze(-1)).sum((-2, -1)))
    (onehot.sample(probs, event) * v.tensor(f"{group}/st_weight")).sum().backward()
    v.norm(f"{group}/st_grad", logit.grad)


def _starts(v: Vectors, group: str, observed: Latent, rssm: BlockRSSM) -> None:
    k = int(v.number(f"{group}/k"))
    starts = observed.map(lambda x: x[:, -k:].flatten(0, 1))
    v.close(f"{group}/deter", starts.deter, SEQUENCE)
    v.exact(f"{group}/sample_idx", _groups(rssm, starts.stoch).argmax(-1))

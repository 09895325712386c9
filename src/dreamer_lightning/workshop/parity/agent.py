"""``agent_*.npz``: the losses and gradients of a whole agent, one acting step, and (in ``training``) three updates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dreamer_lightning import interop
from dreamer_lightning.dreamer import Dreamer, TrainOutput
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.heads import policy_keys
from dreamer_lightning.workshop.parity.injection import (
    FLAGS,
    carry_after,
    injected,
    latent_of,
    loss_metrics,
    noise_of,
    records_of,
)
from dreamer_lightning.workshop.parity.record import AGENT_GRADIENT, IMAGE, SEQUENCE, Job, Vectors
from dreamer_lightning.workshop.parity.training import jobs as training_jobs
from dreamer_lightning.workshop.parity.watching import Seen, compare_metrics, compare_state, dream_metrics, watching


def jobs(v: Vectors) -> Iterator[Job]:
    """The variants of each agent in the file, its acting step and its training steps."""
    for name in v.groups():
        config = v.json(f"{name}/config")
        order = v.json(f"{name}/obs_order")
        specs = build.specs(config["obs"], config["act"], order)
        make = partial(build.dreamer, config["agent"], specs)
        variants = dict.fromkeys(
            rest.split("/")[0] for rest in v.names(name) if "/param/" in rest and "/step" not in rest
        )
        for variant in variants:
            yield f"{name}/{variant}", partial(_variant, v, name, variant, make)
            if v.names(f"{name}/{variant}/policy"):
                yield f"{name}/{variant}/policy", partial(_policy, v, f"{name}/{variant}", make)
        if f"{name}/train/data/consec" in v:
            yield from training_jobs(v, f"{name}/train", config["agent"], make)


def loss_limits(dreamer: Dreamer) -> tuple[dict[str, float], float]:
    """The limit of each loss by the reference's name, and that of the total."""
    images = {key for key, space in dreamer.specs.obs.items() if space.image}
    return {key: IMAGE for key in images}, IMAGE if images else SEQUENCE


def _variant(v: Vectors, name: str, variant: str, make) -> None:
    """One call of the loss, with gradients."""
    dreamer, key = make().to(v.dtype), f"{name}/{variant}"
    model, agent, specs = dreamer.world_model, dreamer.actor_critic, dreamer.specs
    layers = interop.agent_layers(model, agent)
    interop.load_agent(model, agent, v.under(f"{key}/param"))
    count = sum(p.numel() for p in dreamer.parameters() if p.requires_grad)
    if f"{name}/param_count" not in v.touched:
        v.exact(f"{name}/param_count", count)
    records = records_of(v, f"{name}/obs", specs)
    records["prev_action"] = specs.actions.one_hot(v.under(f"{name}/prevact"), v.dtype)
    kept: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.enter_context(injected(dreamer))
        seen = stack.enter_context(watching(agent))
        for module, what in ((model.encoder, "tokens"), (model, "model")):
            hook = module.register_forward_hook(lambda m, i, output, what=what: kept.__setitem__(what, output))
            stack.callback(hook.remove)
        out = dreamer.losses(records, latent_of(v, f"{name}/carry"), noise_of(v, f"{key}/sample", specs))
    out.loss.backward()
    _losses(v, key, dreamer, out, seen)
    _middle(v, key, dreamer, kept["tokens"], kept["model"][1], seen)
    compare_state(v, f"{key}/state_after", agent, SEQUENCE)
    v.ignore(*(f"{key}/fused/{rest}" for rest in v.names(f"{key}/fused")))  # what an optimising compiler makes of it
    grads, squares = interop.gradients(layers), {}
    for tensor in v.names(f"{key}/grad"):
        v.norm(f"{key}/grad/{tensor}", grads[tensor], AGENT_GRADIENT)
    for tensor, grad in grads.items():
        squares[tensor.split("/")[0]] = squares.get(tensor.split("/")[0], 0.0) + grad.square().sum()
    for module in v.names(f"{key}/gradnorm"):
        v.norm(f"{key}/gradnorm/{module}", squares[module].sqrt(), AGENT_GRADIENT)


def _losses(v: Vectors, key: str, dreamer: Dreamer, out: TrainOutput, seen: Seen) -> None:
    limits, total = loss_limits(dreamer)
    v.close(f"{key}/total_loss", out.loss, total)
    losses = {interop.loss_name(name): loss for name, loss in out.losses.items()}
    for name in v.names(f"{key}/loss"):
        v.close(f"{key}/loss/{name}", losses[name], limits.get(name, SEQUENCE))
    found = dream_metrics(dreamer.actor_critic, seen) | loss_metrics(dreamer, out)
    compare_metrics(v, f"{key}/metric", found, SEQUENCE)


@torch.no_grad()
def _middle(v: Vectors, key: str, dreamer: Dreamer, tokens: Tensor, observed, seen: Seen) -> None:
    """What lies between records and losses: latents, dreams, returns."""
    model, agent, dream = dreamer.world_model, dreamer.actor_critic, seen.dream
    rssm, (latent, post_logits, *_) = model.rssm, observed
    deter = dream.feat[:, 1:, : rssm.deter_dim]
    mids = {"tokens": tokens, "deter": latent.deter, "post_logit": post_logits}
    mids |= {"imag_deter": deter, "imag_logit": rssm.prior(deter)}
    for name in v.names(f"{key}/mid"):
        v.close(f"{key}/mid/{name}", mids[name], SEQUENCE)
    policy = agent.policy(dream.feat)
    imag = {
        "con": dream.cont,
        "rew": dream.reward,
        "ret": seen.ret,
        "value": agent.value(dream.feat).pred(),
        "slowvalue": agent.slow_critic(dream.feat).pred(),
        "policy_loss": seen.losses["policy"],
        "value_loss": seen.losses["value"],
    }
    parts = policy.spaces.split(dream.action)
    for name, dist in policy.by_key.items():
        imag |= {f"ent/{name}": dist.entropy(), f"logp/{name}": dist.log_prob(parts[name])}
    for name in v.names(f"{key}/imag"):
        v.close(f"{key}/imag/{name}", imag[name], SEQUENCE)
    replay = {"boot": seen.boot, "loss": seen.replay_loss, "ret": seen.replay_ret}
    for name in v.names(f"{key}/replay"):
        v.close(f"{key}/replay/{name}", replay[name], SEQUENCE)
    carry_after(v, f"{key}/carry_after", dreamer, latent)


def _policy(v: Vectors, name: str, make) -> None:
    """One acting step with the recorded draws."""
    dreamer, key = make().to(v.dtype), f"{name}/policy"
    model, agent, specs = dreamer.world_model, dreamer.actor_critic, dreamer.specs
    interop.load_agent(model, agent, v.under(f"{name}/param"))
    v.ignore(*(f"{key}/obs/{flag}" for flag in FLAGS))  # of these acting reads is_first alone
    rssm, is_first = model.rssm, v.tensor(f"{key}/obs/is_first")
    obs = {name: v.tensor(f"{key}/obs/{name}") for name in specs.obs}
    action = specs.actions.one_hot(v.under(f"{key}/act"), v.dtype)
    prev_action = specs.actions.one_hot(v.under(f"{key}/prevact"), v.dtype)
    index = v.tensor(f"{key}/sample_idx")
    state = {**rssm.pack(latent_of(v, f"{key}/carry")), "prev_action": prev_action}
    rssm.noise = lambda *batch, generator=None: index  # type: ignore[method-assign]
    agent.policy.noise = lambda *args, **kwargs: action  # type: ignore[method-assign]
    with injected(dreamer):
        chosen, state = dreamer.act(obs, state, is_first)
    latent = rssm.unpack(state)
    v.close(f"{key}/deter", latent.deter, SEQUENCE)
    v.exact(f"{key}/sample_idx", latent.stoch.unflatten(-1, (rssm.stoch, rssm.classes)).argmax(-1))
    for entry, value in specs.actions.numbers(chosen.to(v.dtype)).items():
        v.exact(f"{key}/act/{entry}", value)
    latent = latent.map(lambda x: x.to(v.dtype))
    policy_keys(v, f"{key}/dist", agent.policy, latent.feat, v.under(f"{key}/act"), SEQUENCE)

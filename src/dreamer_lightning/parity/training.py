"""Three training steps of a whole agent on one replayed batch (``agent_*.npz``, ``<name>/train``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import interop
from dreamer_lightning.dreamer import Dreamer, TrainOutput
from dreamer_lightning.optim import LaProp
from dreamer_lightning.parity import build
from dreamer_lightning.parity.injection import FLAGS, carry_after, injected, latent_of, loss_metrics, noise_of
from dreamer_lightning.parity.optim import optimizer
from dreamer_lightning.parity.record import AGENT_GRADIENT, IMAGE, LEARNED, SEQUENCE, Job, NotRunnable, Vectors
from dreamer_lightning.parity.watching import compare_metrics, compare_state, dream_metrics, watching
from dreamer_lightning.types import Latent

SHARE = 0.001  # of a tensor's entries may move the other way: early updates are near the sign of the gradient


def jobs(v: Vectors, key: str, config: Mapping, make: Callable[[], Dreamer]) -> Iterator[Job]:
    """One job: the steps follow from one another."""
    yield key, partial(_train, v, key, config, make)


def _train(v: Vectors, key: str, config: Mapping, make: Callable[[], Dreamer]) -> None:
    dreamer = make().to(v.dtype)
    model, agent = dreamer.world_model, dreamer.actor_critic
    interop.load_agent(model, agent, v.under(f"{key}/param0"))
    opt = optimizer(config["opt"])([p for p in dreamer.parameters() if p.requires_grad])
    batch, lr = _batch(v, key, dreamer, config["replay_context"]), config["opt"]["lr"]
    used: dict[str, Any] = {}
    losses = dreamer.losses

    def on_losses(records: dict[str, Any], carry: Latent, noise: Any) -> TrainOutput:
        used.update(records=records, carry=carry)
        return losses(records, carry, noise)

    dreamer.losses = on_losses  # type: ignore[method-assign]
    for step in range(1, 1 + sum(name.endswith("/sample/post_idx") for name in v.names(key))):
        with injected(dreamer), watching(agent) as seen:
            out = dreamer(batch, noise=noise_of(v, f"{key}/step{step}/sample", dreamer.specs))
        if step == 1:
            _resolved(v, key, dreamer, used["records"], used["carry"], config["replay_context"])
        found = dream_metrics(agent, seen) | loss_metrics(dreamer, out) | _update(dreamer, opt, out)
        compare_metrics(v, f"{key}/step{step}/metric", found, SEQUENCE)
        _step(v, f"{key}/step{step}", dreamer, out, lr)
        for name in v.names(f"{key}/step{step}/carry_prevact_after"):
            v.exact(f"{key}/step{step}/carry_prevact_after/{name}", v.array(f"{key}/data/{name}")[:, -1])


def _batch(v: Vectors, key: str, dreamer: Dreamer, context: int) -> dict[str, Any]:
    """The replayed batch as records [b, 1+t], of which the first only gives its latent.

    Rows that go on from the batch before (``consec`` above 0) take the carried state for that latent.
    """
    if context < 1:
        raise NotRunnable(f"option replay_context={context} is not offered here (only 1 or more)")
    data, specs = f"{key}/data", dreamer.specs
    first = context - 1
    v.ignore(*(f"{key}/carry_prevact/{name}" for name in specs.action))  # with a context, nothing reads it
    batch: dict[str, Any] = {flag: v.tensor(f"{data}/{flag}")[:, first:] for flag in FLAGS}
    batch["obs"] = {name: v.tensor(f"{data}/{name}")[:, first:] for name in specs.obs}
    action = build.flat_action(specs.action, {name: v.tensor(f"{data}/{name}") for name in specs.action}, v.dtype)
    batch["prev_action"] = torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], 1)[:, first:]
    stored = latent_of(v, f"{data}/dyn").map(lambda x: x[:, first:].clone())
    fresh, carry = v.tensor(f"{data}/consec")[:, 0] == 0, latent_of(v, f"{key}/carry")
    for kept, other in zip(stored, carry, strict=True):
        kept[~fresh, 0] = other[~fresh]
    batch["latent"] = dreamer.world_model.rssm.pack(stored)
    return batch


def _resolved(v: Vectors, key: str, dreamer: Dreamer, records: dict[str, Any], carry: Latent, context: int) -> None:
    """What the losses were given, against what the reference made of the batch."""
    rssm, place = dreamer.world_model.rssm, f"{key}/resolved"
    v.exact(f"{place}/carry/deter", carry.deter)
    v.exact(f"{place}/carry/stoch", carry.stoch.unflatten(-1, (rssm.stoch, rssm.classes)))
    for name, action in build.split_action(dreamer.specs.action, records["prev_action"]).items():
        v.exact(f"{place}/prevact/{name}", action)
    for name in v.names(place):
        if name in FLAGS:
            v.exact(f"{place}/{name}", records[name])
    v.exact(f"{place}/stepid", v.array(f"{key}/data/stepid")[:, context:])


def _update(dreamer: Dreamer, opt: LaProp, out: TrainOutput) -> dict[str, tuple[Tensor, Tensor]]:
    """One update as the training loop makes it; the scalars that the reference logs of it."""
    params = [p for p in dreamer.parameters() if p.requires_grad]
    opt.zero_grad()
    out.loss.backward()
    old = [p.detach().clone() for p in params]
    opt.step()
    dreamer.actor_critic.update_slow_critic()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    changes = [new.detach() - before for new, before in zip(params, old, strict=True)]
    count = sum(p.numel() for p in params)
    found = {
        "opt/loss": out.loss.detach(),
        "opt/grad_norm": _total(grads),
        "opt/grad_rms": _total(grads) / count**0.5,
        "opt/update_rms": _total(changes) / count**0.5,
        "opt/param_rms": _total(params) / count**0.5,
        "opt/param_count": torch.tensor(count),
        "opt/updates": dreamer.actor_critic.updates,
    }
    return {name: (value, value.abs()) for name, value in found.items()}


def _total(tensors: list[Tensor]) -> Tensor:
    return torch.cat([x.detach().flatten().double() for x in tensors]).norm()


def _step(v: Vectors, key: str, dreamer: Dreamer, out: TrainOutput, lr: float) -> None:
    """What a step leaves behind: normalisers, parameters, latents for replay."""
    model, agent, rssm = dreamer.world_model, dreamer.actor_critic, dreamer.world_model.rssm
    compare_state(v, f"{key}/state", agent, SEQUENCE)
    params = interop.dump_agent(model, agent)
    for name in v.names(f"{key}/checksum"):
        _checksum(v, f"{key}/checksum/{name}", params[name], lr)
    for name in v.names(f"{key}/param"):
        v.most(f"{key}/param/{name}", params[name], LEARNED, lr, SHARE)
    if f"{key}/replay_out/deter" in v:
        latent = rssm.unpack(out.latents)
        v.close(f"{key}/replay_out/deter", latent.deter, SEQUENCE)
        v.exact(f"{key}/replay_out/stoch_idx", latent.stoch.unflatten(-1, (rssm.stoch, rssm.classes)).argmax(-1))
        carry_after(v, f"{key}/carry_after", dreamer, latent)


def _checksum(v: Vectors, key: str, got: Tensor, lr: float) -> None:
    """Sum, sum of magnitudes and sum of squares of a tensor's entries.

    Allowed are independent errors of ``LEARNED`` learning rates in each entry, a ``SHARE`` of entries that moved the
    other way, and float32's own rounding.
    """
    got = got.double()
    total, size, length = got.abs().sum().item(), got.numel(), got.norm().item()
    sums = torch.stack([got.sum(), got.abs().sum(), got.square().sum()])
    by_entry = lr * np.array([size**0.5, size**0.5, 2 * length])
    flipped = lr * 2 * SHARE * np.array([size, size, 2 * total])
    rounding = np.finfo(np.float32).eps * np.array([total, total, 2 * length**2])
    v.within(key, sums, LEARNED, by_entry + (flipped + rounding) / LEARNED)

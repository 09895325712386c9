"""Three training steps of a whole agent on one replayed batch (``agent_*.npz``, ``<name>/train``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import interop
from dreamer_lightning.dreamer import Dreamer, TrainOutput
from dreamer_lightning.optim import LaProp
from dreamer_lightning.types import Latent
from dreamer_lightning.workshop.parity.injection import FLAGS, carry_after, injected, latent_of, loss_metrics, noise_of
from dreamer_lightning.workshop.parity.optim import optimizer
from dreamer_lightning.workshop.parity.record import LEARNED, SEQUENCE, Job, Vectors
from dreamer_lightning.workshop.parity.watching import compare_metrics, compare_state, dream_metrics, watching

NOISE = 1e-3  # of a tensor's gradient (root mean square): below it an entry's sign may be rounding, and so its update's


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
    unsure: dict[str, Tensor] = {}
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
        for name, grad in interop.gradients(interop.agent_layers(model, agent)).items():
            unsure[name] = unsure.get(name, torch.tensor(False)) | (grad.abs() <= NOISE * grad.square().mean().sqrt())
        _step(v, f"{key}/step{step}", dreamer, out, Freedom(lr, 2 * step * lr, unsure))
        for name in v.names(f"{key}/step{step}/carry_prevact_after"):
            v.exact(f"{key}/step{step}/carry_prevact_after/{name}", v[f"{key}/data/{name}"][:, -1])


def _batch(v: Vectors, key: str, dreamer: Dreamer, context: int) -> dict[str, Any]:
    """The replayed batch as records [b, 1+t], of which the first only gives its latent.

    With a replay context that latent is the stored one, but for rows that go on from the batch before (``consec`` above
    0); these, and all rows without a context, take the carried state.
    """
    data, specs, layout = f"{key}/data", dreamer.specs, dreamer.specs.actions
    action = layout.one_hot({name: v.tensor(f"{data}/{name}") for name in layout}, v.dtype)
    before = layout.one_hot(v.under(f"{key}/carry_prevact"), v.dtype)
    action = torch.cat([torch.zeros_like(action[:, :1]), before.unsqueeze(1), action[:, :-1]], 1)[:, context:]
    batch: dict[str, Any] = {flag: since(v.tensor(f"{data}/{flag}"), context) for flag in FLAGS}
    batch |= {"prev_action": action, "obs": {name: since(v.tensor(f"{data}/{name}"), context) for name in specs.obs}}
    carry = latent_of(v, f"{key}/carry")
    stored = carry.map(lambda x: x.unsqueeze(1).repeat(1, action.shape[1], 1))
    if context:
        fresh = v.tensor(f"{data}/consec")[:, :1, None] == 0
        saved = latent_of(v, f"{data}/dyn").map(lambda x: since(x, context))
        stored = Latent(*(torch.where(fresh, a, b) for a, b in zip(saved, stored, strict=True)))
    batch["latent"] = dreamer.world_model.rssm.pack(stored)
    return batch


def since(x: Tensor, context: int) -> Tensor:
    """The steps that are trained on and one before them, which is made up where there is no context."""
    return x[:, context - 1 :] if context else torch.cat([x[:, :1], x], 1)


def _resolved(v: Vectors, key: str, dreamer: Dreamer, records: dict[str, Any], carry: Latent, context: int) -> None:
    """Compare the inputs of the losses with what the reference made of the batch."""
    rssm, place = dreamer.world_model.rssm, f"{key}/resolved"
    v.ignore(f"{key}/data/consec")  # without a context, nothing reads it
    v.exact(f"{place}/carry/deter", carry.deter)
    v.exact(f"{place}/carry/stoch", carry.stoch.unflatten(-1, (rssm.stoch, rssm.classes)))
    for name, action in dreamer.specs.actions.numbers(records["prev_action"]).items():
        v.exact(f"{place}/prevact/{name}", action)
    for name in v.names(place):
        if name in FLAGS:
            v.exact(f"{place}/{name}", records[name])
    v.exact(f"{place}/stepid", v[f"{key}/data/stepid"][:, context:])


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


class Freedom(NamedTuple):
    """How far parameters may be from the recorded ones.

    Early updates are near the sign of the gradient: an entry whose gradient is rounding noise may go the other way.

    Args:
        lr: the learning rate; everywhere ``LEARNED`` of it is allowed.
        reach: how far apart two entries get that went opposite ways.
        unsure: entries of each tensor whose gradient was noise at some step.
    """

    lr: float
    reach: float
    unsure: dict[str, Tensor]

    def noise(self, name: str) -> np.ndarray:
        """The uncertain entries of a tensor; the slow critic's are those of the critic."""
        return self.unsure["val" + name.removeprefix("slowval") if name.startswith("slowval/") else name].numpy()


def _step(v: Vectors, key: str, dreamer: Dreamer, out: TrainOutput, free: Freedom) -> None:
    """Compare what a step changes: normalisers, parameters, latents for replay."""
    model, agent, rssm = dreamer.world_model, dreamer.actor_critic, dreamer.world_model.rssm
    compare_state(v, f"{key}/state", agent, SEQUENCE)
    params = interop.dump_agent(model, agent)
    for name in v.names(f"{key}/checksum"):
        _checksum(v, f"{key}/checksum/{name}", params[name], free, int(free.noise(name).sum()))
    for name in v.names(f"{key}/param"):
        unit = np.where(free.noise(name), free.lr + free.reach / LEARNED, free.lr)
        v.within(f"{key}/param/{name}", params[name], LEARNED, unit)
    if f"{key}/replay_out/deter" in v:
        latent = rssm.unpack(out.latents)
        v.close(f"{key}/replay_out/deter", latent.deter, SEQUENCE)
        v.exact(f"{key}/replay_out/stoch_idx", latent.stoch.unflatten(-1, (rssm.stoch, rssm.classes)).argmax(-1))
        carry_after(v, f"{key}/carry_after", dreamer, latent)


def _checksum(v: Vectors, key: str, got: Tensor, free: Freedom, unsure: int) -> None:
    """Sum, sum of magnitudes and sum of squares of a tensor's entries.

    Allowed are independent errors of ``LEARNED`` learning rates in each entry, ``unsure`` entries that went the other
    way, and float32's own rounding.
    """
    got = got.double()
    total, size, length, peak = got.abs().sum().item(), got.numel(), got.norm().item(), got.abs().max().item()
    sums = torch.stack([got.sum(), got.abs().sum(), got.square().sum()])
    by_entry = free.lr * np.array([size**0.5, size**0.5, 2 * length])
    flipped = free.reach * unsure * np.array([1.0, 1.0, 2 * peak])
    rounding = np.finfo(np.float32).eps * np.array([total, total, 2 * length**2])
    v.within(key, sums, LEARNED, by_entry + (flipped + rounding) / LEARNED)

"""``heads.npz``: two-hot bins, distributions fed with raw outputs, and heads with their networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_lightning import interop
from dreamer_lightning.nets.actions import BoundedNormal, OneHot
from dreamer_lightning.nets.heads import PolicyHead
from dreamer_lightning.nets.outputs import LOG_SQRT_2PI, Binary, Categorical, Normal, SymlogMSE, TwoHot
from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import symexp_bins
from dreamer_lightning.types import Space, Specs
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.record import HUGE, LAYER, SIGMAS, TWOHOT_PRED, Job, Vectors


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file."""
    known = {
        "twohot_bins": _bins,
        "binary": _binary,
        "symlog_mse": _regressions,
        "normal": _normal,
        "bounded_normal": _bounded_normal,
        "categorical": _categorical,
    }
    for group in v.groups():
        if group in known:
            yield group, partial(known[group], v, group)
        elif f"{group}/bins" in v:
            yield group, partial(_twohot, v, group)
        elif f"{group}/config" in v:
            yield group, partial(_policy if group.startswith("policy") else _scalar_head, v, group)


def twohot_pred(v: Vectors, key: str, pred: Tensor, logits: Tensor, bins: Tensor) -> None:
    """Compare expected values in units of ``sum |p bins|``; what is exactly 0 must be so."""
    unit = (torch.softmax(logits.detach(), -1) * bins.abs()).sum(-1).numpy()
    v.within(key, pred, TWOHOT_PRED, np.where(v[key] == 0, 0.0, unit))


def _bins(v: Vectors, group: str) -> None:
    for bins in v.names(group):
        want = v[f"{group}/{bins}"]
        v.within(f"{group}/{bins}", symexp_bins(int(bins)), LAYER, np.abs(want))


def _twohot(v: Vectors, group: str) -> None:
    logits = v.tensor(f"{group}/logits").requires_grad_()
    target, cot = v.tensor(f"{group}/target"), v.tensor(f"{group}/dloss")
    bins = v.tensor(f"{group}/bins")  # the recorded ones: their last digits are those of the reference's exp
    v.within(f"{group}/bins", symexp_bins(logits.shape[-1]), LAYER, np.abs(v[f"{group}/bins"]))
    v.ignore(f"{group}/pred_fused")  # what an optimising compiler makes of it
    output = TwoHot(logits, bins)
    twohot_pred(v, f"{group}/pred", output.pred(), logits, bins)
    v.close(f"{group}/loss", output.loss(target))
    v.close(f"{group}/loss_row0", TwoHot(logits[:1].expand_as(logits), bins).loss(target))
    (grad,) = torch.autograd.grad((output.loss(target) * cot).sum(), logits)
    v.norm(f"{group}/grad_loss", grad)
    rows = len(v[f"{group}/grad_pred8"])
    (grad,) = torch.autograd.grad((TwoHot(logits, bins).pred() * cot)[:rows].sum(), logits)
    v.norm(f"{group}/grad_pred8", grad[:rows])


def _binary(v: Vectors, group: str) -> None:
    logit = v.tensor(f"{group}/logit").requires_grad_()
    loss = Binary(logit).loss(v.tensor(f"{group}/target"))
    v.close(f"{group}/loss", loss)
    v.close(f"{group}/prob1", Binary(logit).pred())
    v.exact(f"{group}/pred", logit > 0)
    (loss * v.tensor(f"{group}/dloss")).sum().backward()
    v.norm(f"{group}/grad", logit.grad)


def _regressions(v: Vectors, group: str) -> None:
    mean, target = v.tensor(f"{group}/mean"), v.tensor(f"{group}/target")
    v.close(f"{group}/loss", SymlogMSE(mean, 1).loss(target))
    v.exact(f"{group}/pred", SymlogMSE(mean, 1).mean)
    error = mean - target  # no network here has these two
    for name, losses in {"mse": error.square(), "huber": torch.sqrt(error.square() + 1) - 1}.items():
        if f"{name}/loss" in v:
            v.close(f"{name}/loss", losses.sum(-1))


def _normal(v: Vectors, group: str) -> None:
    output = Normal(v.tensor(f"{group}/mean"), v.tensor(f"{group}/std"), 1)
    v.close(f"{group}/logp", output.log_prob(v.tensor(f"{group}/event")))
    v.close(f"{group}/entropy", output.entropy())


def _bounded_normal(v: Vectors, group: str) -> None:
    raw, (low, high) = v.tensor(f"{group}/raw"), v[f"{group}/limits"].tolist()
    output = BoundedNormal(raw, raw, 1, low, high)
    v.close(f"{group}/mean", output.mean)
    v.close(f"{group}/std", output.std)


def _categorical(v: Vectors, group: str) -> None:
    logits, event = v.tensor(f"{group}/logits").requires_grad_(), v.tensor(f"{group}/event")
    for name in dict.fromkeys(name.split("/")[0] for name in v.names(group) if name.startswith("unimix")):
        unimix = float(name.removeprefix("unimix"))
        output, key = Categorical(logits, unimix), f"{group}/{name}"
        other = Categorical(v.tensor(f"{group}/logits_other"), unimix)
        logp, entropy = output.log_prob(event), output.entropy()
        v.close(f"{key}/logp", logp)
        v.close(f"{key}/entropy", entropy)
        v.close(f"{key}/kl", onehot.kl(output.logp, other.logp))
        v.close(f"{key}/probs", onehot.mixed_probs(logits, unimix))
        hot = F.one_hot(event, logits.shape[-1])
        v.close(f"{key}/onehot_logp", OneHot(logits, unimix).log_prob(hot))
        v.norm(f"{key}/grad_logp", torch.autograd.grad(logp.sum(), logits, retain_graph=True)[0])
        v.norm(f"{key}/grad_entropy", torch.autograd.grad(entropy.sum(), logits, retain_graph=True)[0])


def _scalar_head(v: Vectors, group: str) -> None:
    """A reward, continue or value head with its network."""
    config, x = v.json(f"{group}/config"), v.tensor(f"{group}/x").requires_grad_()
    head = build.head(config)(x.shape[-1]).to(v.dtype)
    layers = interop.head_layers(head)
    _at_init(v, group, layers)
    interop.load(layers, v.under(f"{group}/param"))
    output, target = head(x), v.tensor(f"{group}/target")
    if isinstance(output, Binary):
        v.close(f"{group}/prob1", output.pred())
        v.exact(f"{group}/pred", output.logit > 0)
    else:
        twohot_pred(v, f"{group}/pred", output.pred(), output.logits, output.bins)
    loss = output.loss(target)
    v.close(f"{group}/loss", loss)
    (loss * v.tensor(f"{group}/dloss")).sum().backward()
    _grads(v, group, layers, x)


def _at_init(v: Vectors, group: str, layers: interop.Layers) -> None:
    """Output kernels straight from the initialiser: which are all zero, and how wide the others are."""
    kernels = {name: x for name, x in interop.dump(layers).items() if name.startswith("head/") and x.ndim == 2}
    v.same(f"{group}/zero_at_init", {name: bool((kernel == 0).all()) for name, kernel in kernels.items()})
    widths = v.json(f"{group}/init_std")
    error = 1.0 if widths.keys() ^ kernels.keys() else 0.0
    for name, kernel in kernels.items():
        wanted = layers[name.removesuffix("/kernel")].outscale / math.sqrt(kernel.shape[0])
        limit = wanted * SIGMAS / math.sqrt(2 * kernel.numel())
        for width in (widths.get(name, 0.0), kernel.std().item()):
            error = max(error, abs(width - wanted) / limit if limit else HUGE * (width > 0))
    v.judge(f"{group}/init_std", error, 1.0)


def _grads(v: Vectors, group: str, layers: interop.Layers, x: Tensor) -> None:
    for name, grad in interop.gradients(layers).items():
        v.norm(f"{group}/grad/{name}", grad)
    v.norm(f"{group}/grad_x", x.grad)


def _policy(v: Vectors, group: str) -> None:
    config, x = v.json(f"{group}/config"), v.tensor(f"{group}/x").requires_grad_()
    spaces = _action_spaces(v, group, x)
    head = build.policy(config)(x.shape[-1], Specs({}, spaces)).to(v.dtype)
    layers = interop.head_layers(head)
    _at_init(v, group, layers)
    interop.load(layers, v.under(f"{group}/param"))
    output, events = head(x), v.under(f"{group}/event")
    policy_keys(v, f"{group}/out", head, x, events)
    flat = head.spaces.one_hot(events, v.dtype)
    objective = output.log_prob(flat) * v.tensor(f"{group}/dlogp") + output.entropy() * v.tensor(f"{group}/dentropy")
    objective.sum().backward()
    _grads(v, group, layers, x)


def _action_spaces(v: Vectors, group: str, x: Tensor) -> dict[str, Space]:
    """The actions that a policy group's arrays are about."""
    spaces = {}
    for name in v.names(f"{group}/event"):
        shape = v[f"{group}/event/{name}"].shape[x.ndim - 1 :]
        logits = f"{group}/out/{name}/logits"
        discrete = logits in v
        spaces[name] = Space(shape, "int32" if discrete else "float32", v[logits].shape[-1] if discrete else 0)
    return spaces


def entropy_bounds(head: PolicyHead, space: Space) -> tuple[float, float]:
    """Smallest and largest entropy of each entry of an action, in nats."""
    if space.discrete:
        return 0.0, math.log(space.classes)
    low, high = (math.log(std) + LOG_SQRT_2PI + 0.5 for std in (head.minstd, head.maxstd))
    return low, high


def policy_keys(
    v: Vectors, key: str, head: PolicyHead, x: Tensor, events: Mapping[str, Tensor], limit: float = LAYER
) -> None:
    """Compare what is recorded of each action's distribution.

    Args:
        v: the vectors.
        key: prefix of the recorded arrays.
        head: the policy.
        x: its features.
        events: actions whose log-probability is recorded.
        limit: the largest relative error.
    """
    output, layers = head(x), interop.head_layers(head)
    for name, space in head.spaces.items():
        found, event = output.by_key[name], events[name]
        low, high = entropy_bounds(head, space)
        values = {"entropy": found.entropy(), "has_rand_metric": not space.shape}
        if space.discrete:
            event = F.one_hot(event.long(), space.classes)
            raw = layers[f"head/{name}/logits"](head.mlp(x))
            values |= {"logits": raw.unflatten(-1, (*space.shape, space.classes)), "pred": found.pred().argmax(-1)}
            values |= {"minent": low, "maxent": high}
        else:
            values |= {"mean": found.mean, "std": found.std, "pred": found.pred()}
            values |= {"minent": torch.full_like(found.mean, low), "maxent": torch.full_like(found.mean, high)}
        values["logp"] = found.log_prob(event)
        for quantity in v.names(f"{key}/{name}"):
            place = f"{key}/{name}/{quantity}"
            if v[place].dtype.kind in "bi":
                v.exact(place, values[quantity])
            else:
                v.close(place, values[quantity], limit)

"""``losses.npz``: KL, lambda-returns, the losses of actor and critic, normalisers, and the slow critic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dreamer_lightning import interop
from dreamer_lightning.actor_critic import ActorCritic, Dream
from dreamer_lightning.nets.actions import BoundedNormal, OneHot, PolicyOutput
from dreamer_lightning.nets.heads import TwoHotHead
from dreamer_lightning.nets.outputs import Output, TwoHot
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.ops.returns import lambda_return
from dreamer_lightning.ops.scalars import symexp_bins
from dreamer_lightning.types import Discount, Layout, Space, Specs
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.workshop.parity.heads import twohot_pred
from dreamer_lightning.workshop.parity.record import LAYER, Job, Vectors
from dreamer_lightning.workshop.parity.watching import compare_metrics, compare_state, dream_metrics, watching


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file, by the first word of their names."""
    for group in v.groups():
        if check := CHECKS.get(group.split("_")[0]):
            yield group, partial(check, v, group)


def _kl(v: Vectors, group: str) -> None:
    post, prior = v.tensor(f"{group}/post").requires_grad_(), v.tensor(f"{group}/prior").requires_grad_()
    unimix, free = v[f"{group}/unimix_free"].tolist()
    *_, stoch, classes = post.shape
    losses, _ = BlockRSSM(1, 1, deter=8, hidden=1, stoch=stoch, classes=classes, unimix=unimix, free_nats=free).loss(
        post, prior
    )
    v.close(f"{group}/dyn", losses["dyn"])
    v.close(f"{group}/rep", losses["rep"])
    (losses["dyn"] * v.tensor(f"{group}/ddyn") + losses["rep"] * v.tensor(f"{group}/drep")).sum().backward()
    v.norm(f"{group}/grad_post", post.grad)
    v.norm(f"{group}/grad_prior", prior.grad)


def _lambda(v: Vectors, group: str) -> None:
    last, term, rew, boot = (v.tensor(f"{group}/{name}").to(v.dtype) for name in ("last", "term", "rew", "boot"))
    v.ignore(f"{group}/val")  # has no effect
    disc, lam = v[f"{group}/disc_lam"].tolist()
    v.close(f"{group}/ret", lambda_return(rew, (1 - term) * disc, boot, (1 - last) * lam))


def _norm(v: Vectors, group: str) -> None:
    norm = build.normalizer(v.json(f"{group}/config"))().to(v.dtype)
    stats, states = [norm.stats()], []
    for x in v.tensor(f"{group}/x"):
        stats.append(norm(x))
        states.append(interop.normalizer_state(norm))
    v.close(f"{group}/offset", torch.stack([offset for offset, _ in stats]))
    v.close(f"{group}/scale", torch.stack([scale for _, scale in stats]))
    for name in v.names(f"{group}/state"):
        v.close(f"{group}/state/{name}", torch.stack([state[name.removeprefix("n/")] for state in states]))


class Given(nn.Module):
    """Stands for a head whose raw outputs [n, t, ...] were recorded; asked about fewer steps, it gives the first ones.

    Args:
        make: from raw outputs to an output object.
        raws: the recorded outputs.
    """

    entropy_range = None  # recorded numbers know none

    def __init__(self, make: Callable[..., Output], *raws: Tensor):
        super().__init__()
        self.make = make
        self.raws = nn.ParameterList(raws)

    def forward(self, feat: Tensor) -> Output:
        return self.make(*(raw[:, : feat.shape[1]] for raw in self.raws))


def _twohot(logits: Tensor) -> Given:
    bins = symexp_bins(logits.shape[-1]).to(logits.dtype)
    return Given(partial(TwoHot, bins=bins), logits)


def _actor_critic(v: Vectors, group: str, config: Mapping, policy: Given, **options) -> ActorCritic:
    """An actor-critic with recorded heads and normalisers."""
    value, slow = _twohot(v.tensor(f"{group}/value_logits")), _twohot(v.tensor(f"{group}/slowvalue_logits"))
    norms = {ours: build.normalizer(config[theirs]) for theirs, ours in interop.NORMS.items() if theirs in config}
    agent = ActorCritic(Specs({}, {}), 1, policy=lambda *_: policy, value=lambda *_: value, **norms, **options)
    agent.slow_critic = slow
    agent.to(v.dtype)
    state = v.under(f"{group}/state_before")
    for theirs, ours in interop.NORMS.items():
        own = {name.split("/", 1)[1]: x for name, x in state.items() if name.startswith(f"{theirs}/")}
        interop.load_normalizer(getattr(agent, ours), own)
    return agent


def _imag(v: Vectors, group: str) -> None:
    """Losses of a dream of which the heads' outputs are given."""
    config, (name,) = v.json(f"{group}/config"), v.names(f"{group}/act")
    act, rew, con = v.tensor(f"{group}/act/{name}"), v.tensor(f"{group}/rew"), v.tensor(f"{group}/con")
    if config["kind"] == "disc":
        logits = v.tensor(f"{group}/policy_raw/logits")
        space, raws = Space(act.shape[2:], "int32", logits.shape[-1]), {"logits": logits}
        make = partial(OneHot, event_dims=len(space.shape))
    else:
        space = Space(act.shape[2:], "float32")
        raws = {part: v.tensor(f"{group}/policy_raw/{part}") for part in ("mean", "std")}
        make = partial(BoundedNormal, event_dims=len(space.shape))
    layout = Layout({name: space})
    policy = Given(lambda *raw: PolicyOutput({name: make(*raw)}, layout), *raws.values())
    given, names = config["kwargs"], ("slowtar", "lam", "actent", "slowreg")
    discount = Discount(given["horizon"], given["contdisc"])
    agent = _actor_critic(v, group, config, policy, discount=discount, **{key: given[key] for key in names})
    rew, con = rew.requires_grad_(), con.requires_grad_()
    flat = layout.one_hot({name: act}, v.dtype)
    with watching(agent) as seen:
        losses, _, ret = agent.dream_losses(Dream(torch.zeros(*rew.shape, 1), flat, rew, con), config["update"])
    v.close(f"{group}/ret", ret)
    bins = agent.value.make.keywords["bins"]
    for head in ("value", "slowvalue"):
        logits = v.tensor(f"{group}/{head}_logits")
        twohot_pred(v, f"{group}/{head}_pred", TwoHot(logits, bins).pred(), logits, bins)
    for key, loss in losses.items():
        v.close(f"{group}/loss/{key}", loss)
    compare_metrics(v, f"{group}/metric", dream_metrics(agent, seen), LAYER)
    compare_state(v, f"{group}/state_after", agent, LAYER)
    sum((loss * v.tensor(f"{group}/dloss/{key}")).sum() for key, loss in losses.items()).backward()
    for part, raw in zip(raws, policy.raws, strict=True):
        v.norm(f"{group}/grad_policy_raw/{part}", raw.grad)
    v.norm(f"{group}/grad_value_logits", agent.value.raws[0].grad)
    v.exact(f"{group}/grad_zero", [_size(x) for x in (agent.slow_critic.raws[0], rew, con)])


def _size(leaf: Tensor) -> float:
    """The largest gradient of a leaf; 0 if none reached it."""
    return 0.0 if leaf.grad is None else leaf.grad.abs().max().item()


def _repl(v: Vectors, group: str) -> None:
    """The replay critic's loss of which the critics' outputs are given."""
    config = v.json(f"{group}/config")
    build.require(config["kwargs"], slowtar=(False, True))  # either: it has no effect here
    given = config["kwargs"]
    options = {"replay_lam": given["lam"], "replay_slowreg": given["slowreg"]}
    agent = _actor_critic(v, group, config, Given(_twohot), discount=Discount(given["horizon"]), **options)
    flags = {"is_last": "last", "is_terminal": "term", "reward": "rew"}
    records = {ours: v.tensor(f"{group}/{theirs}") for ours, theirs in flags.items()}
    boot = v.tensor(f"{group}/boot").requires_grad_()
    loss, ret = agent.replay_loss(torch.zeros(*boot.shape, 1), records, boot)
    v.close(f"{group}/ret", ret)
    v.close(f"{group}/loss/repval", loss)
    compare_state(v, f"{group}/state_after", agent, LAYER)
    (loss * v.tensor(f"{group}/dloss")).sum().backward()
    v.norm(f"{group}/grad_value_logits", agent.value.raws[0].grad)
    v.exact(f"{group}/grad_zero", [_size(agent.slow_critic.raws[0]), _size(boot)])


def _slow(v: Vectors, group: str) -> None:
    """The slow critic over several updates of the critic."""
    rate, every = v[f"{group}/rate_every"].tolist()
    before = v.under(f"{group}/slow0")
    units, layers = before["mlp/linear0/bias"].shape[0], sum(name.startswith("mlp/linear") for name in before) // 2
    sizes = {"units": units, "layers": layers, "bins": before["head/logits/bias"].shape[0]}
    features = before["mlp/linear0/kernel"].shape[0]
    agent = ActorCritic(
        Specs({}, {"action": Space((1,))}),
        features,
        value=partial(TwoHotHead, outscale=1.0, **sizes),
        slow_rate=rate,
        slow_every=int(every),
    ).to(v.dtype)
    slow, fast = interop.head_layers(agent.slow_critic), interop.head_layers(agent.value)
    same = all(torch.equal(a, b) for a, b in zip(interop.dump(slow).values(), interop.dump(fast).values(), strict=True))
    v.same(f"{group}/copied_at_init", same)
    interop.load(slow, before)
    for step in sorted(int(name.removeprefix("count")) for name in v.names(group) if name.startswith("count")):
        interop.load(fast, v.under(f"{group}/fast{step}"))
        agent.update_slow_critic()
        v.exact(f"{group}/count{step}", agent.updates)
        for name, value in interop.dump(slow).items():
            v.close(f"{group}/slow{step}/{name}", value)


CHECKS = {"kl": _kl, "lambda": _lambda, "norm": _norm, "imag": _imag, "repl": _repl, "slow": _slow}

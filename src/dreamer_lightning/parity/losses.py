"""``losses.npz``: KL, lambda-returns, the losses of actor and critic, normalisers, and the slow critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor, nn

from dreamer_lightning import interop
from dreamer_lightning.actor_critic import ActorCritic, Dream
from dreamer_lightning.nets.heads import TwoHotHead
from dreamer_lightning.nets.normalizers import MeanStdNorm, Normalizer, PercentileNorm
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.ops.returns import lambda_return
from dreamer_lightning.parity import build
from dreamer_lightning.parity.record import NotRunnable, Vectors


def jobs(v: Vectors) -> Iterator[Job]:
    """The groups of the file, by the first word of their names."""
    for group in v.groups():
        if check := CHECKS.get(group.split("_")[0]):
            yield group, partial(check, v, group)


def _kl(v: Vectors, group: str) -> None:
    post, prior = v.tensor(f"{group}/post").requires_grad_(), v.tensor(f"{group}/prior").requires_grad_()
    unimix, free = v.array(f"{group}/unimix_free").tolist()
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
    disc, lam = v.array(f"{group}/disc_lam").tolist()
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

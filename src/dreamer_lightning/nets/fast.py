"""Fast paths of ``BlockRSSM``: what does not recur is done for all steps at once, the rest by the loops of `scan`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.precision import full_precision
from dreamer_lightning.nets.scan import ObserveScan, Retrace, Shape, Weights, sizes
from dreamer_lightning.ops import loops
from dreamer_lightning.ops.scalars import precise
from dreamer_lightning.types import Joined, Latent


def possible(rssm) -> bool:
    """Whether the scans compute what this model's step does: default layers with float32 weights."""
    return rssm.scannable and rssm.gates.weight.dtype == torch.float32


def precisely(scan: Callable[..., Latent | tuple[Latent, Tensor]]):
    """Run a scan in float32 also under autocast. Its products have few rows and wait for memory and launches, so that
    fewer bits win little there; with the step-by-step model an update launches twice as many kernels."""

    @wraps(scan)
    def wrapped(rssm, latent: Latent, *inputs: Tensor):
        with full_precision(latent.deter.device):
            return scan(rssm, latent.map(precise), *(precise(x) if x.is_floating_point() else x for x in inputs))

    return wrapped


@precisely
def observe(
    rssm,
    latent: Latent,
    prev_action: Float[Tensor, "b t a"],
    embed: Float[Tensor, "b t e"],
    is_first: Bool[Tensor, "b t"],
    noise: Shaped[Tensor, "b t s"],
) -> tuple[Latent, Float[Tensor, "b t s c"]]:
    """``BlockRSSM.observe`` with a backward of its own."""
    keep = (~is_first).to(embed.dtype).t().contiguous().unsqueeze(-1)  # [t b 1]
    first = rssm.post_mlp.linears[0]
    action_in = rssm.project_action(prev_action.transpose(0, 1) * keep)
    embed_in = torch.nn.functional.linear(embed.transpose(0, 1), first.weight[:, rssm.deter_dim :], first.bias)
    weights, shape = scan_weights(rssm)
    scanned = ObserveScan.apply(*latent, action_in, embed_in, keep, noise.transpose(0, 1).contiguous(), shape, *weights)
    deter, stoch, logits = (x.transpose(0, 1) for x in scanned)
    return Latent(deter, stoch), logits.unflatten(-1, (rssm.stoch, rssm.classes))


def can_step(rssm, latent: Latent, embed: Tensor, noise: Tensor) -> bool:
    """Whether ``observe_step`` below is faster: few rows, no gradient, and the compiled loops."""
    if torch.is_grad_enabled() or not possible(rssm) or latent.deter.ndim != 2 or len(latent.deter) > loops.FEW:
        return False
    return loops.usable(*latent, embed, noise, rssm.gates.weight)


def observe_step(
    rssm,
    latent: Latent,
    prev_action: Float[Tensor, "b a"],
    embed: Float[Tensor, "b e"],
    is_first: Bool[Tensor, " b"],
    noise: Float[Tensor, "b s"],
) -> tuple[Latent, Float[Tensor, "b s c"]]:
    """``BlockRSSM.observe_step`` for acting: a scan of one step."""
    inputs = (x.unsqueeze(1) for x in (prev_action, embed, is_first, noise))
    latents, logits = observe(rssm, latent, *inputs)
    return latents.map(lambda x: x.squeeze(1)), logits.squeeze(1)


def can_dream(rssm, latent: Latent, noise: Tensor) -> bool:
    """Whether ``imagine`` below can take these: no gradient, and the compiled loops."""
    if torch.is_grad_enabled() or not possible(rssm) or len(rssm.prior_mlp.linears) > loops.MOST:
        return False
    return loops.usable(*latent, noise, rssm.gates.weight) and not torch.is_autocast_enabled("cpu")


def imagine(rssm, latent: Latent, policy, noise: Float[Tensor, "n h s"]) -> tuple[Latent, Float[Tensor, "n h+1 a"]]:
    """``BlockRSSM.imagine`` without a gradient: each state is written where it stays, beside those of its step."""
    n, h, _ = noise.shape
    weights, shape = scan_weights(rssm)
    loop = loops.DreamLoop(weights, prior_weights(rssm), sizes(weights, shape, h, n))
    feats, noise = latent.deter.new_empty(h + 1, n, rssm.deter_dim + rssm.stoch_dim), noise.transpose(0, 1).contiguous()
    actions = [policy(torch.cat(latent, -1, out=feats[0]), 0)]
    for step in range(h):
        action_in = rssm.project_action(actions[-1]).contiguous()
        loop.step(feats[step], action_in, noise[step], out=feats[step + 1])
        actions.append(policy(feats[step + 1], step + 1))
    return Joined.of(feats.transpose(0, 1), rssm.deter_dim), torch.stack(actions, 1)


@precisely
def retrace(rssm, latent: Latent, action: Float[Tensor, "n h+1 a"]) -> Latent:
    """``BlockRSSM.retrace`` with a backward of its own."""
    action_in = frozen(rssm, "project_action")(action[:, :-1].transpose(0, 1))
    weights, shape = scan_weights(rssm)
    prior, layers = prior_weights(rssm), len(rssm.prior_mlp.linears)
    held = [x.detach() for x in (*weights, *prior)]
    steps = torch.cat([x.transpose(0, 1) for x in latent], -1)
    feat = Retrace.apply(steps, action_in, shape, layers, *held)
    return Joined.of(feat.transpose(0, 1), rssm.deter_dim)


def prior_weights(rssm) -> list[Tensor]:
    """Kernel, bias and norm of each hidden layer of the prior, kernel and bias of its logits."""
    mlp = rssm.prior_mlp
    layers = [(layer.weight, layer.bias, norm.weight) for layer, norm in zip(mlp.linears, mlp.norms, strict=True)]
    return [*(x for layer in layers for x in layer), rssm.prior_logits.weight, rssm.prior_logits.bias]


def scan_weights(rssm) -> tuple[Weights, Shape]:
    """What the scans need of the layers that recur."""
    h, z, post = rssm.deter_in, rssm.stoch_in, rssm.post_mlp
    weights = Weights(
        *(h.linears[0].weight, h.linears[0].bias, z.linears[0].weight, z.linears[0].bias),
        torch.stack([h.norms[0].weight, z.norms[0].weight]),
        *(rssm.hidden[0].weight, rssm.hidden[0].bias, rssm.hidden_norm[0].weight),
        *(rssm.gates.weight, rssm.gates.bias, post.linears[0].weight[:, : rssm.deter_dim], post.norms[0].weight),
        *(rssm.post_logits.weight, rssm.post_logits.bias),
    )
    return weights, Shape(rssm.blocks, rssm.stoch, rssm.classes, rssm.unimix, post.norms[0].eps)

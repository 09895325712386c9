"""Fast paths of ``BlockRSSM``: what does not recur is done for all steps at once, the rest by the loops of `scan`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dreamer_lightning.kernels import loops
from dreamer_lightning.kernels.layers import untouched
from dreamer_lightning.kernels.precision import full_precision
from dreamer_lightning.kernels.scan import ObserveScan, Retrace, Shape, Weights, sizes
from dreamer_lightning.nets.blocks import MLP, BlockLinear, Linear, RMSNorm
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.ops.scalars import precise
from dreamer_lightning.types import Joined, Latent


def possible(rssm) -> bool:
    """Whether the scans compute what this model's step does: default layers with float32 weights."""
    return rssm.scannable and as_built(rssm) and rssm.gates.weight.dtype == torch.float32


def as_built(rssm) -> bool:
    """Whether the layers that the scans read are of the number and the kinds that they know, and nobody listens."""
    parts = rssm._modules  # a decision asks, too: ten microseconds, thirty by way of attributes
    mlps = [parts[name] for name in ("deter_in", "stoch_in", "action_in", "post_mlp", "prior_mlp")]
    hidden, norms = parts["hidden"]._modules, parts["hidden_norm"]._modules
    kinds = [(mlp, MLP) for mlp in mlps] + [(parts[name], Linear) for name in ("post_logits", "prior_logits")]
    kinds += [(layer, BlockLinear) for layer in (*hidden.values(), parts["gates"])]
    kinds += [(norm, RMSNorm) for norm in norms.values()]
    if not all(untouched(*part) for part in kinds) or rssm.act is not torch.nn.functional.silu:
        return False
    pairs = [mlp.pairs() for mlp in mlps]
    once = len(hidden) == len(norms) == 1 and all(len(layers) == 1 for layers in pairs[:-1])
    return once and all(mlp.plain(layers) for mlp, layers in zip(mlps, pairs, strict=True))


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
    b, t = is_first.shape
    latent, noise = latent.map(lambda x: x.expand(b, -1)), noise.expand(b, t, rssm.stoch)
    keep = (~is_first).to(embed.dtype).t().contiguous().unsqueeze(-1)  # [t b 1]
    first = rssm.post_mlp.linears[0]
    action_in = rssm.project_action(prev_action.transpose(0, 1) * keep)
    embed_in = torch.nn.functional.linear(embed.transpose(0, 1), first.weight[:, rssm.deter_dim :], first.bias)
    weights, shape = scan_weights(rssm)
    scanned = ObserveScan.apply(*latent, action_in, embed_in, keep, noise.transpose(0, 1).contiguous(), shape, *weights)
    deter, stoch, logits = (x.transpose(0, 1) for x in scanned)
    return Latent(deter, stoch), logits.unflatten(-1, (rssm.stoch, rssm.classes))


def can_act(
    rssm, packed: dict[str, Tensor], prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor
) -> bool:
    """Whether ``act`` below can take these: few rows, no gradient, default layers and the compiled loops."""
    deter, stoch = packed["deter"], packed["stoch"]
    if torch.is_grad_enabled() or not (rssm.actable and deter.ndim == 2 and len(deter) <= loops.FEW and as_built(rssm)):
        return False
    known = stoch.dtype is torch.uint8 and is_first.dtype is torch.bool and is_first.shape == (len(deter),)
    known = known and stoch.shape == noise.shape == (len(deter), rssm.stoch) and deter.shape[1] == rssm.deter_dim
    known = known and prev_action.shape == (len(deter), rssm.action_dim) and embed.shape == (len(deter), rssm.embed_dim)
    known = known and only(rssm.post_mlp.linears).weight.is_contiguous()  # both of its parts are read where they lie
    return known and loops.usable(deter, prev_action, embed, noise, rssm.gates.weight)


def act(
    rssm,
    packed: dict[str, Tensor],
    prev_action: Float[Tensor, "b a"],
    embed: Float[Tensor, "b e"],
    is_first: Bool[Tensor, " b"],
    noise: Float[Tensor, "b s"],
) -> tuple[Float[Tensor, "b f"], dict[str, Tensor]]:
    """``BlockRSSM.observe_packed`` in one call: a decision is made of a hundred operations of some microseconds."""
    (layer, norm), post = single(rssm.action_in), only(rssm.post_mlp.linears)
    weights, shape = scan_weights(rssm)
    loop = loops.Loop(weights, sizes(weights, shape, 1, len(embed)))
    around = (layer.weight.contiguous(), layer.bias, norm.weight, post.weight[:, rssm.deter_dim :], post.bias)
    step = loops.Step(packed["deter"], packed["stoch"], prev_action, is_first, embed, noise)
    feat, deter, stoch = loop.act(step, around)
    return feat, {"deter": deter, "stoch": stoch}


def can_dream(rssm, latent: Latent, noise: Tensor) -> bool:
    """Whether ``imagine`` below can take these: no gradient, and the compiled loops."""
    if torch.is_grad_enabled() or not possible(rssm) or len(rssm.prior_mlp.linears) > loops.MOST:
        return False
    fits = noise.ndim == 3 and noise.shape[2] == rssm.stoch and len(latent.deter) == len(noise)
    return fits and loops.usable(*latent, noise, rssm.gates.weight) and not torch.is_autocast_enabled("cpu")


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
    h, h_norm = single(rssm.deter_in)
    z, z_norm = single(rssm.stoch_in)
    post, post_norm = single(rssm.post_mlp)
    hidden, hidden_norm, gates, logits = only(rssm.hidden), only(rssm.hidden_norm), rssm.gates, rssm.post_logits
    weights = Weights(
        *(h.weight, h.bias, z.weight, z.bias),
        torch.stack([h_norm.weight, z_norm.weight]),
        *(hidden.weight, hidden.bias, hidden_norm.weight, gates.weight, gates.bias),
        *(post.weight[:, : rssm.deter_dim], post_norm.weight, logits.weight, logits.bias),
    )
    return weights, Shape(rssm.blocks, rssm.stoch, rssm.classes, rssm.unimix, post_norm.eps)


def single(mlp) -> tuple[Any, Any]:
    """Linear layer and norm of an MLP of one layer."""
    return only(mlp.linears), only(mlp.norms)


def only(layers: torch.nn.ModuleList) -> Any:
    """The first of a list of layers, without the list's own look-up in Python: acting is made of such things."""
    return layers._modules["0"]

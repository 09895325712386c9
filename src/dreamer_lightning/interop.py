"""The reference's parameter names and layouts, both ways (danijar/dreamerv3@e3f0224).

The reference names a tensor by its module, layer and role: ``dyn/dynin0/kernel``. The functions here list our layers
under the reference's layer names; ``load``, ``dump`` and ``gradients`` then move arrays in either direction.
Kernels there are (in, out), (groups, in/g, out/g) and (kh, kw, in, out).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.errors import UserError
from dreamer_lightning.nets.blocks import MLP, ConvTranspose2d, RMSNorm
from dreamer_lightning.nets.decoders import DictDecoder, UpsampleDecoder
from dreamer_lightning.nets.encoders import DictEncoder, MaxPoolEncoder
from dreamer_lightning.nets.heads import BinaryHead, Head, PolicyHead
from dreamer_lightning.nets.normalizers import MeanStdNorm, Normalizer, PercentileNorm
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.world_model import WorldModel

Layers = dict[str, nn.Module]  # the reference's layer name -> our layer
LOSSES = {"rec": "recon", "rew": "reward", "con": "cont"}  # its losses where they have another name than ours
NORMS = {"retnorm": "return_norm", "valnorm": "value_norm", "advnorm": "advantage_norm"}


def to_ours(layer: nn.Module, kernel: Tensor) -> Tensor:
    """A kernel in the reference's layout, in the layout of our layer."""
    if isinstance(layer, nn.Linear):
        return kernel.T
    if isinstance(layer, ConvTranspose2d):  # the reference correlates a zero grid: ours with the kernel turned round
        return kernel.permute(2, 3, 0, 1).flip(2, 3)
    return kernel.permute(3, 2, 0, 1) if isinstance(layer, nn.Conv2d) else kernel


def to_reference(layer: nn.Module, weight: Tensor) -> Tensor:
    """The inverse of ``to_ours``."""
    if isinstance(layer, nn.Linear):
        return weight.T
    if isinstance(layer, ConvTranspose2d):
        return weight.flip(2, 3).permute(2, 3, 0, 1)
    return weight.permute(2, 3, 1, 0) if isinstance(layer, nn.Conv2d) else weight


def tensors(layers: Layers) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Each parameter under the reference's name: (name, our layer, our parameter)."""
    for name, layer in layers.items():
        if isinstance(layer, nn.Identity):
            continue
        if isinstance(layer, RMSNorm):
            yield f"{name}/scale", layer, layer.weight
        else:
            yield f"{name}/kernel", layer, layer.weight
            yield f"{name}/bias", layer, layer.bias


@torch.no_grad()
def load(layers: Layers, params: Mapping[str, Tensor]) -> None:
    """Fill our layers with the reference's arrays; names and shapes must agree exactly.

    Raises:
        UserError: a name is missing or left over, or a shape differs.
    """
    wanted = {name: (layer, parameter) for name, layer, parameter in tensors(layers)}
    if missing := sorted(wanted.keys() ^ params.keys()):
        raise UserError(f"parameters: these names are on one side only: {', '.join(missing[:5])}")
    for name, (layer, parameter) in wanted.items():
        value = to_ours(layer, params[name]) if name.endswith("/kernel") else params[name]
        if value.shape != parameter.shape:
            raise UserError(f"parameters: {name} has shape {tuple(params[name].shape)}, ours {tuple(parameter.shape)}")
        parameter.copy_(value)


def dump(layers: Layers) -> dict[str, Tensor]:
    """Our parameters as the reference names and lays them out."""
    named = ((name, layer, parameter.detach()) for name, layer, parameter in tensors(layers))
    return {name: to_reference(layer, x) if name.endswith("/kernel") else x for name, layer, x in named}


def gradients(layers: Layers) -> dict[str, Tensor]:
    """Our gradients as the reference names and lays them out; zeros where there is none."""
    grads = {}
    for name, layer, parameter in tensors(layers):
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        grads[name] = to_reference(layer, grad) if name.endswith("/kernel") else grad
    return grads


def prefixed(prefix: str, layers: Layers) -> Layers:
    return {f"{prefix}/{name}": layer for name, layer in layers.items()}


def mlp_layers(mlp: MLP, linear: str = "linear{}", norm: str = "norm{}") -> Layers:
    """The layers of an MLP under names with a place for their number."""
    layers: Layers = {}
    for i, (dense, scale) in enumerate(zip(mlp.linears, mlp.norms, strict=True)):
        layers[linear.format(i)], layers[norm.format(i)] = dense, scale
    return layers


def rssm_layers(rssm: BlockRSSM) -> Layers:
    """``dyn``: the recurrence, the posterior and the prior."""
    layers: Layers = {}
    for i, mlp in enumerate((rssm.deter_in, rssm.stoch_in, rssm.action_in)):
        layers |= mlp_layers(mlp, f"dynin{i}", f"dynin{i}norm")
    for i, (dense, scale) in enumerate(zip(rssm.hidden, rssm.hidden_norm, strict=True)):
        layers[f"dynhid{i}"], layers[f"dynhid{i}norm"] = dense, scale
    layers["dyngru"] = rssm.gates
    layers |= mlp_layers(rssm.post_mlp, "obs{}", "obs{}norm") | {"obslogit": rssm.post_logits}
    layers |= mlp_layers(rssm.prior_mlp, "prior{}", "prior{}norm") | {"priorlogit": rssm.prior_logits}
    return layers


def head_layers(head: Head) -> Layers:
    """``rew``, ``con``, ``val``, ``slowval``, ``pol``: an MLP and its outputs."""
    layers = prefixed("mlp", mlp_layers(head.mlp))
    if isinstance(head, BinaryHead):
        return layers | {"head/logit": head.out}
    if not isinstance(head, PolicyHead):
        return layers | {"head/logits": head.out}
    for (name, space), outs in zip(head.spaces.items(), head.outs, strict=True):
        parts = ["logits"] if space.discrete else ["mean", "stddev"]
        layers |= {f"head/{name}/{part}": out for part, out in zip(parts, outs, strict=True)}
    return layers


def normalizer_state(norm: Normalizer) -> dict[str, Tensor]:
    """The running variables of ``retnorm``, ``valnorm`` or ``advnorm``."""
    if isinstance(norm, PercentileNorm):
        state = {"lo/value": norm.range[0].clone(), "hi/value": norm.range[1].clone()}
    elif isinstance(norm, MeanStdNorm):
        state = {"mean/value": norm.moments[0].clone(), "sqrs/value": norm.moments[1].clone()}
    else:
        return {}
    return state | ({"corr/value": norm.corr.clone()} if norm.debias else {})


@torch.no_grad()
def load_normalizer(norm: Normalizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of ``normalizer_state``."""
    for name, value in state.items():
        if name == "corr/value":
            norm.corr.copy_(value)
        else:
            pair = norm.range if isinstance(norm, PercentileNorm) else norm.moments
            pair[int(name in ("hi/value", "sqrs/value"))] = value


def encoder_layers(encoder: DictEncoder) -> Layers:
    """``enc``: vector and image encoders."""
    layers: Layers = {}
    for part in encoder.parts:
        if isinstance(part, MaxPoolEncoder):
            layers |= numbered("cnn{}", part.convs) | numbered("cnn{}norm", part.norms)
        else:
            layers |= mlp_layers(part.mlp, "mlp{}", "mlp{}norm")
    return layers


def decoder_layers(decoder: DictDecoder) -> Layers:
    """``dec``: vector and image decoders."""
    layers: Layers = {}
    for part in decoder.parts:
        if isinstance(part, UpsampleDecoder):
            layers |= {"sp0": part.deter_in, **mlp_layers(part.stoch_in, "sp1", "sp1norm"), "sp2": part.stoch_out}
            layers |= {"spnorm": part.in_norm, "imgout": part.out}
            layers |= numbered("conv{}", part.convs) | numbered("conv{}norm", part.norms)
        else:
            layers |= prefixed("mlp", mlp_layers(part.mlp))
            for (name, space), out in zip(part.spaces.items(), part.outs, strict=True):
                layers[f"vec/{name}/{'logits' if space.discrete else 'pred'}"] = out
    return layers


def numbered(name: str, layers: Iterable[nn.Module]) -> Layers:
    return {name.format(i): layer for i, layer in enumerate(layers)}


def agent_layers(world_model: WorldModel, actor_critic: ActorCritic) -> Layers:
    """Every layer of an agent that is trained, and ``slowval``."""
    model, agent = world_model, actor_critic
    parts = {
        "enc": encoder_layers(model.encoder),
        "dyn": rssm_layers(model.rssm),
        "dec": decoder_layers(model.decoder),
        "rew": head_layers(model.reward),
        "con": head_layers(model.cont),
        "pol": head_layers(agent.policy),
        "val": head_layers(agent.value),
        "slowval": head_layers(agent.slow_critic),
    }
    return {name: layer for prefix, layers in parts.items() for name, layer in prefixed(prefix, layers).items()}


def loss_name(name: str) -> str:
    """The reference's name of one of our losses; a reconstruction loss there is called by its key alone."""
    backward = {ours: theirs for theirs, ours in LOSSES.items()}
    return backward.get(name, name).removeprefix("recon/")


def load_agent(world_model: WorldModel, actor_critic: ActorCritic, params: Mapping[str, Tensor]) -> None:
    """Fill an agent with the reference's parameters and normaliser variables."""
    rest = dict(params)
    for theirs, ours in NORMS.items():
        state = {name: rest.pop(name) for name in list(rest) if name.startswith(f"{theirs}/")}
        state = {name.split("/", 1)[1]: value for name, value in state.items()}
        load_normalizer(getattr(actor_critic, ours), state)
    load(agent_layers(world_model, actor_critic), rest)


def dump_agent(world_model: WorldModel, actor_critic: ActorCritic) -> dict[str, Tensor]:
    """The inverse of ``load_agent``."""
    return dump(agent_layers(world_model, actor_critic)) | agent_normalizers(actor_critic)


def agent_normalizers(actor_critic: ActorCritic) -> dict[str, Tensor]:
    """The running variables of all three normalisers."""
    states = {theirs: normalizer_state(getattr(actor_critic, ours)) for theirs, ours in NORMS.items()}
    return {f"{norm}/{name}": value for norm, state in states.items() for name, value in state.items()}

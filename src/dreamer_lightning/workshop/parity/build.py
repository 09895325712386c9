"""Builds our networks with the sizes and options that a file's configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import yaml

from dreamer_lightning import configfiles, interop, kernels
from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.errors import UserError
from dreamer_lightning.nets.decoders import DictDecoder, SymlogMLPDecoder, UpsampleDecoder
from dreamer_lightning.nets.encoders import DictEncoder, MaxPoolEncoder, MLPEncoder, SymlogMLPEncoder
from dreamer_lightning.nets.heads import BinaryHead, Head, PolicyHead, TwoHotHead
from dreamer_lightning.nets.normalizers import MeanStdNorm, Normalizer, PercentileNorm
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.types import Discount, Size, Space, Specs
from dreamer_lightning.workshop.parity.record import NotRunnable
from dreamer_lightning.world_model import WorldModel

FIXED = {"norm": ("rms",), "winit": ("trunc_normal_in",)}  # reference options with one value offered here


def require(options: Mapping, **offered: tuple) -> None:
    """Refuse an option of the reference that is not offered here.

    Raises:
        NotRunnable: an option has a value outside ``offered``.
    """
    for name, values in (FIXED | offered).items():
        if name in options and options[name] not in values:
            raise NotRunnable(f"option {name}={options[name]} is not offered here (only {', '.join(map(str, values))})")


def space(entry) -> Space:
    """A space of the reference: ``[shape, dtype, classes]`` or a mapping of these."""
    if isinstance(entry, Mapping):
        entry = [entry["shape"], entry["dtype"], entry.get("classes")]
    shape, dtype, classes = (*entry, None)[:3]
    if dtype == "bool":
        classes = 2
    return Space(tuple(shape), dtype, int(classes or 0))


def specs(obs: Mapping, act: Mapping, order: list[str] | None = None) -> Specs:
    """The spaces of an agent, observations in the order in which the reference inserted them."""
    return Specs({name: space(obs[name]) for name in order or obs}, {name: space(act[name]) for name in act})


def rssm(options: Mapping, action_dim: int, embed_dim: int) -> BlockRSSM:
    """The RSSM of a ``dyn.rssm`` section."""
    require(options)
    return BlockRSSM(
        action_dim,
        embed_dim,
        deter=options["deter"],
        hidden=options["hidden"],
        stoch=options["stoch"],
        classes=options["classes"],
        blocks=options["blocks"],
        dyn_layers=options["dynlayers"],
        obs_layers=options["obslayers"],
        img_layers=options["imglayers"],
        unimix=options["unimix"],
        free_nats=options["free_nats"],
        absolute=options["absolute"],
        outscale=options["outscale"],
        act=options["act"],
    )


def head(options: Mapping) -> Callable[[int], Head]:
    """The factory of a reward, continue or value head, from the size of the features."""
    require(options, output=("symexp_twohot", "binary"))
    sizes = {name: options[name] for name in ("units", "layers", "outscale", "act")}
    if options["output"] == "binary":
        return partial(BinaryHead, **sizes)
    return partial(TwoHotHead, bins=options["bins"], **sizes)


def policy(options: Mapping) -> Callable[[int, Specs], PolicyHead]:
    """The factory of a policy head; the reference's own does not read ``unimix`` either."""
    require(options)
    outputs = options.get("output", {})
    for name in outputs.values() if isinstance(outputs, Mapping) else [outputs]:
        require({"output": name}, output=("bounded_normal", "categorical"))
    names = ("units", "layers", "outscale", "act", "minstd", "maxstd")
    return partial(PolicyHead, **{name: options[name] for name in names})


def normalizer(options: Mapping) -> Callable[[], Normalizer]:
    """The factory of a normaliser; options left out have the reference's defaults."""
    rates = {
        "rate": options.get("rate", 0.01),
        "limit": options.get("limit", 1e-8),
        "debias": options.get("debias", True),
    }
    require(options, impl=("perc", "meanstd", "none"))
    if options["impl"] == "perc":
        return partial(PercentileNorm, options.get("perclo", 5.0), options.get("perchi", 95.0), **rates)
    return partial(MeanStdNorm, **rates) if options["impl"] == "meanstd" else Normalizer


def encoder(options: Mapping) -> Callable[[Specs], DictEncoder]:
    """The factory of an ``enc.simple`` section."""
    require(options, outer=(False,), strided=(False,))
    sizes = {name: options[name] for name in ("units", "layers", "act")}
    vector = partial(SymlogMLPEncoder, **sizes)
    if not options["symlog"]:
        vector = partial(MLPEncoder, norm="rms", init="trunc_normal_in", **sizes)
    names = ("depth", "kernel", "act")
    image = partial(MaxPoolEncoder, mults=tuple(options["mults"]), **{name: options[name] for name in names})
    return partial(DictEncoder, vector=vector, image=image)


def decoder(options: Mapping) -> Callable[[Specs, int, int], DictDecoder]:
    """The factory of a ``dec.simple`` section."""
    require(options, outer=(False,), strided=(False,))
    names = ("units", "layers", "act", "outscale")
    vector = partial(SymlogMLPDecoder, **{name: options[name] for name in names})
    names = ("units", "depth", "kernel", "act", "outscale")
    image = partial(
        UpsampleDecoder,
        mults=tuple(options["mults"]),
        blocks=options["bspace"],
        **{name: options[name] for name in names},
    )
    return partial(DictDecoder, vector=vector, image=image)


def dreamer(options: Mapping, spaces: Specs) -> Dreamer:
    """The agent of an ``agent`` section."""
    require(options["enc"], typ=("simple",))
    require(options["dec"], typ=("simple",))
    require(options["dyn"], typ=("rssm",))
    dists = {"policy_dist_cont": ("bounded_normal",), "policy_dist_disc": ("categorical",)}
    require(options, **dists)
    discount = Discount(options["horizon"], options["contdisc"])
    model = WorldModel(
        spaces,
        encoder=encoder(options["enc"]["simple"]),
        rssm=partial(rssm, options["dyn"]["rssm"]),
        decoder=decoder(options["dec"]["simple"]),
        reward=head(options["rewhead"]),
        cont=head(options["conhead"]),
        discount=discount,
        reward_grad=options["reward_grad"],
    )
    dream, replay = options["imag_loss"], options["repl_loss"]
    aware = "off" if not options["repval_loss"] else "latents" if options["repval_grad"] else "critic"
    agent = ActorCritic(
        spaces,
        model.feat_dim,
        policy=policy(options["policy"]),
        value=head(options["value"]),
        imag_length=options["imag_length"],
        imag_last=options["imag_last"],
        value_aware=aware,
        discount=discount,
        lam=dream["lam"],
        replay_lam=replay["lam"],
        actent=dream["actent"],
        slowreg=dream["slowreg"],
        replay_slowreg=replay["slowreg"],
        slowtar=dream["slowtar"],
        start_grad=options["ac_grads"],
        slow_rate=options["slowvalue"]["rate"],
        slow_every=options["slowvalue"]["every"],
        return_norm=normalizer(options["retnorm"]),
        value_norm=normalizer(options["valnorm"]),
        advantage_norm=normalizer(options["advnorm"]),
    )
    scales = {interop.LOSSES.get(name, name): scale for name, scale in options["loss_scales"].items()}
    made = Dreamer(model, agent, scales)
    kernels.accelerate(made)
    return made


def size(name: str) -> Size:
    """The sizes of a preset, ``size1m`` to ``size400m``, as the package ships them."""
    try:
        path = configfiles.find(f"size/{name.removeprefix('size')}.yaml")
    except UserError as error:
        raise NotRunnable(f"{name} is a preset that does not exist here") from error
    return Size(**yaml.safe_load(path.read_text("utf-8"))["size"])


def preset(name: str, spaces: Specs) -> tuple[WorldModel, ActorCritic]:
    """World model and actor-critic of a preset, with the networks' own defaults for everything but sizes."""
    sizes = size(name)
    model = WorldModel(
        spaces,
        encoder=partial(
            DictEncoder,
            vector=partial(SymlogMLPEncoder, units=sizes.units),
            image=partial(MaxPoolEncoder, depth=sizes.depth),
        ),
        rssm=partial(BlockRSSM, deter=sizes.deter, hidden=sizes.hidden, classes=sizes.classes),
        decoder=partial(
            DictDecoder,
            vector=partial(SymlogMLPDecoder, units=sizes.units),
            image=partial(UpsampleDecoder, depth=sizes.depth, units=sizes.units),
        ),
        reward=partial(TwoHotHead, units=sizes.units, layers=1),
        cont=partial(BinaryHead, units=sizes.units),
    )
    policy, value = partial(PolicyHead, units=sizes.units), partial(TwoHotHead, units=sizes.units)
    return model, ActorCritic(spaces, model.feat_dim, policy=policy, value=value)

"""A small agent and batches of random records, for tests of the model."""

from functools import partial

import torch

from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.nets.decoders import DictDecoder, SymlogMLPDecoder
from dreamer_lightning.nets.encoders import DictEncoder, SymlogMLPEncoder
from dreamer_lightning.nets.gradients import Mix, Pathwise, ScoreFunction
from dreamer_lightning.nets.heads import BinaryHead, PolicyHead, TwoHotHead
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.types import Space, Specs
from dreamer_lightning.world_model import WorldModel

SPECS = Specs({"position": Space((3,)), "velocity": Space((2,))}, {"action": Space((2,))})
GRADIENTS = {"reinforce": ScoreFunction, "dynamics": Pathwise, "mix": Mix}
DISCRETE = Specs(SPECS.obs, {"action": Space((), "int32", classes=4)})


def model(specs: Specs = SPECS, units: int = 12, **options) -> WorldModel:
    parts = {
        "encoder": partial(DictEncoder, vector=partial(SymlogMLPEncoder, units=units)),
        "rssm": partial(BlockRSSM, deter=16, hidden=8, stoch=3, classes=4, blocks=2),
        "decoder": partial(DictDecoder, vector=partial(SymlogMLPDecoder, units=units)),
        "reward": partial(TwoHotHead, units=units, layers=1, outscale=1.0),
        "cont": partial(BinaryHead, units=units),
    }
    return WorldModel(specs, **{**parts, **options})


def agent(specs: Specs = SPECS, model_options: dict | None = None, scales: dict | None = None, **options) -> Dreamer:
    torch.manual_seed(0)
    world = model(specs, **(model_options or {}))
    options = {"imag_length": 4, **options}
    policy = partial(PolicyHead, units=12, outscale=1.0)
    value = partial(TwoHotHead, units=12, outscale=1.0)
    return Dreamer(world, ActorCritic(specs, world.feat_dim, policy=policy, value=value, **options), scales)


def records(b: int = 4, t: int = 7, specs: Specs = SPECS, seed: int = 0, latent: dict | None = None) -> dict:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(b, t, *shape, generator=generator)  # noqa: E731
    flag = lambda p: torch.rand(b, t, generator=generator) < p  # noqa: E731
    out = {
        "obs": {name: draw(*space.shape) for name, space in specs.obs.items()},
        "prev_action": draw(specs.action_dim).clamp(-1, 1),
        "reward": draw(),
        "is_first": flag(0.2),
        "is_last": flag(0.1),
        "is_terminal": flag(0.05),
    }
    if latent is not None:
        out["latent"] = latent
    return out


def batch(dreamer: Dreamer, b: int = 4, t: int = 7, seed: int = 0) -> dict:
    rssm = dreamer.world_model.rssm
    return records(b, t, dreamer.specs, seed, rssm.pack(rssm.initial(b, t)))

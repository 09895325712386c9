"""DreamerV1, V2 and V3-2023 as presets: their published settings, their sizes, and that they and their mixes train."""

from __future__ import annotations

import pytest
import torch

import dreamer_lightning
import tiny
from dreamer_lightning import config
from dreamer_lightning.commands.networks import build_dreamer, parts
from dreamer_lightning.dreamer import by_module
from dreamer_lightning.nets.gradients import Pathwise, ScoreFunction
from dreamer_lightning.optim import PartsAdam
from dreamer_lightning.types import Space, Specs, UserError
from dreamer_lightning.versions import ActorCritic2023, ActorCriticV1, ActorCriticV2

PIXELS = Specs({"image": Space((64, 64, 3), "uint8")}, {"action": Space((6,))})
WALKER = Specs({"orientations": Space((14,)), "height": Space((1,)), "velocity": Space((9,))}, {"action": Space((6,))})
ATARI = Specs({"image": Space((64, 64, 1), "uint8")}, {"action": Space((), "int32", classes=18)})
V1, V2, V2_ATARI, V3 = (
    ("dreamer_v1.yaml",),
    ("dreamer_v2.yaml",),
    ("dreamer_v2.yaml", "dreamer_v2_atari.yaml"),
    ("dreamer_v3_2023.yaml",),
)


def parse(configs: tuple[str, ...], *flags: str) -> dict:
    return config.parse("fit", [part for name in configs for part in ("--config", name)] + list(flags))[1]


def build(options: dict, specs: Specs, device: str = "cpu"):
    torch.manual_seed(0)
    with torch.device(device):
        return build_dreamer(specs, options)


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


PUBLISHED = {
    V1: {
        **{
            "num_envs": 1,
            "env_steps": 5_000_000,
            "batch_size": 50,
            "batch_length": 50,
            "imag_length": 15,
            "burst": 100,
        },
        **{"pretrain": 100, "prefill": 2500, "train_ratio": 500, "gradient": Pathwise},
        **{
            "actor_critic": ActorCriticV1,
            "horizon": 100,
            "lam": 0.95,
            "dyn": 1,
            "rep": 1,
            "contdisc": False,
        },
        **{"episodes": True, "latents": False, "online": False, "prioritize_ends": False, "noise": 0.3},
        **{"free_nats": 3.0, "repeat": 2},
    },
    V2: {
        **{"num_envs": 1, "batch_size": 16, "batch_length": 50, "imag_length": 15, "burst": 1, "pretrain": 100},
        **{
            "prefill": 1000,
            "train_ratio": 160,
            "gradient": Pathwise,
            "actor_critic": ActorCriticV2,
            "horizon": 100,
        },
        **{"lam": 0.95, "actent": 1e-4, "dyn": 0.8, "rep": 0.2, "contdisc": False, "slowtar": True, "slow_rate": 1},
        **{"slow_every": 100, "episodes": True, "latents": False, "prioritize_ends": False},
        **{"capacity": 2_000_000, "free_nats": 1.0, "repeat": 2, "noise": 0.0},
    },
    V2_ATARI: {
        **{
            "env_steps": 200_000_000,
            "prefill": 50_000,
            "pretrain": 1,
            "train_ratio": 50,
            "gradient": ScoreFunction,
        },
        **{"horizon": 1000, "actent": 1e-3, "cont_scale": 5.0, "dyn": 0.08, "rep": 0.02, "contdisc": True, "repeat": 4},
        **{
            "prioritize_ends": True,
            "free_nats": 0.0,
            "gray": True,
            "sticky": 0.25,
            "slowtar": True,
            "batch_length": 50,
        },
    },
    V3: {
        **{
            "num_envs": 4,
            "env_steps": 500_000,
            "batch_size": 16,
            "batch_length": 64,
            "imag_length": 15,
            "prefill": 1300,
        },
        **{
            "train_ratio": 512,
            "gradient": Pathwise,
            "actor_critic": ActorCritic2023,
            "horizon": 333,
            "lam": 0.95,
        },
        **{
            "actent": 3e-4,
            "dyn": 0.5,
            "rep": 0.1,
            "contdisc": False,
            "slow_rate": 0.02,
            "slowreg": 1.0,
            "slowtar": False,
        },
        **{"latents": False, "episodes": False, "online": False, "capacity": 1_000_000, "free_nats": 1.0, "repeat": 2},
    },
}
ADAMS = {  # lr, eps, clip, weight decay of model, actor and critic
    V1: ((6e-4, 1e-7, 100, 0), (8e-5, 1e-7, 100, 0), (8e-5, 1e-7, 100, 0)),
    V2: ((3e-4, 1e-5, 100, 1e-6), (8e-5, 1e-5, 100, 1e-6), (8e-5, 1e-5, 100, 1e-6)),
    V2_ATARI: ((2e-4, 1e-5, 100, 1e-6), (4e-5, 1e-5, 100, 1e-6), (1e-4, 1e-5, 100, 1e-6)),
    V3: ((1e-4, 1e-8, 1000, 0), (3e-5, 1e-5, 100, 0), (3e-5, 1e-5, 100, 0)),
}
ids = lambda configs: "+".join(name.removesuffix(".yaml") for name in configs)  # noqa: E731


@pytest.mark.parametrize("configs", PUBLISHED, ids=ids)
def test_settings_are_the_published_ones(configs):
    """dreamer-spec, sections 1.10 and 2; and the optimiser that is really built."""
    options = parse(configs)
    specs = {V1: PIXELS, V2: PIXELS, V2_ATARI: ATARI, V3: WALKER}[configs]
    dreamer = build(options, specs, "meta")
    found = {**vars(options["env"]), **vars(options["losses"]), **vars(options["collector"])}
    found |= options["replay"].keywords | {"episodes": "EpisodeReplay" in options["config_text"]}
    found |= options | vars(options["discount"]) | vars(dreamer.actor_critic)
    found |= {"free_nats": dreamer.world_model.rssm.free_nats, "cont_scale": options["losses"].cont}
    found |= {"actor_critic": type(dreamer.actor_critic), "gradient": type(dreamer.actor_critic.gradient)}
    explore = options["collector"].explore
    found["noise"] = explore.keywords["amount"] if explore else 0.0
    found["actent"] = getattr(getattr(dreamer.actor_critic, "entropy_weight", None), "actent", None)
    assert {key: found[key] for key in PUBLISHED[configs]} == PUBLISHED[configs]
    optimizer = options["optimizer"](parts(dreamer))
    assert isinstance(optimizer, PartsAdam)
    got = tuple(tuple(g[key] for key in ("lr", "eps", "clip", "weight_decay")) for g in optimizer.param_groups)
    assert [group["part"] for group in optimizer.param_groups] == ["model", "actor", "critic"]
    assert got == ADAMS[configs]
    assert optimizer.param_groups[0]["keras_eps"] == (configs != V3)


def test_updates_for_env_steps():
    """V1: 100 updates for 1000 env steps; V2: one for 10 (DMC) or 64 (Atari, train_every 16); V3-2023: one for 4."""
    for configs, updates, env_steps in ((V1, 100, 1000), (V2, 1, 10), (V2_ATARI, 1, 64), (V3, 1, 4)):
        options = parse(configs)
        per_decision = options["train_ratio"] / (options["batch_size"] * options["batch_length"])
        assert updates / per_decision * options["env"].repeat == pytest.approx(env_steps)


# Parameters by hand, from the layers that dreamer-spec lists: (inputs + 1) x outputs, 2 x width for a LayerNorm.
COUNTS = {
    "v1": (
        V1,
        PIXELS,
        {
            "encoder": 1_568 + 32_832 + 131_200 + 524_544,
            "rssm": 7_400 + 241_200 + 40_200 + 12_060 + 245_000 + 12_060,
            "decoder": 236_544 + 3_276_928 + 204_864 + 73_760 + 3_459,
            "reward": 92_400 + 160_400 + 401,
            "cont": 0,
            "policy": 92_400 + 3 * 160_400 + 4_812,
            "value": 92_400 + 2 * 160_400 + 401,
        },
    ),
    "v2": (
        V2,
        PIXELS,
        {
            "encoder": 2_352 + 73_824 + 295_104 + 1_180_032,
            "rssm": 206_200 + 240_600 + 1_200 + 40_200 + 205_824 + 347_400 + 205_824,
            "reward": 490_000 + 3 * 160_400 + 401,
            "policy": 490_000 + 3 * 160_400 + 4_812,
            "value": 490_000 + 3 * 160_400 + 401,
        },
    ),
    "v3_2023": (
        V3,
        WALKER,
        {
            "encoder": 24 * 512 + 1024 + 512 * 512 + 1024,
            "rssm": 528_384 + 1_575_936 + 263_168 + 525_312 + 525_312 + 525_312 + 512,
            "reward": 1536 * 512 + 1024 + 512 * 512 + 1024 + 513 * 255,
            "policy": 1536 * 512 + 1024 + 512 * 512 + 1024 + 2 * 513 * 6,
            "value": 1536 * 512 + 1024 + 512 * 512 + 1024 + 513 * 255,
        },
    ),
}


@pytest.mark.parametrize("version", COUNTS)
def test_networks_have_the_published_sizes(version):
    configs, specs, want = COUNTS[version]
    modules = by_module(build(parse(configs), specs, "meta"))
    assert {name: sum(p.numel() for p in modules[name]()) for name in want} == want


ECHO = {"class_path": "dreamer_lightning.envs.Custom"}
ECHO["init_args"] = {"path": "learnable:Echo", "repeat": 1, "pixels": False, "vectors": True}


@pytest.mark.parametrize("preset", ["dreamer_v1.yaml", "dreamer_v2.yaml", "dreamer_v3_2023.yaml"])
def test_a_preset_trains(preset, tmp_path):
    run = dreamer_lightning.fit(
        preset,
        "debug.yaml",
        run_dir=str(tmp_path / "run"),
        env=ECHO,
        num_envs=2,
        updates=12,
        train_ratio=20,
        batch_length=10,
        learning_starts=8,
        evaluation={"every": 0, "random_episodes": 1},
        wandb={"mode": "disabled"},
        log_every=4,
    )
    _, losses = run.series("loss/total")
    assert len(losses) >= 3
    assert torch.isfinite(torch.tensor(losses)).all()
    assert run.series("loss/repval")[1] == []


SMALL = [
    "--size.deter=16",
    "--size.hidden=16",
    "--size.classes=4",
    "--size.units=24",
    "--actor_critic.imag_length=4",
    "--actor_critic.imag_last=2",
]
LAPROP = ["--optimizer.lr=0.002", "--optimizer.warmup=0"]
MIXES = {
    "V3 with Gaussian latents": (
        ("dmc.yaml",),
        ["--rssm.latents=dreamer_lightning.nets.latents.Gaussian", "--rssm.latents.dims=6", *LAPROP],
    ),
    "V2 with symlog": (
        V2,
        [
            "--encoder.vector=dreamer_lightning.nets.encoders.SymlogMLPEncoder",
            "--decoder.vector=dreamer_lightning.nets.decoders.SymlogMLPDecoder",
            "--optimizer.lr=0.003",
        ],
    ),
    "V3 through the dynamics": (("dmc.yaml",), ["--actor_critic.gradient=Pathwise", *LAPROP]),
    "V2 with V3's block GRU and optimiser": (
        V2,
        ["--rssm=dreamer_lightning.nets.rssm.BlockRSSM", "--optimizer=dreamer_lightning.optim.LaProp", *LAPROP],
    ),
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_trains_and_its_loss_falls(mix):
    """Updates on one batch: reconstruction and reward losses fall by a tenth at least, and nothing is infinite."""
    configs, flags = MIXES[mix]
    options = parse(configs, *SMALL, *flags)
    dreamer = build(options, tiny.SPECS)
    optimizer, data = options["optimizer"](parts(dreamer)), tiny.batch(dreamer, b=8, t=11)
    generator, seen = torch.Generator().manual_seed(0), []
    for _ in range(40):
        output = dreamer(data, generator)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        dreamer.actor_critic.update_slow_critic()
        seen.append(sum(v for k, v in output.metrics.items() if k.startswith(("loss/recon", "loss/reward"))).item())
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p).all() for p in dreamer.parameters())
    assert sum(seen[-5:]) / 5 < 0.9 * sum(seen[:5]) / 5, seen


def test_mixes_are_what_they_say():
    gaussian = build(parse(*MIXES["V3 with Gaussian latents"][:1], *MIXES["V3 with Gaussian latents"][1]), tiny.SPECS)
    assert type(gaussian.world_model.rssm.latents).__name__ == "Gaussian"
    assert gaussian.world_model.rssm.stoch_dim == 6
    symlog = build(parse(V2, *SMALL, *MIXES["V2 with symlog"][1]), tiny.SPECS)
    assert type(symlog.world_model.encoder.parts[0]).__name__ == "SymlogMLPEncoder"
    assert type(symlog.world_model.decoder.parts[0]).__name__ == "SymlogMLPDecoder"
    assert isinstance(symlog.actor_critic, ActorCriticV2)


def test_a_class_that_is_no_actor_critic_is_refused():
    with pytest.raises(UserError, match="actor_critic"):
        parse(("dmc.yaml",), "--actor_critic=torch.nn.Linear")

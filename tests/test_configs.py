"""Every YAML in configs/ parses, stacks and builds; sizes reach every network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from dreamer_lightning import config, configfiles
from dreamer_lightning.commands.networks import build_dreamer
from dreamer_lightning.nets.gradients import Mix, Pathwise, ScoreFunction
from dreamer_lightning.types import Space, Specs, UserError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OVERLAYS = [*configfiles.OVERLAYS, *(f"size/{path.name}" for path in sorted((CONFIGS / "size").glob("*.yaml")))]
NAME_MODULES = (
    "networks.yaml",
    "dreamer_v2_atari.yaml",
    "explore.yaml",
    "faithful.yaml",
    "r2dreamer.yaml",
    "small.yaml",
    "ssm.yaml",
    "offline.yaml",
)  # overlays that are no mere sizes
WALKER = Specs(
    {"height": Space((1,)), "orientations": Space((14,)), "velocity": Space((9,))}, {"action": Space((6,), "float32")}
)
PIXELS = Specs({"image": Space((64, 64, 3), "uint8")}, {"action": Space((), "int32", classes=6)})
OFFICIAL = ("dreamerv3.yaml",)
# danijar/dreamerv3@e3f0224: parameters without the slow critic, by size: (walker vectors, 64x64 images with 6 actions)
COUNTS = {
    "1m": (640_867, 686_456),
    "12m": (9_738_019, 10_492_616),
    "25m": (21_782_947, 23_487_016),
    "50m": (38_612_003, 41_646_984),
    "100m": (86_622_499, 93_463_624),
    "200m": (153_769_507, 165_942_536),
    "400m": (345_473_059, 372_887_176),
}


def parse(*args: str) -> dict:
    return config.parse("fit", list(args))[1]


def with_networks(options: dict) -> dict:
    """The options, and among them those of the world model and the actor-critic that are built from them."""
    dreamer = build_dreamer(WALKER, options)
    agent = dreamer.actor_critic
    found = {"imag_length": agent.imag_length, "imag_last": agent.imag_last, "gradient": type(agent.gradient)}
    return {**options, **found, "standardize": dreamer.world_model.standardize is not None}


def content(name: str) -> dict:
    return yaml.safe_load((CONFIGS / name).read_text())


def mentions(tree, key: str) -> bool:
    if isinstance(tree, dict):
        return key in tree or any(mentions(value, key) for value in tree.values())
    return isinstance(tree, list) and any(mentions(value, key) for value in tree)


def test_every_config_is_known():
    assert set(configfiles.shipped()) == {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert set(configfiles.presets()) == set(configfiles.shipped()) - set(OVERLAYS) - set(configfiles.OTHERS)


@pytest.mark.parametrize("name", configfiles.presets())
def test_preset_stands_alone(name: str):
    options = parse("--config", name)
    saved = yaml.safe_load(options["config_text"])
    assert saved["rssm"]["init_args"]["deter"] == saved["size"]["deter"]
    assert "${" not in options["config_text"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_stacks_on_a_preset(name: str):
    size = parse("--config", "dmc.yaml", "--config", name)["size"]
    expected = content(name).get("size") or content("dmc.yaml")["size"]
    assert vars(size) == expected
    assert not name.startswith("size/") or name == f"size/{size.name}.yaml"


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name not in NAME_MODULES])
def test_overlays_name_no_module(name: str):
    assert not mentions(content(name), "init_args")
    assert not mentions(content(name), "class_path")
    if name.startswith("size/"):
        assert set(content(name)) == {"size"}


@pytest.mark.parametrize(
    ("stack", "want"),
    [
        (["dmc.yaml"], {"standardize": True, "imag_last": 8, "gradient": Mix}),
        (["gym.yaml"], {"standardize": True, "imag_last": 8, "gradient": ScoreFunction}),
        (["dmc.yaml", "faithful.yaml"], {"standardize": False, "imag_last": 0, "gradient": ScoreFunction}),
        (["dmc.yaml", "fast.yaml"], {"imag_last": 8, "train_ratio": 512}),
        (["dreamerv3.yaml"], {"train_ratio": 1024, "env_steps": 1_100_000, "imag_last": 0}),
        (["quickstart.yaml"], {"imag_last": 4, "gradient": Pathwise, "max_time": 1080}),
    ],
)
def test_presets_are_what_the_readme_says(stack, want):
    found = with_networks(parse(*(word for name in stack for word in ("--config", name))))
    assert {name: found[name] for name in want} == want
    assert found["collector"].overlap == ("fast.yaml" in stack)


@pytest.mark.parametrize("name", ["dmc.yaml", "gym.yaml", "dmc_vision.yaml"])
def test_faithful_leaves_nothing_of_ours(name: str):
    """What learns is as in the official preset; sizes and tasks stay the preset's own."""
    found, official = (yaml.safe_load(parse(*stack)["config_text"]) for stack in ((name, "faithful.yaml"), OFFICIAL))
    parts = ("world_model", "actor_critic", "optimizer", "collector", "losses", "discount")
    assert {part: found[part] for part in parts} == {part: official[part] for part in parts}


def test_an_overlay_that_is_no_more_says_where_it_went():
    with pytest.raises(UserError, match="efficient.yaml is part of dmc.yaml and gym.yaml now"):
        parse("dmc.yaml", "efficient.yaml")


def test_dmc_is_what_the_readme_says():
    options = with_networks(parse("--config", "dmc.yaml"))
    assert (options["env"].task, options["env"].repeat, options["num_envs"]) == ("walker_walk", 2, 4)
    assert (options["train_ratio"], options["batch_size"], options["batch_length"]) == (512, 16, 64)
    assert (options["imag_length"], options["imag_last"], options["env_steps"]) == (15, 8, 500_000)
    assert vars(options["size"]) == content("size/1m.yaml")["size"]
    assert options["collector"].backend == "serial"


@pytest.mark.parametrize("size", COUNTS)
def test_sizes_count_as_the_reference_does(size: str):
    options = parse("--config", "dmc.yaml", "--config", f"size/{size}.yaml")
    for specs, expected in zip((WALKER, PIXELS), COUNTS[size], strict=True):
        with torch.device("meta"):
            dreamer = build_dreamer(specs, options)
        assert sum(p.numel() for p in dreamer.parameters() if p.requires_grad) == expected


def test_later_configs_and_then_flags_win():
    flags = ("--size.units", "128", "--env.task", "cheetah_run", "--seed", "3", "--env_steps", "1e5")
    options = parse("--config", "dmc.yaml", "--config", "size/12m.yaml", *flags)
    saved = yaml.safe_load(options["config_text"])
    assert (options["size"].deter, options["size"].units) == (2048, 128)
    assert saved["encoder"]["init_args"]["vector"]["init_args"]["units"] == 128
    assert saved["policy"]["init_args"]["units"] == saved["decoder"]["init_args"]["image"]["init_args"]["units"] == 128
    assert (options["env"].task, options["seed"], options["env_steps"]) == ("cheetah_run", 3, 100_000)


def test_a_size_survives_a_swapped_module():
    encoder = "dreamer_lightning.nets.encoders.MLPEncoder"
    options = parse("--config", "dmc.yaml", "--config", "size/12m.yaml", "--encoder.vector", encoder)
    saved = yaml.safe_load(options["config_text"])
    assert saved["encoder"]["init_args"]["vector"]["class_path"] == encoder
    assert saved["rssm"]["init_args"]["deter"] == 2048


def test_keys_of_encoder_and_decoder_may_differ():
    options = parse("--config", "dmc.yaml", "--encoder.keys", "[height]", "--decoder.keys", '["velocity", "h.*"]')
    dreamer = build_dreamer(WALKER, options)
    latent = dreamer.world_model.rssm.initial(2)
    assert set(dreamer.reconstruct(latent)) == {"velocity", "height"}
    assert dreamer.world_model.encoder({"height": torch.zeros(2, 1)}).shape == (2, 64)


def test_configs_are_found_from_anywhere(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configfiles.find("dmc.yaml").read_text() == (CONFIGS / "dmc.yaml").read_text()
    assert configfiles.find("size/12m") == configfiles.find("size/12m.yaml")
    (tmp_path / "dmc.yaml").write_text("seed: 9\n")
    assert configfiles.find("dmc.yaml") == tmp_path / "dmc.yaml"
    with pytest.raises(UserError, match=r"no file 'dnc.yaml' \(looked in .*dmc.yaml"):
        configfiles.find("dnc.yaml")

"""What an earlier version wrote still loads: a run of commit 1f34364, configs of others, options by their old names."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import dreamer_lightning
import tiny
from dreamer_lightning import cli, config, migration
from dreamer_lightning.nets.gradients import Mix, Pathwise, ScoreFunction
from dreamer_lightning.types import Discount
from dreamer_lightning.versions import ActorCritic2023, ActorCriticV1, ActorCriticV2

OLD = Path(__file__).parent / "data" / "old_run"
NETWORKS = ("env", "optimizer", "replay", "collector", "evaluation", "checkpoint", "faults", "fabric", "wandb")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the kept run: cartpole_balance, a mix of both gradients, standardised vectors, 83 updates."""
    return shutil.copytree(OLD / "run", tmp_path / "run")


def row(path: Path) -> dict[str, float]:
    """The last row of a table, without columns of time and memory and those that only evaluations have."""
    with path.open(newline="") as file:
        *_, last = csv.DictReader(file)
    return {
        name: float(value)
        for name, value in last.items()
        if value and name.split("/")[0] in ("env_step", "update", "loss", "model", "dream", "opt")
    }


def test_a_run_of_before_goes_on_as_it_would_have(run: Path, capsys):
    """The next row of its metrics, as commit 1f34364 went on with it itself."""
    options = {"env_steps": 896, "evaluation": {"every": 0}, "checkpoint": {"every": 100_000}}
    dreamer_lightning.fit(resume=str(run), **options)
    assert "resumed at update 83" in capsys.readouterr().out
    found, want = row(run / "metrics.csv"), row(OLD / "next.csv")
    assert found.keys() == want.keys()
    np.testing.assert_allclose([found[name] for name in want], list(want.values()), rtol=1e-3, atol=1e-6)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["actor_critic"]["init_args"]["imag_last"] == 4
    assert migration.config(saved) is saved


def test_an_agent_of_before_acts_and_is_evaluated(run: Path, capsys):
    agent = dreamer_lightning.Agent.load(run)
    actor = agent.dreamer.actor_critic
    assert (actor.imag_last, actor.entropy_weight.actent, actor.gradient.share) == (4, 0.001, 0.2)
    assert agent.dreamer.world_model.standardize is not None
    obs = {name: np.zeros(space.shape, np.float32) for name, space in agent.specs.obs.items()}
    action, _ = agent.act(obs, agent.initial())
    assert action.shape == (1,)
    assert cli.main(["evaluate", str(run), "--episodes", "1", "--video", "false"]) == 0


@pytest.mark.parametrize(
    ("name", "kind", "gradient", "discount", "options"),
    [
        ("dmc_efficient", "ActorCritic", ScoreFunction, Discount(333.0), {"imag_last": 8, "lam": 0.95}),
        ("gym_debug", "ActorCritic", Mix, Discount(100.0), {"imag_last": 4, "imag_length": 5}),
        ("dreamer_v1", "ActorCriticV1", Pathwise, Discount(100.0, False), {"imag_length": 15}),
        ("dreamer_v2_atari", "ActorCriticV2", ScoreFunction, Discount(1000.0), {"slowtar": True, "slow_every": 100}),
        ("dreamer_v3_2023", "ActorCritic2023", Pathwise, Discount(333.0, False), {"slow_rate": 0.02}),
    ],
)
def test_configs_of_before_make_the_same_actor_critic(name, kind, gradient, discount, options):
    found = config.of_run(OLD / "configs" / f"{name}.yaml", without=NETWORKS)
    agent = found["actor_critic"](tiny.SPECS, 4, discount=found["discount"])
    assert type(agent).__name__ == kind
    assert type(agent.gradient) is gradient
    assert found["discount"] == discount
    assert {option: getattr(agent, option) for option in options} == options
    assert getattr(agent.gradient, "share", 0.3) == 0.3
    assert found["world_model"].keywords["standardize"] == (name == "dmc_efficient")


def test_weights_of_the_slow_critic_that_v1_never_read_are_left_out():
    kept = {"actor_critic.value.weight": 1, "actor_critic.slow_critic.weight": 2, "world_model.a": 3}
    assert migration.weights(kept, {"actor_critic.slow_critic.weight"}) == kept
    assert list(migration.weights(kept, ["world_model.a"])) == ["actor_critic.value.weight", "world_model.a"]


@pytest.mark.parametrize(("noise", "amount"), [(0.3, 0.3), (0.0, None)])
def test_the_noise_of_before_is_an_exploration(noise, amount):
    values = {"collector": {"noise": noise, "steps": 2}}
    explore = migration.config(values)["collector"]["explore"]
    assert explore == ({"class_path": migration.DISTURBED, "init_args": {"amount": amount}} if amount else None)
    today = {"collector": {"noise": 0.0, "explore": "HeldCorners"}}
    assert migration.config(today) == {"collector": {"explore": "HeldCorners"}}
    words, notes = migration.flags([("--collector.noise", str(noise))])
    assert words == [("--collector.explore", migration.DISTURBED), ("--collector.explore.amount", str(noise))]
    assert notes == ["--collector.noise is --collector.explore Disturbed now"]


def test_a_mix_over_the_preset_of_v2_keeps_its_share():
    mix = [("--config", "dreamer_v2.yaml"), ("--actor_gradient", "mix")]
    share = "--actor_critic.gradient.share"
    assert dict(migration.flags(mix)[0])[share] == "0.9"
    assert dict(migration.flags([*mix, ("--losses.gradient_mix", "0.3")])[0])[share] == "0.3"
    assert share not in dict(migration.flags([("--config", "dmc.yaml"), mix[1]])[0])


OWN_WEIGHT = "{class_path: dreamer_lightning.nets.entropy.EntropyTarget, init_args: {target: 0.3}}"
OVERLAYS = [
    (
        f"losses: {{entropy_weight: {OWN_WEIGHT}}}",
        ["--losses.entropy_weight", OWN_WEIGHT],
        lambda agent: agent.entropy_weight.target == 0.3,
    ),
    ("imag_last: 7", ["--imag_last", "7"], lambda agent: agent.imag_last == 7),
    ("actor_gradient: dynamics", ["--actor_gradient=dynamics"], lambda agent: type(agent.gradient) is Pathwise),
    (
        "{actor_gradient: mix, losses: {gradient_mix: 0.3}}",
        ["--losses.gradient_mix", "0.3", "--actor_gradient", "mix"],
        lambda agent: agent.gradient.share == 0.3,
    ),
    ("losses: {actent: 0.01}", ["--losses.actent", "0.01"], lambda agent: agent.entropy_weight.actent == 0.01),
    ("losses: {lam: 0.5}", ["--losses.lam", "0.5"], lambda agent: agent.lam == agent.replay_lam == 0.5),
    ("losses: {horizon: 10}", ["--losses.horizon", "10"], lambda agent: agent.discount == 0.9),
    ("losses: {contdisc: false}", ["--losses.contdisc", "false"], lambda agent: agent.dream_discount < 1),
]


@pytest.mark.parametrize(("text", "words", "holds"), OVERLAYS, ids=[words[0] for _, words, _ in OVERLAYS])
def test_options_of_before_are_taken_where_they_are_now(tmp_path: Path, capsys, text, words, holds):
    (tmp_path / "old.yaml").write_text(text)
    for given in (words, ["--config", str(tmp_path / "old.yaml")]):
        options = config.parse("fit", ["dmc.yaml", *given])[1]
        assert holds(options["actor_critic"](tiny.SPECS, 4, discount=options["discount"]))
        told = capsys.readouterr().err.strip().splitlines()
        assert all(line.startswith("note: ") and " now" in line for line in told)
        assert told


def test_an_option_of_the_world_model_needs_no_value(capsys):
    for given in (["--standardize"], ["--standardize", "true"]):
        options = config.parse("fit", ["dmc.yaml", *given])[1]
        assert options["world_model"].keywords["standardize"] is True
        assert capsys.readouterr().err == "note: --standardize is --world_model.standardize now\n"


def test_overlays_of_before_lie_on_other_classes(tmp_path: Path):
    (tmp_path / "old.yaml").write_text("{imag_last: 7, imag_length: 3}")
    kinds = {"dreamer_v1": ActorCriticV1, "dreamer_v2": ActorCriticV2, "dreamer_v3_2023": ActorCritic2023}
    for preset, kind in kinds.items():
        options = config.parse("fit", [f"{preset}.yaml", "debug.yaml", str(tmp_path / "old.yaml")])[1]
        agent = options["actor_critic"](tiny.SPECS, 4, discount=options["discount"])
        assert (type(agent), agent.imag_last, agent.imag_length) == (kind, 7, 3)

"""What a run was asked for: the line that its config keeps, what differs from the preset, and a name for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dreamer_lightning import config, settings


def text_of(*args: str) -> str:
    return config.parse("fit", list(args))[1]["config_text"]


def test_what_was_asked_is_the_first_line_and_the_config_is_as_before():
    text = text_of("dmc.yaml", "small.yaml", "--env.task", "cheetah_run", "--seed", "3", "--actor_critic.imag_last=16")
    first, _, rest = text.partition("\n")
    assert first == "# from dmc.yaml small.yaml; set env.task actor_critic.imag_last"
    assert yaml.safe_load(text) == yaml.safe_load(rest)
    assert settings.asked(text) == (["dmc.yaml", "small.yaml"], ["env.task", "actor_critic.imag_last"])
    assert settings.label(text) == "dmc-small-imag_last=16"
    assert {
        ("env.task", "cheetah_run", "walker_walk"),
        ("actor_critic.imag_last", "16", "8"),
        ("batch_length", "32", "64"),
        ("learning_starts", "256", ""),
        ("optimizer.lr", "0.0005", "0.0003"),
    } <= set(settings.changes(text))


def test_a_config_of_ones_own_is_told_by_its_options(tmp_path: Path):
    own = tmp_path / "my run.yaml"
    own.write_text("actor_critic: {gradient: dreamer_lightning.nets.gradients.Pathwise}\nwandb: {mode: disabled}\n")
    text = text_of("dmc.yaml", str(own))
    assert settings.asked(text) == (["dmc.yaml", "my_run.yaml"], ["actor_critic.gradient"])
    assert settings.changes(text) == [("actor_critic.gradient", "Pathwise", "Mix")]
    assert settings.label(text) == "dmc-my_run-gradient=Pathwise"


def test_a_config_whose_options_moved_is_told_by_those_of_today(tmp_path: Path):
    (tmp_path / "old.yaml").write_text("imag_last: 4\nlosses: {lam: 0.5}\n")
    text = text_of("dmc.yaml", str(tmp_path / "old.yaml"))
    assert settings.asked(text) == (["dmc.yaml", "config.yaml"], ["actor_critic.imag_last", "actor_critic.lam"])
    assert ("actor_critic.imag_last", "4", "8") in settings.changes(text)


def test_what_does_not_change_how_it_learns_is_left_out():
    text = text_of("dmc.yaml", "--env_steps", "1e4", "--wandb.mode", "offline", "--evaluation.every", "0")
    assert settings.asked(text) == (["dmc.yaml"], [])
    assert settings.changes(text) == []


def test_a_resumed_run_keeps_what_it_was_asked_for(tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text_of("dmc.yaml", "--train_ratio", "256"))
    text = text_of("--resume", str(tmp_path), "--env_steps", "9999", "--losses.rep", "0.2")
    assert settings.asked(text) == (["dmc.yaml"], ["train_ratio", "losses.rep"])
    before = (tmp_path / "config.yaml").read_text().partition("\n")[2]
    (tmp_path / "config.yaml").write_text(before)
    old = text_of("--resume", str(tmp_path))
    assert settings.asked(old) is None
    assert (settings.changes(old), settings.label(old)) == ([], "")


def test_a_long_label_is_cut_and_still_its_own():
    options = [f"--{name}" for name in ("rssm.deter", "rssm.hidden", "policy.units", "value.units", "reward.units")]
    options += ["--rssm.dyn_layers", "--rssm.obs_layers", "--rssm.img_layers", "--rssm.stoch", "--losses.repval"]
    labels = {
        settings.label(text_of("dmc.yaml", *(f"{option}=64" for option in options), f"--losses.value={last}"))
        for last in (1, 2)
    }
    assert len(labels) == 2
    assert all(len(label) <= settings.LONGEST + 7 for label in labels)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0003, "0.0003"),
        ([1, "a"], "1,a"),
        ({"class_path": "my.Own", "init_args": {"x": 1}}, "Own"),
        ("dreamer_lightning.nets.gradients.Mix", "Mix"),
        ("my.domain.txt", "my.domain.txt"),
        (None, "None"),
        (True, "True"),
    ],
)
def test_values_in_words(value, text):
    assert settings.words(value) == text

"""Every example and command of the README does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import dreamer_lightning
from dreamer_lightning import cli, configfiles

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SMALL = {"updates": 2, "env_steps": 100_000, "evaluation": {"every": 0}, "wandb": {"mode": "disabled"}}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def block(language: str, mark: str) -> str:
    (found,) = [text for text in blocks(language) if mark in text]
    return found


def test_own_environment_in_a_file_beside_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corridor.py").write_text(block("python", "class Corridor"))
    Path("corridor.yaml").write_text(block("yaml", "Corridor"))
    run = dreamer_lightning.fit("gym.yaml", "corridor.yaml", "debug.yaml", run_dir="run", **SMALL)
    assert run.series("episode/x")[1], "log_info becomes a metric"


def test_swapping_an_encoder_by_config_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_nets.py").write_text(block("python", "class Fourier"))
    Path("fourier.yaml").write_text(block("yaml", "Fourier"))
    task = {"task": "cartpole_balance"}
    run = dreamer_lightning.fit("dmc.yaml", "fourier.yaml", "debug.yaml", run_dir="run", env=task, **SMALL)
    assert "my_nets.Fourier" in (run.dir / "config.yaml").read_text()
    agent = dreamer_lightning.Agent.load(run)
    assert type(agent.dreamer.world_model.encoder).__name__ == "Fourier"


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for text in blocks("bash") for line in text.splitlines()]
    inline = re.findall(r"`(fit --[^`]*)`", README)
    return [line for line in lines if line] + inline


def test_the_readme_names_commands():
    assert {"make train", "make test"} <= set(commands())


@pytest.mark.parametrize("command", [c for c in commands() if "fit --config" in c])
def test_fit_commands_parse(command, capsys):
    words = shlex.split(command)
    words = words[words.index("fit") :]
    for name in (word for word in words if word.endswith(".yaml")):
        if name not in ("corridor.yaml", "fourier.yaml"):  # these are files of the reader's
            assert configfiles.find(name)
    if not {"corridor.yaml", "fourier.yaml"} & set(words):
        cli.parse("fit", [word for word in words[1:] if word not in ("--print_config", "--help")])


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^train:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()

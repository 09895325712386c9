"""Every example and command of the README does what it says; those of docs/ parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import dreamer_lightning
from dreamer_lightning import config, configfiles

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
COMMANDS = "fit|evaluate|dream|demo|export|bench|parity|compare|sweep|yardstick|diagnose"
# what stands for words of the reader's, or is told of because it is refused
READERS = r"\.\.\.|\"\$|\b(NAME|OPTS|FILE|N)\b|\barm\b|corridor|fourier|--resume$|--episodes|--help|--list|\.help"
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
    return [line.split(" #")[0].strip() for text in blocks("bash") for line in text.splitlines() if line]


def test_the_readme_names_commands():
    assert {"make train", "make test"} <= set(commands())


def typed(page: str) -> set[str]:
    """Commands of the program on a page: in a block after ``-m dreamer_lightning``, or in a line's back quotes."""
    fenced = "\n".join(re.findall(r"```\w*\n(.*?)```", page, re.DOTALL))
    found = re.findall(r"-m dreamer_lightning (.+)", fenced)
    found += re.findall(rf"`(?:python -m dreamer_lightning )?((?:{COMMANDS}) [^`]*)`", page)
    return {line.split(" #")[0].strip() for line in found}


@pytest.mark.parametrize(
    "line", [line for line in sorted(set().union(*map(typed, PAGES.values()))) if not re.search(READERS, line)]
)
def test_commands_parse(line):
    name, *words = shlex.split(line)
    config.parse(name, [word for word in words if word != "--print_config"])


def test_shipped_configs_that_pages_name_are_there():
    names = {name for line in set().union(*map(typed, PAGES.values())) for name in re.findall(r"[\w/]+\.yaml", line)}
    own = {"corridor.yaml", "fourier.yaml"}  # files of the reader's
    assert len(names - own) > 5
    assert all(configfiles.find(name) for name in names - own)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^train:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder, made = (ROOT / page).parent, {"options.md", "commands.md", "metrics.md"}  # by docs/reference_pages.py
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[page])
    gone = [Path(link) for link in links if not (folder / link).exists()]
    assert [link for link in gone if link.parent.name != "reference" or link.name not in made] == []


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 140
    assert all(len(line) <= 120 for line in lines if not line.startswith(("|", "!")))

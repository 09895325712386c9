"""Every example of docs/extending.md runs from an empty folder, with the installed wheel, as the page says."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from test_packaging import wheel  # noqa: F401 (a fixture)

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
SHORT = [
    *("--config", "debug.yaml", "--updates", "4", "--env_steps", "null", "--log_every", "32", "--threads", "1"),
    *("--evaluation.every", "0", "--evaluation.random_episodes", "0", "--wandb.mode", "disabled", "--run_dir", "run"),
]


def examples() -> dict[str, list[tuple[str, str]]]:
    """Code blocks of each section: what its first comment names, and its text."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        blocks = re.findall(r"```(?:python|yaml|toml)\n# (.*?)\n(.*?)```", section, flags=re.S)
        found[section.splitlines()[0]] = blocks
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:  # noqa: F811
    """A folder with the wheel's content, ahead of the clone on the import path."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(site: Path, folder: Path, *words: str) -> str:
    """Standard output of a command, run in a folder with the installed wheel."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(folder)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dreamer_lightning", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def columns(folder: Path) -> set[str]:
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return set(csv.DictReader(file).fieldnames or ())


def train(site: Path, folder: Path, title: str) -> None:
    """Write the files of an example, and run the line above its config for four updates."""
    (name, code), (line, config) = EXAMPLES[title]
    (folder / name).write_text(code)
    file, command = line.split("; ")
    (folder / file).write_text(config)
    run(site, folder, *command.split(), *SHORT)


def test_the_page_has_eight_short_examples():
    assert len(EXAMPLES) == 8
    for title, blocks in EXAMPLES.items():
        assert len(blocks) == 2, title
        assert len([line for line in blocks[0][1].splitlines() if line.strip()]) <= 30, title


@pytest.mark.parametrize("title", [title for title in EXAMPLES if title not in ("A callback", "A command")])
def test_an_example_trains(title, site, tmp_path):
    train(site, tmp_path, title)
    clocks = json.loads(next((tmp_path / "run").glob("checkpoints/*/manifest.json")).read_text())
    assert clocks["update"] == 4
    if title == "A loss":
        assert "loss/inverse" in columns(tmp_path)
    if title == "An RSSM with another carried state":
        resumed = run(site, tmp_path, "fit", "--resume", "run", "--updates", "5")
        assert "resumed at update 4" in resumed  # with the parts of the latent by their names, and the whole replay


def test_a_callback_stops_the_run_and_an_installed_command_reads_it(site, tmp_path):
    train(site, tmp_path, "A callback")
    assert "mine/left" in columns(tmp_path)
    clocks = json.loads(next((tmp_path / "run").glob("checkpoints/*/manifest.json")).read_text())
    assert clocks["update"] == 3
    (name, code), (_, points) = EXAMPLES["A command"]
    (tmp_path / name).write_text(code)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    group, entry = re.search(r'entry-points\."(.*?)"\]\n(.*)', points).groups()
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    assert re.search(r"^[\d,]+ parameters", run(site, tmp_path, "size", "run"), flags=re.M)

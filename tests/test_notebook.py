"""The notebooks run from empty folders, in kernels of their own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from dreamer_lightning.store.metrics import read_rows, series

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")


def run(name: str, folder: Path, monkeypatch) -> str:
    """Everything that a notebook prints or draws, run in a folder."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("DREAMER_RUN", raising=False)
    spec = KernelSpecManager().get_kernel_spec("python3")
    assert spec.argv
    monkeypatch.setattr(spec, "argv", [sys.executable, *spec.argv[1:]])
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=500, kernel_name="python3", resources=resources)
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(str(output.get("text") or output.get("data")) for output in outputs)


def test_quickstart_notebook(tmp_path, monkeypatch):
    text = run("01_quickstart.ipynb", tmp_path, monkeypatch)
    for word in ("return", "(8, 101", "gap/return", "openloop/reward_error@50", "image/png"):
        assert word in text
    assert (tmp_path / "runs" / "notebook" / "config.yaml").is_file()


def test_inside_a_dream_notebook(tmp_path, monkeypatch):
    text = run("02_inside_a_dream.ipynb", tmp_path, monkeypatch)
    assert text.count("image/png") == 6
    assert "the real pole falls after" in text


@pytest.mark.slow
def test_planner_and_actor_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGEST", "15")
    text = run("03_planner_and_actor.ipynb", tmp_path, monkeypatch)
    assert text.count("image/png") == 2
    assert "planner, blank actor" in text


def test_your_own_environment_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("ENV_STEPS", "320")  # a few updates
    text = run("04_your_own_environment.ipynb", tmp_path, monkeypatch)
    assert text.count("image/png") == 3
    assert "what Dreamer sees and does" in text
    assert (tmp_path / "runs" / "hover" / "report.html").is_file()


@pytest.mark.slow
def test_the_drone_learns_to_hover(tmp_path, monkeypatch):
    run("04_your_own_environment.ipynb", tmp_path, monkeypatch)
    scores = series(read_rows(tmp_path / "runs" / "hover" / "metrics.csv"), "episode/score", "env_step")[1]
    assert sum(scores[-10:]) / 10 > 30  # of 60; doing nothing has 26 on average, chance 6


@pytest.mark.slow
def test_from_pixels_notebook(tmp_path, monkeypatch):
    text = run("05_from_pixels.ipynb", tmp_path, monkeypatch)
    assert text.count("image/png") == 3
    latent, rows = (float(number) for number in re.findall(r"(?:latent|picture): +(-?[0-9.]+)", text))
    assert latent > rows

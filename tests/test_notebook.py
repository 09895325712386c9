"""The notebook runs from an empty folder, in a kernel of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_quickstart.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
def test_quickstart_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("DREAMER_RUN", raising=False)
    spec = KernelSpecManager().get_kernel_spec("python3")
    assert spec.argv
    monkeypatch.setattr(spec, "argv", [sys.executable, *spec.argv[1:]])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=500, kernel_name="python3", resources=folder)
    client.execute()
    texts = [
        str(output.get("text") or output.get("data")) for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    text = "\n".join(texts)
    for word in ("return", "(8, 101", "gap/return", "openloop/reward_error@50", "image/png"):
        assert word in text
    assert (tmp_path / "runs" / "notebook" / "config.yaml").is_file()

"""The documentation site builds without a warning and needs no network; its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason='the site needs pip install ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_its_sections_and_loads_nothing_from_the_network(site):
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert {"index.html", "start/install.html", "extending.html", "repository/CHANGELOG.html"} <= set(pages)
    for section in ("Start", "Learn", "How to", "Results", "About"):
        assert section in pages["index.html"]
    for name, page in pages.items():
        assert not re.search(r"<(script|img|link rel=\"stylesheet\")[^>]+(src|href)=\"https?:", page), name


def test_the_search_knows_the_pages(site):
    assert "symlog" in (site / "search" / "search_index.js").read_text()


def test_the_first_agent_plays(capsys):
    (code,) = python_blocks("start/first-agent.md")
    exec(code, {})
    assert float(capsys.readouterr().out) >= 100

"""The wheel: every package and every config is inside, and it works outside the clone."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from lowest import lowest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    source = ROOT / "src"
    packages = {".".join(path.parent.relative_to(source).parts) for path in source.rglob("__init__.py")}
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    packages |= {".".join(("dreamer_lightning", *folder.parts)) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_version_is_the_package_version():
    import dreamer_lightning

    assert dreamer_lightning.__version__ == PROJECT["project"]["version"]


def test_the_lowest_versions_are_those_of_pyproject():
    pins = lowest()
    assert f"torch=={re.search(r'torch>=([0-9.]+)', (ROOT / 'pyproject.toml').read_text())[1]}" in pins
    assert len(pins) == sum(">=" in line for line in PROJECT["project"]["dependencies"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of a copy of the tree, built without network by this environment's setuptools."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_configs(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    inside = set(entries)
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"dreamer_lightning/configs/{path.relative_to(ROOT / 'configs').as_posix()}" in inside
    for path in (ROOT / "src").rglob("*.py"):
        assert path.relative_to(ROOT / "src").as_posix() in inside
    data = ["*.csv.gz", "*.c", "agents/*/*", "demo/page/*"]
    for path in [path for pattern in data for path in (ROOT / "src").rglob(pattern) if "__pycache__" not in path.parts]:
        assert path.relative_to(ROOT / "src").as_posix() in inside
    assert any(name.endswith("LICENSE") for name in inside)
    assert any(name.endswith("THIRD_PARTY.md") for name in inside)
    sizes = {name: entry.compress_size for name, entry in entries.items()}
    trained = sum(size for name, size in sizes.items() if name.startswith("dreamer_lightning/agents/"))
    assert trained < 6e6
    assert sum(sizes.values()) - trained < 1e6


@pytest.mark.slow
def test_wheel_works_outside_the_clone(wheel: Path, tmp_path: Path):
    """Installed beside this environment's dependencies, it finds its configs, trains in an empty folder, and compares
    itself with recorded arrays."""
    venv.create(tmp_path / "venv", system_site_packages=False, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    import torch

    (site / "dependencies.pth").write_text(str(Path(torch.__file__).parents[1]))
    work = tmp_path / "empty"
    work.mkdir()
    command = [python, "-m", "dreamer_lightning", "fit", "--config", "dmc.yaml", "--config", "debug.yaml"]
    done = subprocess.run(
        [*command, "--updates", "3", "--wandb.mode", "disabled"], cwd=work, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(work.glob("runs/*/config.yaml"))
    command = [python, "-m", "dreamer_lightning", "parity"]
    done = subprocess.run([*command, ROOT / "tests" / "data"], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4073 arrays compared, 0 outside" in done.stdout
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)

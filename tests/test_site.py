"""The documentation site builds without a warning and needs no network; its examples run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dreamer_lightning

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


SMALL = {"updates": 2, "env_steps": 100_000, "evaluation": {"every": 0}, "wandb": {"mode": "disabled"}, "threads": 1}


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


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
    assert {
        "index.html",
        "start/install.html",
        "extending.html",
        "learn/07-returns.html",
        "repository/CHANGELOG.html",
    } <= set(pages)
    for section in ("Start", "Learn", "How to", "Reference", "Results", "About"):
        assert section in pages["index.html"]
    assert "<math" in pages["learn/07-returns.html"]
    for name, page in pages.items():
        assert not re.search(r"<(script|img|link rel=\"stylesheet\")[^>]+(src|href)=\"https?:", page), name


def test_the_search_knows_the_pages(site):
    assert "symlog" in (site / "search" / "search_index.js").read_text()


def test_the_first_agent_plays(capsys):
    (code,) = blocks("start/first-agent.md")
    exec(code, {})
    assert float(capsys.readouterr().out) >= 100


def script(name: str):
    """A module that lies in docs/."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    return script("reference_pages")


LESSONS = sorted((DOCS / "learn").glob("[0-9]*.md"))


def test_lessons_show_the_code_and_a_picture():
    parts = script("lesson_parts")
    assert len(LESSONS) == 12
    for path in LESSONS:
        page = path.read_text()
        shown = parts.with_code(page)
        assert "{code:" not in shown, "a line that is not understood"
        assert shown.count('title="') == page.count("{code:") >= 1, path.name
        assert all((path.parent / image).is_file() for image in re.findall(r"!\[.*?\]\((.*?)\)", page)), path.name
        assert "![" in page, path.name
    line, text = parts.code("ops/returns.py", "dream_weight")
    assert text == "return torch.cumprod(discount * cont, -1) / discount"
    assert text in (ROOT / "src/dreamer_lightning/ops/returns.py").read_text().splitlines()[line - 1]
    for wrong in (("ops/returns.py", "gone"), ("ops/returns.py", "dream_weight", "gone", "discount")):
        with pytest.raises(LookupError):
            parts.code(*wrong)


def test_options_and_commands_come_from_the_code(reference):
    options = reference.options()
    row = "| `losses.rep` | float | `0.1` | scale of the representation loss, KL(post \\|\\| sg(prior)). |"
    assert row in options
    for line in ("| `task` | str | `walker_walk` |", "| `groups` | int | `32` |", "| `lam` | "):
        assert line in options
    commands = reference.commands()
    assert all(f"\n## {name}\n" in commands for name in dreamer_lightning.commands.COMMANDS)


VARIANTS = {
    "dmc.yaml": {
        "env": {"task": "cartpole_balance", "time_limit": 160},
        "collector": {"explore": "dreamer_lightning.data.HeldCorners"},
        "actor_critic": {"entropy_weight": "dreamer_lightning.nets.entropy.EntropyTarget"},
        "losses": {"total": "dreamer_lightning.nets.totals.Harmony"},
    },
    "gym.yaml": {},
    "gym.yaml explore.yaml": {},
    "dreamer_v2.yaml": {"env": {"task": "cartpole_balance", "time_limit": 160, "pixels": False, "vectors": True}},
}
OF_USERS = {None, "episode/NAME", "loss/NAME"}


def columns_of(configs: str, folder: Path) -> set[str]:
    evaluation = {"every": 500, "episodes": 1, "random_episodes": 0, "starts": 4}
    small = {**SMALL, "updates": None, "env_steps": 600, "train_ratio": 4, "evaluation": evaluation}
    run = dreamer_lightning.fit(
        *configs.split(), "debug.yaml", run_dir=str(folder / "run"), **small, **VARIANTS[configs]
    )
    return set((run.dir / "metrics.csv").read_text().splitlines()[0].split(","))


def test_every_logged_metric_is_explained_and_no_other_one(reference, tmp_path):
    columns = {column for column, _ in reference.logged()} | columns_of("dmc.yaml", tmp_path)
    found = {column: reference.entry_of(column) for column in columns}
    assert [column for column, name in found.items() if name in OF_USERS] == []
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    rare = {name for name in reference.entries() if name not in found.values() and "NAME" not in name}
    health = {"health/env_failures", "health/masked", "health/skipped_updates"}
    assert rare <= {"fps/gpu_gb", "model/loss", "model/dream_length"} | health
    assert all(re.search(rf'["/]{name.partition("/")[2]}"', source) for name in rare)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["gym.yaml", "gym.yaml explore.yaml", "dreamer_v2.yaml"])
def test_metrics_of_other_agents_are_explained(config, reference, tmp_path):
    assert [name for name in columns_of(config, tmp_path) if reference.entry_of(name) in OF_USERS] == []


def test_how_to_bring_an_environment_and_its_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arm, play = blocks("howto/environment.md")
    Path("arm.py").write_text(arm)
    for page, name in (("environment", "arm.yaml"), ("pixels", "camera.yaml")):
        (config,) = blocks(f"howto/{page}.md", "yaml")
        Path(name).write_text(config)
    run = dreamer_lightning.fit("gym.yaml", "arm.yaml", "debug.yaml", run_dir="run", **{**SMALL, "updates": 24})
    assert run.series("episode/up")[1]
    scope: dict = {}
    exec(play, scope)
    assert scope["done"]
    (read,) = blocks("howto/metrics.md")
    exec(read, {})
    camera = dreamer_lightning.fit("gym.yaml", "arm.yaml", "camera.yaml", "debug.yaml", run_dir="camera", **SMALL)
    assert camera.series("loss/recon/camera")[1]
    assert camera.series("loss/recon/joint")[1]
    from dreamer_lightning import config

    check, options = config.parse("check-env", ["arm:Arm", "--steps", "100"])
    assert check(**options).code == 0


@pytest.mark.parametrize("page", ["discrete", "sweep", "resume"])
def test_how_to_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in blocks(f"howto/{page}.md"):
        exec(code, {})

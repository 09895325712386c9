"""Sweeps over settings: what is drawn, that a bad run is really stopped, and that a sweep goes on where it was."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dreamer_lightning
from dreamer_lightning import cli
from dreamer_lightning.types import UserError
from dreamer_lightning.workshop import study
from dreamer_lightning.workshop.space import Dial, grid, read_space

pytest.importorskip("optuna", reason='pip install ".[sweep]"')

# A run of ten rows: its score is its train ratio times its progress; SIGTERM ends it with a note and a checkpoint.
FIT = """
import pathlib, signal, sys, time
args = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
args.update(zip(sys.argv[2:], sys.argv[3:]))
folder = pathlib.Path(args.get("--run_dir") or args["--resume"])
folder.mkdir(parents=True, exist_ok=True)
ratio = float(args.get("--train_ratio", 0) or (folder / "ratio").read_text())
(folder / "ratio").write_text(str(ratio))
if ratio == 99:
    sys.exit("dreamer-lightning: --train_ratio: unlucky")
def stop(*_):
    (folder / "stopped").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
if not (folder / "metrics.csv").exists():
    (folder / "metrics.csv").write_text("env_step,episode/score" + chr(10))
for i in range(1, 11):
    with open(folder / "metrics.csv", "a") as file:
        file.write(f"{i * 100},{i * ratio}" + chr(10))
    time.sleep(60 if i == 6 and (ratio == 1 or SLOW and "--resume" not in args) else 0.01)
"""


@pytest.fixture
def fake_fit(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(study, "LOOK", 0.1)
    monkeypatch.setattr(study, "check_options", lambda *args: None)  # a second for each value; tested below
    write(tmp_path, FIT.replace("SLOW", "False"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake") + os.pathsep + os.environ.get("PYTHONPATH", ""))
    return tmp_path / "runs"


def write(folder: Path, text: str) -> None:
    package = folder / "fake" / "dreamer_lightning"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(text)


def sweep(folder: Path, *args: str) -> int:
    fit = ["--config", "dmc.yaml", "--env.task", "reacher_easy"]
    return cli.main(["sweep", "--run_dir", str(folder), "--seeds", "0", *args, *fit])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_grid_is_tried_once_each_and_the_best_comes_first(fake_fit: Path, capfd):
    assert sweep(fake_fit, "--seeds", "0,1", "--vary", "train_ratio=2,4 batch_size=8") == 0
    found = rows(fake_fit)
    assert [(row["train_ratio"], row["batch_size"], row["state"]) for row in found] == [
        ("4", "8", "complete"),
        ("2", "8", "complete"),
    ]
    assert float(found[0]["episode/score"]) == pytest.approx(4 * 5.5), "the mean of the last ten values"
    assert (fake_fit / "trial1" / "seed1" / "metrics.csv").is_file()
    assert (fake_fit / "sweep.png").stat().st_size > 10_000
    said = capfd.readouterr().out
    assert f"table: {fake_fit / 'sweep.csv'}" in said
    assert cli.main(["sweep", "--resume", str(fake_fit)]) == 0, "nothing is left to do"
    assert not (fake_fit / "trial2").exists()


def test_the_median_rule_stops_a_bad_run(fake_fit: Path):
    """The last one is worse than the median from its first look on, and would sleep for a minute."""
    start = time.monotonic()
    prune = ["--prune", "median", "--prune_every", "200", "--jobs", "1"]
    assert sweep(fake_fit, "--vary", "train_ratio=5,6,7,8,9,1", *prune) == 0
    assert time.monotonic() - start < 50
    found = rows(fake_fit)
    assert [row["state"] for row in found] == ["complete"] * 5 + ["pruned"]
    assert found[-1]["train_ratio"] == "1"
    assert (fake_fit / found[-1]["folder"] / "seed0" / "stopped").exists(), "it could save itself"


def test_halving_stops_a_bad_run_too(fake_fit: Path):
    prune = ["--prune", "asha", "--prune_every", "100"]
    assert sweep(fake_fit, "--vary", "train_ratio=9,8,7,6,5,1", *prune) == 0
    assert {row["train_ratio"]: row["state"] for row in rows(fake_fit)}["1"] == "pruned"


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_ranges_are_drawn_within_their_ends(method: str, fake_fit: Path):
    vary = "train_ratio=2..64:log optimizer.lr=1e-5..1e-3:log"
    assert sweep(fake_fit, "--vary", vary, "--method", method, "--trials", "3", "--jobs", "3") == 0
    found = rows(fake_fit)
    assert len({row["train_ratio"] for row in found}) > 1
    assert all(2 <= int(row["train_ratio"]) <= 64 and 1e-5 <= float(row["optimizer.lr"]) <= 1e-3 for row in found)
    assert max(found, key=lambda row: int(row["train_ratio"])) == found[0]


def test_a_failure_is_told_and_the_others_go_on(fake_fit: Path, capfd):
    assert sweep(fake_fit, "--vary", "train_ratio=2,99,4") == 1
    assert "trial 1 failed: --train_ratio: unlucky" in capfd.readouterr().out
    assert [row["state"] for row in rows(fake_fit)] == ["complete", "complete", "fail"]


def test_a_first_failure_ends_the_sweep_in_one_line(fake_fit: Path, capfd):
    assert sweep(fake_fit, "--vary", "train_ratio=99,2") == 2
    assert capfd.readouterr().err.strip().splitlines() == ["dreamer-lightning: trial 0 failed: --train_ratio: unlucky"]
    assert not (fake_fit / "trial1").exists()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_sweep_goes_on_where_it_was(number: int, fake_fit: Path, monkeypatch):
    """Also after a kill, which leaves no note: nobody holds the run's lock. Its folder stays, so does its number."""
    write(fake_fit.parent, FIT.replace("SLOW", "True"))
    script = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
    script += "from dreamer_lightning.workshop import study; study.check_options = lambda *args: None\n"
    script += "plan = study.Plan('train_ratio=2,4', 'grid', 0, 'episode/score', 'none', 1, [0], [])\n"
    script += "sys.exit(study.search(Path(sys.argv[1]), plan, 1).code)"
    command = [sys.executable, "-c", script, str(fake_fit), str(Path(dreamer_lightning.__file__).parents[1])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    first = fake_fit / "trial0" / "seed0" / "metrics.csv"
    while not (first.exists() and first.read_text().count("\n") == 7):
        assert process.poll() is None
        time.sleep(0.05)
    assert study.in_use(fake_fit / "trial0"), "a second machine leaves it alone"
    write(fake_fit.parent, FIT.replace("SLOW", "False"))
    if number == signal.SIGTERM:
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGKILL)  # as a machine that dies: the run dies, too
    assert process.wait(60) == (1 if number == signal.SIGTERM else -number)
    monkeypatch.setattr(study.runfolder, "latest_complete", lambda folder: folder if folder.exists() else None)
    assert cli.main(["sweep", "--resume", str(fake_fit)]) == 0
    found = rows(fake_fit)
    assert sorted((row["train_ratio"], row["state"], row["folder"]) for row in found) == [
        ("2", "complete", "trial0"),
        ("4", "complete", "trial1"),
    ]
    assert first.read_text().count("\n") == 17, "the second run went on in the first's folder"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--vary", "train_ratio"], "--vary: expected OPTION=VALUES, got 'train_ratio'"),
        (["--vary", "train_ratio=1..4"], "a range is for --method random or tpe"),
        (["--vary", "train_ratio=4..1", "--method", "tpe"], "train_ratio needs a smaller and a larger end"),
        (["--vary", "train_ratio=0..1:log", "--method", "tpe"], "both above 0 for log"),
        (["--vary", "train_ratio=1,1"], "or one twice"),
        (["--vary", "train_ratio=1 train_ratio=2"], "train_ratio is there twice"),
        (["--vary", "seed=1,2"], "a sweep sets seed itself; list the seeds in --seeds"),
        (["--vary", "train_ratio=1,2", "--method", "random"], "--method random needs a number of settings"),
        (["--vary", "train_ratio=1,2", "--trials", "3"], "--trials: a grid has as many as there are combinations"),
        (["--vary", "trainratio=1,2"], "trainratio"),
        (["--vary", "train_ratio=1,much"], "train_ratio"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(args, expected: str, capsys, tmp_path: Path):
    assert sweep(tmp_path / "runs", *args) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert expected in said[0]
    assert not (tmp_path / "runs").exists()


def test_without_optuna_it_says_what_to_install(monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep(tmp_path / "runs", "--vary", "train_ratio=1,2") == 2
    assert capsys.readouterr().err.strip().endswith('is not installed; pip install ".[sweep]"')
    assert not (tmp_path / "runs").exists()


def test_the_text_of_a_space_is_read():
    dials = read_space("a=[1,2],[3,4] b=x,y c=1e-5..1e-3:log d=-1..4")
    assert dials[0] == Dial("a", ("[1,2]", "[3,4]"))
    assert [dial.ranged for dial in dials] == [False, False, True, True]
    assert (dials[2].log, dials[2].whole, dials[3].whole) == (True, False, True)
    assert len(grid(dials[:2])) == 4
    with pytest.raises(UserError, match="grid needs a list for c"):
        grid(dials)

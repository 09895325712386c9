"""Several seeds: what each run is told, how many run at once, what a failure says; the W&B sweep calls fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import dreamer_lightning
import tiny
from dreamer_lightning import cli, config
from dreamer_lightning.nets.gradients import Pathwise
from dreamer_lightning.types import UserError
from dreamer_lightning.workshop.sweep import parse_seeds

ROOT = Path(__file__).resolve().parents[2]
FIT = """
import pathlib, sys, time
args = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder, seed = pathlib.Path(args["--run_dir"]), args["--seed"]
if seed == "13":
    sys.exit("dreamer-lightning: --env.task: unlucky")
folder.mkdir(parents=True)
(folder / "argv").write_text(" ".join(sys.argv[1:]))
(folder / "began").write_text(str(time.monotonic()))
time.sleep(0.5)
print("training", seed)
(folder / "config.yaml").write_text(f"seed: {seed}")
(folder / "metrics.csv").write_text("env_step,seconds,episode/score" + chr(10) + f"100,60.0,{seed}.5" + chr(10))
(folder / "ended").write_text(str(time.monotonic()))
"""


@pytest.fixture
def fake_fit(tmp_path: Path, monkeypatch) -> Path:
    """Children find a ``fit`` that writes down how it was called."""
    package = tmp_path / "fake" / "dreamer_lightning"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(FIT)
    monkeypatch.setenv("PYTHONPATH", str(package.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    return tmp_path / "runs"


def sweep(folder: Path, *args: str) -> int:
    env = ["--config", "dmc.yaml", "--env.task", "reacher_easy"]  # first: an overlay in args wins
    return cli.main(["sweep", "--run_dir", str(folder), *env, *args])


def times(folder: Path, seed: int) -> tuple[float, float]:
    return tuple(float((folder / f"seed{seed}" / name).read_text()) for name in ("began", "ended"))  # type: ignore


def test_one_after_the_other(fake_fit: Path, capfd):
    assert sweep(fake_fit, "--seeds", "0,2") == 0
    said = capfd.readouterr().out
    assert "\ntraining 2\n" in said
    assert "seed 2: mean return of the last 1 episodes 2.5, 1 minutes" in said
    assert times(fake_fit, 0)[1] <= times(fake_fit, 2)[0]
    argv = (fake_fit / "seed2" / "argv").read_text()
    assert argv == f"fit --config dmc.yaml --env.task reacher_easy --seed 2 --run_dir {fake_fit / 'seed2'}"


def test_sigterm_stops_the_runs_too(fake_fit: Path):
    """The whole group is stopped as by Ctrl-C; none goes on alone."""
    slow = "import os, pathlib, signal, sys, time; folder = pathlib.Path(sys.argv[-1]); folder.mkdir(parents=True); "
    slow += "save = lambda *_: (time.sleep(0.3), (folder / 'saved').touch(), sys.exit(0)); "
    slow += "signal.signal(signal.SIGTERM, save); (folder / 'pid').write_text(str(os.getpid())); time.sleep(60)"
    (fake_fit.parent / "fake" / "dreamer_lightning" / "__main__.py").write_text(slow)
    script = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
    script += "from dreamer_lightning.workshop.sweep import run_all; run_all([0], 1, Path(sys.argv[1]), [])"
    command = [sys.executable, "-c", script, str(fake_fit), str(Path(dreamer_lightning.__file__).parents[1])]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    pid = fake_fit / "seed0" / "pid"
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) != 0
    assert (fake_fit / "seed0" / "saved").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_side_by_side_with_split_threads(fake_fit: Path, capfd, monkeypatch):
    monkeypatch.setattr("dreamer_lightning.workshop.sweep.cores", lambda: 4)
    assert sweep(fake_fit, "--jobs=2", "--seeds=0,1,2") == 0
    assert "seed 1: training 1\n" in capfd.readouterr().out
    assert times(fake_fit, 1)[0] < times(fake_fit, 0)[1], "both at once"
    assert min(times(fake_fit, 0)[1], times(fake_fit, 1)[1]) <= times(fake_fit, 2)[0], "the third waits"
    assert "--threads 2" in (fake_fit / "seed2" / "argv").read_text()


def test_a_failure_ends_the_sweep_in_one_line(fake_fit: Path, capfd):
    assert sweep(fake_fit, "--seeds", "13,1") == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert said == ["dreamer-lightning: seed 13 failed: --env.task: unlucky"]
    assert not (fake_fit / "seed1").exists()
    assert sweep(fake_fit, "--seeds", "2,13") == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert said == [f"dreamer-lightning: seed 13 failed: --env.task: unlucky (the others are in {fake_fit})"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--seeds", "a"], "--seeds: expected numbers joined by commas such as 0,1,2, got 'a'"),
        (["--seeds", "1,1"], "names a seed twice"),
        (["--seeds", "1", "--seed", "2"], "--seed: a sweep sets it"),
        (["--seeds", "1", "--jobs", "0"], "--jobs: 0 runs nothing"),
        ([], "--seeds is missing"),
    ],
)
def test_mistakes_are_one_line(args, expected: str, capsys, tmp_path: Path):
    assert sweep(tmp_path / "runs", *args) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_seeds_are_read():
    assert parse_seeds("0, 1,20") == [0, 1, 20]
    assert parse_seeds("[4]") == [4]
    with pytest.raises(UserError):
        parse_seeds("-1")


def test_the_wandb_sweep_calls_fit_with_options_that_exist():
    spec = yaml.safe_load((ROOT / "configs" / "sweep.yaml").read_text())
    first = {name: entry.get("value", entry.get("values", [None])[-1]) for name, entry in spec["parameters"].items()}
    values = {"${env}": [], "${interpreter}": [], "${program}": [spec["program"]]}
    values["${args}"] = [f"--{name}={value}" for name, value in first.items()]
    command = [word for part in spec["command"] for word in values.get(part, [part])]
    assert command[:3] == ["-m", "dreamer_lightning", "fit"]
    options = config.parse("fit", command[3:])[1]
    assert (options["env"].task, options["seed"]) == ("reacher_easy", 2)
    assert type(options["actor_critic"](tiny.SPECS, 4).gradient) is Pathwise


@pytest.mark.slow
def test_two_real_seeds(tmp_path: Path, capfd):
    quick = ["--config", "debug.yaml", "--env_steps", "2500", "--evaluation.every", "0", "--wandb.mode", "disabled"]
    assert sweep(tmp_path / "runs", "--seeds", "0,1", "--jobs", "2", *quick) == 0
    said = capfd.readouterr().out
    assert "seed 1: mean return of the last" in said
    assert cli.main(["compare", str(tmp_path / "runs")]) == 0

"""Two processes on a CPU: one agent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import agreement
from dreamer_lightning.callbacks.peers import alive
from dreamer_lightning.store import runfolder

HERE = Path(__file__).parent


def run(*args: str, cwd: Path, timeout: int = 240) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), "WANDB_MODE": "disabled"}
    env = {k: v for k, v in env.items() if k not in ("MASTER_PORT", "MASTER_ADDR", "LOCAL_RANK")}
    done = subprocess.run([sys.executable, *args], cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_two_processes_agree_with_one(tmp_path, gradient):
    run(str(HERE / "ddp_gradients.py"), str(tmp_path), gradient, cwd=tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    whole = torch.load(tmp_path / "whole.pt")
    assert torch.equal(ranks[0]["range"], ranks[1]["range"])
    torch.testing.assert_close(ranks[0]["range"], whole["range"])
    assert whole["grads"].keys() == ranks[0]["grads"].keys()
    for name, want in whole["grads"].items():
        assert torch.equal(ranks[0]["grads"][name], ranks[1]["grads"][name]), name
        assert (ranks[0]["grads"][name] - want).norm() <= 2e-4 * want.norm(), name  # float32, summed in another order
    got = {key: joined(key, *(rank["numbers"][key] for rank in ranks)) for key in whole["numbers"]}
    agreement.assert_within(got, whole["numbers"], loss=1e-6, losses=5e-6, latents=1e-6, grads=5e-5)


def joined(key: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """What two halves of a batch say of the whole: rows side by side, the mean loss, equal gradients."""
    if key.startswith("grads"):
        return first
    return (first + second) / 2 if key == "loss" else torch.cat([first, second])


def test_fit_on_two_processes_writes_one_run_and_resumes_on_one(tmp_path):
    options = ["--config", "dmc.yaml", "--config", "debug.yaml", "--env.task", "cartpole_balance"]
    options += [
        "--fabric.accelerator",
        "cpu",
        "--fabric.devices",
        "2",
        "--env_steps",
        "1200",
        "--evaluation.every",
        "0",
    ]
    out = run("-m", "dreamer_lightning", "fit", *options, "--run_dir", "run", cwd=tmp_path)
    assert out.count("updates to come") == 1  # rank 0 alone speaks
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    steps = [int(float(row.split(",")[rows[0].split(",").index("env_step")])) for row in rows[1:]]
    assert steps == sorted(steps)
    manifest = runfolder.read_manifest(runfolder.latest_complete(tmp_path / "run"))
    assert manifest["env_step"] == 1200
    assert manifest["world_size"] == 2
    assert {Path(name).parent.name for name in manifest["replay"]} == {"rank-0", "rank-1"}
    # by the ratio of all ranks' steps; one rank's alone would make half as many, each its own twice
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    batch = config["batch_size"] * config["batch_length"]
    played = 1200 / config["env"]["init_args"]["repeat"]
    most = played * config["train_ratio"] / batch
    assert 0.6 * most < manifest["update"] <= most
    more = ["--resume", "run", "--fabric.devices", "1", "--env_steps", "1400"]
    out = run("-m", "dreamer_lightning", "fit", *more, cwd=tmp_path)
    assert "resumed at update" in out


def processes(main: int) -> list[int]:
    return [main, *map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split()[:1])]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_brings_the_run_down_with_a_line_and_a_usable_checkpoint(tmp_path, rank):
    options = ["--config", "gym.yaml", "--config", "debug.yaml", "--run_dir", "run", "--env_steps", "1e8"]
    options += ["--fabric.accelerator", "cpu", "--fabric.devices", "2", "--evaluation.every", "0"]
    options += ["--checkpoint.every", "100"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "dreamer_lightning", "fit", *options]
    with open(tmp_path / "log", "w") as log:
        main = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + 240
        while not runfolder.checkpoints(tmp_path / "run") and time.monotonic() < deadline:
            time.sleep(0.1)
        both = processes(main.pid)
        assert len(both) == 2
        os.kill(both[rank], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and any(alive(process) for process in both):
            main.poll()
            time.sleep(0.1)
        left = [process for process in both if alive(process)]
        for process in left:
            os.kill(process, signal.SIGKILL)
    assert main.wait() != 0
    said = (tmp_path / "log").read_text()
    assert not left, said
    assert f"warning: rank {rank} (process {both[rank]}) is gone, so this rank ends too; go on from the last" in said
    out = run("-m", "dreamer_lightning", "fit", "--resume", "run", "--env_steps", "200", cwd=tmp_path)
    found = runfolder.latest_complete(tmp_path / "run")
    assert runfolder.read_manifest(found)["world_size"] == 2
    assert "resumed at update" in out or "is finished" in out

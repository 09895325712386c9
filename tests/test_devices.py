"""Launchers: one run whoever starts its processes, and one process where a cluster's variables surround it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dreamer_lightning
from dreamer_lightning.commands import devices
from dreamer_lightning.commands.options import FabricOptions
from dreamer_lightning.store import runfolder
from dreamer_lightning.types import UserError

SCRIPT = str(Path(dreamer_lightning.__file__).with_name("__main__.py"))
FIT = ["fit", "gym.yaml", "debug.yaml", "--run_dir", "run", "--env_steps", "100", "--evaluation.every", "0"]
FIT += ["--fabric.accelerator", "cpu", "--evaluation.random_episodes", "0"]
OTHERS = ("TORCHELASTIC", "SLURM_", "LT_", "MASTER_", "LOCAL_", "WORLD_SIZE", "RANK", "GROUP_")
ALLOCATION = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = {**ALLOCATION, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
    return {**clean, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", **more}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in os.environ:
        if name.startswith(OTHERS):
            monkeypatch.delenv(name)


def started(command: list[str], cwd: Path, **env: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command], cwd=cwd, env=environment(**env), **pipes)


def said(*processes: subprocess.Popen) -> str:
    outs = [process.communicate(timeout=240)[0] for process in processes]
    assert not any(process.returncode for process in processes), outs
    return "".join(outs)


def assert_one_run_of(ranks: int, folder: Path, out: str) -> None:
    assert out.count("updates to come") == 1, out  # rank 0 alone speaks
    assert [path.name for path in folder.iterdir()] == ["run"]
    manifest = runfolder.read_manifest(runfolder.latest_complete(folder / "run"))
    assert (manifest["world_size"], manifest["env_step"]) == (ranks, 100)
    rows = (folder / "run" / "metrics.csv").read_text().splitlines()
    steps = [float(row.split(",")[rows[0].split(",").index("env_step")]) for row in rows[1:]]
    assert steps == sorted(steps)


def test_torchrun_starts_one_run_of_two_ranks(tmp_path: Path):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    out = said(started([*launcher, "-m", "dreamer_lightning", *FIT], tmp_path))
    assert_one_run_of(2, tmp_path, out)


@pytest.mark.slow
def test_fabric_run_starts_one_run_of_two_ranks(tmp_path: Path):
    launcher = ["-m", "lightning.fabric.cli", "--devices", "2", "--main-port", "29612", "--accelerator", "cpu"]
    assert_one_run_of(2, tmp_path, said(started([*launcher, SCRIPT, *FIT], tmp_path)))


@pytest.mark.slow
def test_tasks_of_srun_are_one_run(tmp_path: Path):
    ranks = [
        started(["-m", "dreamer_lightning", *FIT], tmp_path, **{**STEP, "SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        for rank in ("0", "1")
    ]
    assert_one_run_of(2, tmp_path, said(*ranks))


@pytest.mark.parametrize("job", ["train", "interactive"])
def test_an_allocation_around_one_process_changes_nothing(monkeypatch, job: str):
    for name, value in {**ALLOCATION, "SLURM_JOB_NAME": job}.items():
        monkeypatch.setenv(name, value)
    fabric = devices.build_fabric(FabricOptions(accelerator="cpu"))
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_what_launchers_start_is_counted(monkeypatch):
    assert devices.launched() is None
    for name, value in {**STEP, "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3"}.items():
        monkeypatch.setenv(name, value)
    assert devices.launched() == (2, 3)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "4")
    with pytest.raises(UserError, match="6 tasks do not divide by 4 nodes"):
        devices.launched()
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)  # it counts before SLURM, where it is used to start processes, too
    assert devices.launched() == (4, 2)


def test_options_that_contradict_the_launcher_are_refused():
    launch = devices.Launch(2, 1)
    assert devices.count_devices(FabricOptions(), launch) == (2, 1)
    assert devices.count_devices(FabricOptions(devices=2), launch) == (2, 1)
    with pytest.raises(UserError, match="--fabric.devices: 3, but the launcher has started 2 processes"):
        devices.count_devices(FabricOptions(devices=3), launch)
    with pytest.raises(UserError, match="--fabric.num_nodes: 2, but the launcher uses 1"):
        devices.count_devices(FabricOptions(num_nodes=2), launch)


def test_what_fabric_run_was_given_counts_where_options_say_auto(monkeypatch):
    given = {"CLI_USED": "1", "DEVICES": "2", "NUM_NODES": "1", "PRECISION": "bf16-mixed", "ACCELERATOR": "cpu"}
    for name, value in given.items():
        monkeypatch.setenv(f"LT_{name}", value)
    values = devices.with_fabric_run(FabricOptions(precision="32-true"))
    assert values == {"accelerator": "cpu", "strategy": "auto", "precision": "32-true"}
    assert not [name for name in os.environ if name.startswith("LT_")]


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_3", "xla"])
def test_strategies_that_cannot_work_are_refused_by_name(strategy: str):
    with pytest.raises(UserError, match=f"--fabric.strategy: '{strategy}' is not for this loop") as error:
        devices.build_fabric(FabricOptions(accelerator="cpu", devices=2, strategy=strategy))
    assert "\n" not in str(error.value)

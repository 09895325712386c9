"""The job script of docs/scaling.md, with a srun and a scontrol that write down what they are told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scaling.md").read_text()
SRUN = """#!/bin/bash
echo "$@" > srun
trap 'echo saved > signal; sleep 0.3; exit ${CODE:-0}' USR1
for i in $(seq ${STEPS:-200}); do sleep 0.05; done
exit ${CODE:-0}
"""


@pytest.fixture
def job(tmp_path: Path):
    """Starts the script with variables of SLURM's."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/bash\necho "$@" > scontrol\n'}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, re.DOTALL)
    (tmp_path / "job.sh").write_text(script)

    def start(**more: str) -> subprocess.Popen:
        env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", **more}
        return subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=env)

    return start


def until(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # for the trap


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_that_is_told_in_time_saves_and_comes_back(job, tmp_path: Path, code: int):
    """One that could not save does not: it would fail for ever."""
    process = job(CODE=str(code))
    until(tmp_path / "srun")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == code
    assert (tmp_path / "signal").exists()
    assert (tmp_path / "scontrol").exists() == (code == 0)
    if not code:
        assert (tmp_path / "scontrol").read_text() == "requeue 17\n"


def test_a_job_that_ends_stays_ended_and_one_that_comes_back_resumes(job, tmp_path: Path):
    assert job(STEPS="1").wait(20) == 0
    assert (tmp_path / "srun").read_text() == "python -m dreamer_lightning fit dmc.yaml --run_dir runs/job-17\n"
    (tmp_path / "runs" / "job-17" / "checkpoints").mkdir(parents=True)
    assert job(STEPS="1", CODE="3").wait(20) == 3
    assert (tmp_path / "srun").read_text() == "python -m dreamer_lightning fit --resume runs/job-17\n"
    assert not (tmp_path / "scontrol").exists()


def test_the_pytorch_job_is_yaml_with_two_kinds_of_pods():
    (text,) = re.findall(r"```yaml\n(apiVersion.*?)```", PAGE, re.DOTALL)
    pods = yaml.safe_load(text)["spec"]["pytorchReplicaSpecs"]
    assert (pods["Master"]["replicas"], pods["Worker"]["replicas"]) == (1, 3)
    assert pods["Worker"]["template"] == pods["Master"]["template"]

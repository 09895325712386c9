"""A run that was stopped goes on as if it had not been, through `fit` itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dreamer_lightning
from dreamer_lightning.loop import Loop
from dreamer_lightning.loopstate import random_states, set_random_states
from dreamer_lightning.store import runfolder
from dreamer_lightning.types import IS_FIRST
from exact_compare import loaded, rows, same_runs

OPTIONS = {
    "env": {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "learnable:Echo"}},
    "num_envs": 1,
    "train_ratio": 64,  # one update a step
    "batch_size": 4,
    "batch_length": 16,
    "learning_starts": 20,
    "imag_length": 3,
    "log_every": 1,
    "evaluation": {"every": 0},
    "checkpoint": {"every": 32},
    "wandb": {"mode": "disabled"},
    "replay": {"online": False},  # a batch of old steps alone: environments begin new episodes
}


def losses(run) -> dict[int, float]:
    steps, values = run.series("loss/total")
    return dict(zip(map(int, steps), values, strict=True))


def test_the_next_loss_after_a_resume_is_that_of_the_undisturbed_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = dreamer_lightning.fit("gym.yaml", "debug.yaml", run_dir="whole", env_steps=72, **OPTIONS)
    cut = dreamer_lightning.fit("gym.yaml", "debug.yaml", run_dir="cut", env_steps=64, **OPTIONS)
    before = losses(cut)
    assert len(before) > 20
    assert all(losses(whole)[step] == value for step, value in before.items())  # same seed, same numbers

    last = cut.series("seconds")[1][-1]
    again = dreamer_lightning.fit(resume="cut", env_steps=72)
    seconds = again.series("seconds")[1]
    assert seconds == sorted(seconds)
    assert seconds[-1] > last
    after, want = losses(again), losses(whole)
    assert all(after[step] == value for step, value in before.items()), "rows neither lost nor changed"
    # the run stopped before the update that step 64 had paid for; its next row holds that one and the next, as a mean
    assert 64 not in after
    assert after[65] == pytest.approx((want[64] + want[65]) / 2, rel=1e-6)


def test_options_of_the_optimizer_given_at_a_resume_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dreamer_lightning.fit("gym.yaml", "debug.yaml", run_dir="run", env_steps=32, **OPTIONS)
    seen = []
    monkeypatch.setattr(Loop, "train", lambda loop: seen.append(dict(loop.update.optimizer.param_groups[0])))
    dreamer_lightning.fit(resume="run", env_steps=33)
    dreamer_lightning.fit(resume="run", env_steps=34, optimizer={"lr": 1e-5})
    was, now = ({name: group[name] for name in ("lr", "warmup", "agc")} for group in (seen[0], seen[-1]))
    assert now == was | {"lr": 1e-5}
    assert was["lr"] != 1e-5


def test_random_states_of_another_device_are_left_alone():
    saved = random_states(own=torch.Generator().manual_seed(3)) | {"device": "cuda", "own": torch.zeros(16)}
    fresh = torch.Generator().manual_seed(4)
    set_random_states(saved, own=fresh)
    assert fresh.initial_seed() == 4
    assert torch.equal(fresh.get_state(), torch.Generator().manual_seed(4).get_state())


def three_runs(folder: Path, *names: str) -> str:
    """Undisturbed, killed and resumed runs of each environment, by exact_resume.py; returns what they printed."""
    here = Path(__file__).parent
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here), "MUJOCO_GL": "disabled"}
    command = [sys.executable, str(here / "exact_resume.py"), str(folder), *names]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_run_that_is_resumed_ends_as_if_nothing_had_happened(tmp_path):
    three_runs(tmp_path, "reacher")
    same_runs(tmp_path / "reacher" / "whole", tmp_path / "reacher" / "cut")
    assert {"loss/total", "eval/greedy_score", "episode/score", "opt/grad_norm"} <= set(rows(tmp_path / "reacher/cut"))


@pytest.mark.slow
def test_environments_that_cannot_tell_their_state_begin_new_episodes_and_the_run_says_so(tmp_path):
    out = three_runs(tmp_path, "forgets")
    assert out.count("environments 0, 1 begin new episodes") == 1
    cut = tmp_path / "forgets" / "cut"
    saved, last = (runfolder.checkpoints(cut)[i] for i in (0, -1))
    before, replay = loaded(saved), loaded(last)
    for stream in (0, 1):
        assert replay.data[IS_FIRST][stream, before.total[stream]]  # at most the episode is lost, no step of it
    replay.batch_size = 500
    batch = replay.sample()
    ends = torch.isin(batch["index"], torch.tensor([(total - 1) * 2 + i for i, total in enumerate(before.total)]))
    assert ends.any()
    assert batch["is_last"][ends].all()
    assert not batch["is_terminal"][ends].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cartpole", "v2", "corners"])
def test_killed_runs_of_other_kinds_end_as_if_nothing_had_happened(tmp_path, name):
    three_runs(tmp_path, name)
    same_runs(tmp_path / name / "whole", tmp_path / name / "cut")


@pytest.mark.slow
def test_the_command_line_killed_after_its_first_checkpoint_ends_as_the_undisturbed_run(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "disabled", "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "dreamer_lightning", "fit"]
    start = [*command, "--config", "dmc.yaml", "--config", "debug.yaml", "--run_dir"]
    subprocess.run([*start, "whole"], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=500)
    process = subprocess.Popen([*start, "cut"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    while not runfolder.checkpoints(tmp_path / "cut"):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    subprocess.run([*command, "--resume", "cut"], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=500)
    one, two = rows(tmp_path / "whole"), rows(tmp_path / "cut")
    assert len(one) > 12
    assert one.equals(two)

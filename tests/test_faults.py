"""Environments that raise, hang or die, and numbers that are none: the run goes on, or ends in good order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from lightning.fabric import Fabric

import tiny
from dreamer_lightning.callbacks.health import Usual
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.envs import Custom, make_batched, specs_of
from dreamer_lightning.envs.counting import Counting, CountingEnv
from dreamer_lightning.envs.guarded import Failures, within
from dreamer_lightning.sanity import LIMIT
from dreamer_lightning.types import BadNumbers, EnvFailure, UserError
from dreamer_lightning.updates import SkippingUpdate, Update


class Faulty(gymnasium.Env):
    """Observes its step in the episode of six; at step ``at`` it does what ``fault`` says, from the second one on."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault="raise", at=3, always=False):
        self.fault, self.at, self.time = fault, at, 0
        self.episode = 1 if always else -1  # reset twice before the first step

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.episode = 0, self.episode + 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        obs, reward = np.full(1, self.time, np.float32), 1.0
        if self.time == self.at and self.episode > 1:
            if self.fault == "raise":
                raise ZeroDivisionError("division by zero in the simulator")
            if self.fault == "hang":
                time.sleep(1000)
            if self.fault == "die":
                os._exit(7)
            obs = obs * np.nan if self.fault == "obs" else obs
            reward = float("inf") if self.fault == "reward" else reward
        return obs, reward, self.time == 6, False, {}


def play(env, steps):
    actions, generator, state, seen = specs_of(env).actions, torch.Generator().manual_seed(0), env.reset(), []
    for _ in range(steps):
        stepped, state = env.step_and_maybe_reset(state.set("action", actions.random(env.batch_size, generator)))
        seen.append(stepped["next"].clone())
    return torch.stack(seen, 1)


def faulty(fault, **kwargs):
    return Custom("test_faults:Faulty", kwargs={"fault": fault, **kwargs})


@pytest.mark.parametrize(
    ("backend", "fault"),
    [
        ("serial", "raise"),
        ("serial", "hang"),
        ("process", "die"),
        pytest.param("process", "hang", marks=pytest.mark.slow),
    ],
)
def test_a_failed_environment_is_made_anew_and_its_episode_is_cut(backend, fault):
    failures = Failures(limit=9, timeout={"raise": 60, "hang": 0.3}[fault] if backend == "serial" else 3)
    env = make_batched(faulty(fault), 1, 0, backend, failures=failures)
    try:
        wire = play(env, 20 if backend == "serial" else 11)
    finally:
        env.close()
    told = failures.read()
    failures.close()
    assert len(told) == (2 if backend == "serial" else 1)
    hung = "did not answer for 3 s" if backend == "process" else "raised TimeoutError: no answer for 0.3 s"
    words = {"raise": "raised ZeroDivisionError: division by zero", "hang": hung, "die": "is gone"}
    assert all(words[fault] in event["what"] for event in told)
    assert ("Traceback" in told[0]["details"]) == (backend == "serial")
    cut = wire["truncated"][..., 0]
    assert int(cut.sum()) == len(told)
    assert (wire["observation"][cut] == 2).all()  # the last frame before the fault, once more
    assert (wire["reward"][cut] == 0).all()
    assert wire["done"][cut].all()
    assert not wire["terminated"][cut].any()
    after = cut.roll(1, 1)
    assert (wire["observation"][0, 1:][after[0, 1:]] == 1).all()  # a new episode


def test_patience_leaves_somebody_elses_alarm_alone():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append("theirs"))
    outer, _ = signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(TimeoutError, match="no answer for 0.1 s"), within(0.1):
            time.sleep(5)
        with within(5):  # theirs is due before
            time.sleep(0.6)
        assert rung == ["theirs"]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, outer)


def test_patience_has_no_limit_in_other_threads():
    def work():
        with within(0.01):
            time.sleep(0.05)
        done.append(True)

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


@pytest.mark.parametrize("backend", ["serial", pytest.param("process", marks=pytest.mark.slow)])
def test_failures_in_a_row_end_the_run_with_the_traceback(backend):
    failures = Failures(limit=3)
    env = make_batched(faulty("raise", at=1, always=True), 1, 0, backend, failures=failures)
    with pytest.raises(EnvFailure, match=r"(?s)environment 0 failed 3 times in a row.*Traceback.*ZeroDivisionError"):
        play(env, 9)
    assert len(failures.read()) == 3
    failures.close()
    env.close(raise_if_closed=False)


def test_without_anybody_to_tell_an_environment_raises():
    env = make_batched(faulty("raise", always=True), 1, 0)
    with pytest.raises(ZeroDivisionError):
        play(env, 9)
    env.close()


@pytest.mark.parametrize("fault", ["obs", "reward"])
def test_bad_numbers_of_an_environment_stop_or_are_masked(fault):
    name = {"obs": "observation", "reward": "reward"}[fault]
    env = make_batched(faulty(fault, always=True), 2, 0, failures=Failures())
    with pytest.raises(UserError, match=f"environment 0: env: {name} is NaN or infinite at step 3 of an episode"):
        play(env, 9)
    env.close()

    failures = Failures(mask=True)
    env = make_batched(faulty(fault, always=True), 2, 0, failures=failures)
    wire = play(env, 12)  # two episodes
    env.close()
    assert wire[name].isfinite().all()
    assert (wire[name][:, 2] == 0).all()
    assert not wire["truncated"].any()
    told = failures.read()
    failures.close()
    assert [event["env"] for event in told] == [0, 1, 0, 1]
    assert told[0]["what"] == f"{name} was NaN or infinite at step 3 of an episode, now 0"


class BadCounting(Counting):
    def make(self, seed, pixels_for_video=False):
        env = super().make(seed)
        env.lengths = (float("nan"),)  # no episode ends
        step = CountingEnv._step

        def bad(td):
            after = step(env, td)
            after["echo"] = after["echo"] / (0.0 if env.index == 4 else 1.0)
            return after

        env.__dict__["_step"] = bad
        return env


def test_an_environment_that_is_not_ours_is_looked_at_too():
    env = make_batched(BadCounting(), 1, 0, failures=Failures())
    with pytest.raises(UserError, match="echo is NaN or infinite at step 4"):
        play(env, 9)


# ---- updates -----------------------------------------------------------------------------------------------------


def learner(skip=False):
    dreamer = tiny.agent()
    optimizer = torch.optim.Adam(dreamer.parameters(), 1e-3)
    fabric = Fabric(accelerator="cpu", devices=1)
    replay = Replay(capacity=200, batch_size=4, length=7, online=False)
    records = {key: value for key, value in tiny.batch(dreamer, 1, 60).items()}
    flat = {}
    for key, value in records.items():
        for name, leaf in value.items() if isinstance(value, dict) else [(None, value)]:
            flat[(key, name) if name else key] = leaf[0]
    flat["stream"] = torch.zeros(60, dtype=torch.int64)
    from tensordict import TensorDict

    replay.extend(
        TensorDict({}, [60])
        .update({k: v for k, v in flat.items() if isinstance(k, str)})
        .update(
            {
                "obs": {k[1]: v for k, v in flat.items() if k[0] == "obs"},
                "latent": {k[1]: v for k, v in flat.items() if k[0] == "latent"},
            }
        )
    )
    kind = SkippingUpdate if skip else Update
    return kind(fabric, dreamer, dreamer, optimizer, replay, torch.Generator().manual_seed(0))


def weights(update):
    state = {
        **update.dreamer.state_dict(),
        **{f"m{i}": s["exp_avg"] for i, s in update.optimizer.state_dict()["state"].items()},
    }
    return {name: value.clone() for name, value in state.items()}


def stored_bits(update):
    """The latents in the replay as bits: memory that was never written may hold NaNs, which equal nothing."""
    return update.replay.data["latent", "deter"].clone().view(torch.int32)


def poison(update, position=17):
    update.replay.storage.arrays[("obs", "velocity")][position, 0] = float("nan")


BAD = ("loss/recon/velocity", "the gradient of encoder", "obs/velocity of environment 0 at its record")


def test_a_bad_update_is_named_and_does_not_reach_the_replay():
    update = learner()
    update()
    latents = stored_bits(update)
    for position in range(60):
        poison(update, position)
    update()
    problem = update.sanity.problem
    assert isinstance(problem, BadNumbers)
    assert all(part in str(problem) for part in (*BAD, "--faults.update skip"))
    assert torch.equal(latents, stored_bits(update))


def test_a_bad_update_that_is_left_out_is_named_and_changes_nothing():
    update = learner(skip=True)
    update()
    before, latents = weights(update), stored_bits(update)
    for position in range(60):
        poison(update, position)
    assert update() == {}
    (event,) = update.sanity.events
    assert all(part in event for part in BAD)
    after = weights(update)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(latents, stored_bits(update))


def test_bad_updates_are_left_out_where_that_is_wished():
    update = learner(skip=True)
    for position in range(60):
        poison(update, position)
    for _ in range(LIMIT - 1):
        assert update() == {}
    assert update.sanity.problem is None
    assert update.sanity.skipped == len(update.sanity.events) == LIMIT - 1
    update.replay.storage.arrays[("obs", "velocity")][:, 0] = 0.0
    assert torch.isfinite(update()["opt/grad_norm"])
    assert update.sanity.in_a_row == 0
    for position in range(60):
        poison(update, position)
    for _ in range(LIMIT):
        update()
    assert f"the {LIMIT}th skipped update in a row" in str(update.sanity.problem)


def test_a_loss_that_jumps_is_not_what_learning_looks_like():
    usual = Usual()
    assert not any(usual.judge(3 + 0.1 * (i % 3)) for i in range(150))
    assert usual.judge(30.0).startswith("spike from 3.1")
    assert usual.judge(0.01).startswith("collapse from ")
    falling = Usual()
    assert not any(falling.judge(10 * 0.99**i) for i in range(500))  # learning is no collapse
    assert not Usual().judge(float("nan"))


@pytest.mark.slow
def test_a_run_that_is_broken_again_and_again_goes_on(tmp_path):
    """Two rounds of every fault, and two more that kill one of two processes; the whole table takes 200 rounds."""
    script = Path(__file__).parents[1] / "benchmarks" / "faults" / "faults.py"
    command = [sys.executable, str(script), "22", str(tmp_path), "0", "2"]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 11
    assert all(int(rounds) == int(survived) > 1 for _, rounds, survived, *_ in rows), done.stdout + done.stderr

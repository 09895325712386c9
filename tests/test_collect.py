"""The collector carries the policy's latents, over batches and over a checkpoint."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dreamer_lightning.data import carried_state, set_carried_state, to_records
from dreamer_lightning.envs.batched import batch_of
from test_records import joined, start


def collect(collector, batches, carry=None):
    records = []
    for _, wire in zip(range(batches), collector, strict=False):
        rows, carry = to_records(wire, carry)
        records.append(rows)
    return joined(records), carry


def test_latents_are_carried_between_batches():
    collector = start((50,), False, envs=3, steps=4)
    streams, _ = collect(collector, 5)
    for stream in streams:
        assert stream["latent", "deter"][:, 0].tolist() == list(range(1, 21))
    collector.shutdown()


def test_the_batch_has_the_shape_of_environments_and_time():
    collector = start((5,), False, envs=2, steps=3)
    wire = next(iter(collector))
    assert wire.batch_size == (2, 3)
    assert wire["next", "reward"].shape == (2, 3, 1)
    again = next(iter(collector))
    assert wire["count"].data_ptr() != again["count"].data_ptr()  # a batch is the caller's to keep
    collector.shutdown()


def test_worker_processes_collect_the_same():
    here, there = (start((4, 2), (True, False), 2, 3, backend=backend) for backend in ("serial", "process"))
    for _ in range(4):
        one, two = next(iter(here)), next(iter(there))
        assert (one == two).all()
    here.shutdown()
    there.shutdown()


def envs_of(collector):
    return batch_of(collector.env).seats


def test_going_on_from_a_carried_state_is_exact():
    whole = start((7, 3), (False, True), envs=2, steps=2)
    collect(whole, 4)
    state, env_states = carried_state(whole), [env.get_state() for env in envs_of(whole)]
    noise = whole.policy.generator.get_state()
    expected = [next(iter(whole)) for _ in range(4)]
    whole.shutdown()

    resumed = start((7, 3), (False, True), envs=2, steps=2)
    set_carried_state(resumed, state)
    for env, env_state in zip(envs_of(resumed), env_states, strict=True):
        env.set_state(env_state)
    resumed.policy.generator.set_state(noise)
    for wire in expected:
        assert (next(iter(resumed)) == wire).all()
    resumed.shutdown()


def test_a_carried_state_of_other_environments_is_refused():
    three, two = start((5,), False, envs=3, steps=1), start((5,), False, envs=2, steps=1)
    with pytest.raises(ValueError, match="carried state"):
        set_carried_state(two, carried_state(three))
    three.shutdown()
    two.shutdown()


def test_carried_state_is_plain(tmp_path):
    collector = start((5,), False, envs=2, steps=1)
    torch.save(carried_state(collector), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["latent"]["deter"].shape == (2, 2)
    collector.shutdown()


@pytest.mark.parametrize("stdin", [False, True], ids=["a script", "standard input"])
def test_worker_processes_name_the_guard_that_a_script_lacks(tmp_path, stdin):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from dreamer_lightning.envs.batched import make_batched\n"
        "from dreamer_lightning.envs.counting import Counting\n"
        "make_batched(Counting(), 2, 0, 'process')\n",
        "utf-8",
    )
    command = [sys.executable, *(["-"] if stdin else [str(script)])]
    done = subprocess.run(command, input=script.read_text("utf-8") if stdin else None, capture_output=True, text=True)
    assert done.returncode != 0
    assert 'runs only below `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]

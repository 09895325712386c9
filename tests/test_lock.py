"""The lock of a run folder: one process at a time, and none after a kill."""

import os
import re
import signal
import time

import pytest
from lightning.fabric import Fabric

from dreamer_lightning.commands.fit import default_run_dir
from dreamer_lightning.envs.counting import Counting
from dreamer_lightning.store import lock
from dreamer_lightning.types import UserError


def other_process(folder) -> int:
    """A child that holds the lock until it is killed."""
    child = os.fork()
    if not child:
        try:
            lock.take(folder)
            time.sleep(60)
        finally:
            os._exit(0)
    while not (folder / lock.LOCK).exists() or not (folder / lock.LOCK).read_text():
        time.sleep(0.01)
    return child


def test_a_second_process_is_refused_in_a_line_and_a_killed_one_holds_nothing(tmp_path):
    folder, fabric = tmp_path / "run", Fabric(accelerator="cpu", devices=1)
    child = other_process(folder)
    try:
        says = rf"run is in use by process {child} on \S+ since \d{{4}}-.*; wait for its end, or name another folder$"
        with pytest.raises(UserError, match=says), lock.held(folder, fabric):
            pytest.fail("both hold it")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (folder / lock.LOCK).exists()  # stale
    with lock.held(folder, fabric):
        assert f'"process": {os.getpid()}' in (folder / lock.LOCK).read_text()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--run_dir: .* cannot be written to \(Not a directory\); name another folder"):
        lock.take(tmp_path / "file" / "run")


def test_without_locks_runs_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    lock.give_back(tmp_path, lock.take(tmp_path))
    assert not list(tmp_path.iterdir())


def test_runs_of_one_second_have_names_of_their_own():
    names = [default_run_dir(Counting((5,)), "1m", 0) for _ in range(20)]
    assert len(set(names)) == 20
    assert all(re.fullmatch(r"runs/\w+-1m-s0-\d{8}-\d{6}-[0-9a-f]{6}", name) for name in names)

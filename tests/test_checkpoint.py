"""Checkpoints: whole or absent, found again, and the run goes on from them bit for bit."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from dreamer_lightning.callbacks import Checkpoint, Episodes, Metrics, Progress, restore
from dreamer_lightning.store import runfolder
from dreamer_lightning.store.atomic import load_tensors, write_atomic
from dreamer_lightning.store.runfolder import CHECKPOINTS, METRICS, REPLAY, latest_complete
from fakes import FakeLoop


def make(run_dir: Path, fabric=None, **options) -> FakeLoop:
    callbacks = [Episodes(), Metrics(), Checkpoint(**({"every_env_steps": 64, "keep": 2} | options))]
    return FakeLoop(run_dir, callbacks, fabric=fabric)


def run(loop: FakeLoop, rounds: int) -> FakeLoop:
    loop.call("on_fit_start")
    loop.call("on_train_start")
    for _ in range(rounds):
        loop.round()
    return loop


def names(run_dir: Path) -> list[str]:
    return [path.name for path in runfolder.checkpoints(run_dir)]


def rows(run_dir: Path) -> pd.DataFrame:
    return pd.read_csv(run_dir / METRICS).drop(columns="seconds")


def test_resumed_run_equals_an_undisturbed_one(tmp_path):
    run(make(tmp_path / "whole"), 40).call("on_fit_end")
    run(make(tmp_path / "cut"), 19)  # "killed" three rounds after the checkpoint of round 16
    loop = make(tmp_path / "cut")
    manifest = restore(loop, latest_complete(tmp_path / "cut"))
    assert manifest["env_step"] == loop.clocks.env_step == 16 * 16
    run(loop, 40 - 16).call("on_fit_end")
    pd.testing.assert_frame_equal(rows(tmp_path / "whole"), rows(tmp_path / "cut"), check_exact=True)
    states = [load_tensors(latest_complete(tmp_path / which) / "model.pt")["loop"] for which in ("whole", "cut")]
    for name, value in states[0]["dreamer"].items():
        assert torch.equal(value, states[1]["dreamer"][name])


def test_keeps_the_last_k_and_only_the_replay_files_they_need(tmp_path):
    loop = run(make(tmp_path), 60)
    kept = names(tmp_path)
    assert kept == [f"step-{env_step:010d}-update-{update:09d}" for env_step, update in [(896, 55), (960, 59)]]
    needed = set()
    for folder in runfolder.checkpoints(tmp_path):
        needed |= set(runfolder.read_manifest(folder)["replay"])
    found = {str(path.relative_to(tmp_path / REPLAY)) for path in (tmp_path / REPLAY).rglob("*.*")}
    assert found == needed
    assert loop.replay.steps == 400


def test_saving_again_writes_only_what_is_new(tmp_path):
    loop = run(make(tmp_path, keep=5), 8)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / REPLAY).rglob("records*")}
    run(loop, 4)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_cadence_by_updates_and_the_end_of_training(tmp_path):
    loop = run(make(tmp_path, every_env_steps=0, every_updates=7, keep=9), 20)
    updates = [runfolder.read_manifest(path)["update"] for path in runfolder.checkpoints(tmp_path)]
    assert updates == [7, 14]
    loop.call("on_train_end")
    assert runfolder.read_manifest(latest_complete(tmp_path))["update"] == loop.clocks.update == 19
    stamp = (latest_complete(tmp_path) / "model.pt").stat().st_mtime_ns
    loop.call("on_train_end")  # nothing new: not written again
    assert (latest_complete(tmp_path) / "model.pt").stat().st_mtime_ns == stamp


def test_best_by_evaluation_is_kept_beside_the_last(tmp_path):
    loop = run(make(tmp_path), 4)
    for score in (float("nan"), 3.0, 9.0, 5.0):
        loop.round()
        loop.call("on_validation_end", metrics={"eval/greedy_score": score}, episodes=[])
    best = runfolder.best_checkpoint(tmp_path)
    assert runfolder.read_manifest(best)["score"] == 9.0
    assert runfolder.read_manifest(best)["env_step"] == 7 * 16
    assert len(list((tmp_path / CHECKPOINTS).glob("best-*"))) == 1
    assert set(load_tensors(best / "model.pt")["loop"]) >= {"dreamer"}
    assert latest_complete(tmp_path) != best


@pytest.mark.parametrize(("monitor", "hint"), [("eval/score", " (did you mean eval/greedy_score?)"), ("accuracy", "")])
def test_a_monitor_that_no_evaluation_gives_is_told_once(tmp_path, capsys, monitor: str, hint: str):
    loop = run(make(tmp_path, monitor=monitor), 4)
    loop.call("on_validation_end", metrics={}, episodes=[])  # as on other ranks
    assert capsys.readouterr().err == ""
    for score in (3.0, 9.0):
        metrics = {"eval/greedy_score": score, "eval/greedy_length": 9.0, "gap/return": 0.5}
        loop.call("on_validation_end", metrics=metrics, episodes=[])
    assert capsys.readouterr().err.splitlines() == [
        f"warning: --checkpoint.monitor: evaluations give no '{monitor}'{hint}; no best checkpoint is kept"
    ]
    other = make(tmp_path, monitor=monitor, keep_best=False)
    other.call("on_validation_end", metrics={"eval/greedy_score": 1.0}, episodes=[])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("victim", ["model.pt", "rank-0.pt", "manifest.json", "replay"])
@pytest.mark.parametrize("fault", ["truncated", "altered", "missing"])
def test_damaged_files_are_named_and_the_checkpoint_before_is_used(tmp_path, victim, fault):
    run(make(tmp_path), 9)
    older, newest = runfolder.checkpoints(tmp_path)
    path = newest / victim
    if victim == "replay":
        mine = set(runfolder.read_manifest(newest)["replay"]) - set(runfolder.read_manifest(older)["replay"])
        path = tmp_path / REPLAY / sorted(mine)[0]
    data = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    said: list[str] = []
    assert latest_complete(tmp_path, said.append) == older
    assert len(said) == 1
    assert str(path) in said[0]
    assert fault in said[0] or victim == "manifest.json"
    loop = make(tmp_path)
    restore(loop, older)
    assert loop.clocks.env_step == 64


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path):
    """Found by benchmarks/faults: what a resume passed over is ahead of what it saves next."""
    run(make(tmp_path, keep=3), 13)
    for folder in runfolder.checkpoints(tmp_path)[1:]:
        (folder / "model.pt").write_bytes(b"")
    older = latest_complete(tmp_path, lambda _: None)
    loop = make(tmp_path, keep=2)
    restore(loop, older)
    assert loop.clocks.env_step == 64
    run(loop, 4)
    assert runfolder.read_manifest(latest_complete(tmp_path))["env_step"] == 128
    assert names(tmp_path)[0] == older.name
    assert len(names(tmp_path)) == 2


def test_no_checkpoint_at_all(tmp_path):
    assert latest_complete(tmp_path) is None
    assert runfolder.best_checkpoint(tmp_path) is None
    assert not runfolder.is_run(tmp_path)


@pytest.mark.parametrize("part", ["files", "replay"])
def test_manifest_cannot_point_outside_the_run_folder(tmp_path, part):
    run(make(tmp_path), 4)
    folder = latest_complete(tmp_path)
    manifest = runfolder.read_manifest(folder)
    manifest.pop("manifest_sha256")
    manifest[part]["../../../secret"] = {"size": 1, "sha256": "0"}
    runfolder.write_manifest(folder, manifest)
    assert "outside the run folder" in runfolder.damage(folder, replay=True)


def test_checkpoint_files_run_no_code(tmp_path):
    run(make(tmp_path), 4)
    folder = latest_complete(tmp_path)
    torch.save({"loop": Path("x")}, folder / "model.pt")
    with pytest.raises(Exception, match="weights_only|Weights only"):
        load_tensors(folder / "model.pt")


def test_full_disk_while_saving_is_told_and_training_goes_on(tmp_path, capsys):
    """A limit on file size stands for the full disk: writes beyond it fail in the middle of a file."""
    loop = run(make(tmp_path), 4)
    before = latest_complete(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        for _ in range(4):
            loop.round()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    lines = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: checkpoint at env step 128 not written (")
    assert lines[0].endswith("training goes on")
    assert latest_complete(tmp_path) == before
    assert not list((tmp_path / CHECKPOINTS).glob(".tmp*"))
    for _ in range(4):
        loop.round()
    assert runfolder.read_manifest(latest_complete(tmp_path))["env_step"] == 192


def test_read_only_folder_while_saving(tmp_path, capsys, monkeypatch):
    loop = run(make(tmp_path), 4)
    before = latest_complete(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # tests may run as root, whom no folder refuses
    for _ in range(4):
        loop.round()
    assert "not written (Permission denied); training goes on" in capsys.readouterr().err
    assert latest_complete(tmp_path) == before


def test_leftovers_of_a_killed_save_are_ignored_and_removed(tmp_path):
    loop = run(make(tmp_path), 4)
    folder = latest_complete(tmp_path)
    leftover = folder.with_name(f".tmp-{runfolder.checkpoint_name(128, 9)}")
    shutil.copytree(folder, leftover)
    assert latest_complete(tmp_path) == folder
    loop.call("on_train_end")
    for _ in range(4):
        loop.round()
    assert not leftover.exists()


def test_write_atomic_keeps_the_old_file_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_number_of_ranks_deals_the_replay(tmp_path):
    """A checkpoint of two ranks, made by hand from two loops, goes on in one process."""
    loop = run(make(tmp_path), 4)
    folder = latest_complete(tmp_path)
    manifest = runfolder.read_manifest(folder)
    manifest.pop("manifest_sha256")
    shutil.copytree(tmp_path / REPLAY / "rank-0", tmp_path / REPLAY / "rank-1")
    shutil.copy(folder / "rank-0.pt", folder / "rank-1.pt")
    manifest["files"]["rank-1.pt"] = manifest["files"]["rank-0.pt"]
    manifest["replay"] |= {name.replace("rank-0", "rank-1"): value for name, value in manifest["replay"].items()}
    manifest["world_size"] = 2
    runfolder.write_manifest(folder, manifest)
    fresh = make(tmp_path)
    restore(fresh, latest_complete(tmp_path))
    assert fresh.replay.steps == 2 * loop.replay.steps
    assert fresh.clocks.env_step == loop.clocks.env_step
    run(fresh, 2)


def test_a_checkpoint_of_format_1_goes_on_with_its_replay_files(tmp_path):
    """Saved by commit 1f34364 after 16 rounds of this loop; there each replay had a manifest of its own."""
    shutil.copytree(Path(__file__).parent / "data" / "checkpoint_format_1", tmp_path, dirs_exist_ok=True)
    found, loop, fresh = latest_complete(tmp_path), make(tmp_path), run(make(tmp_path / "fresh"), 16)
    assert restore(loop, found)["format"] == 1
    for stream in (0, 1):
        assert (loop.replay.data[stream, :64] == fresh.replay.data[stream, :64]).all()
    assert loop.replay.queue == fresh.replay.queue
    before = set(runfolder.read_manifest(found)["replay"])
    run(loop, 4)
    newest = runfolder.read_manifest(latest_complete(tmp_path))
    assert newest["format"] == 2
    assert {name for name in before if name.endswith(".pt")} < set(newest["replay"])  # shared, not written again


def test_a_replay_that_was_not_saved_fills_up_before_the_next_update(tmp_path):
    """Also where the run had stopped between two updates that were due."""
    loop = make(tmp_path)
    next(callback for callback in loop.callbacks if isinstance(callback, Checkpoint)).replay = False
    run(loop, 4)
    fresh = make(tmp_path)
    fresh.ratio.learning, fresh.ratio.due, fresh.ratio.owed = True, True, 1.5
    restore(fresh, latest_complete(tmp_path))
    assert fresh.ratio.state_dict() == {"learning": False, "owed": 0.0, "due": False}


def test_callbacks_of_one_class_keep_their_own_state(tmp_path):
    first, second = Progress(enabled=False), Progress(enabled=False)
    first.returns.append(1.0)
    second.returns.append(2.0)
    loop = FakeLoop(tmp_path, [first, second, Checkpoint()])
    loop.callbacks[2].save(loop)
    fresh = FakeLoop(tmp_path, [Progress(), Progress(), Checkpoint()])
    restore(fresh, latest_complete(tmp_path))
    assert [list(callback.returns) for callback in fresh.callbacks[:2]] == [[1.0], [2.0]]


KILLED = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_checkpoint import make, run
from dreamer_lightning.store import runfolder
from dreamer_lightning.callbacks import restore
run_dir, last = Path(sys.argv[1]), -1
for delay in (0.30, 0.17, 0.41, 0.01, 0.23, 0.36):
    child = os.fork()
    if not child:
        loop = make(run_dir, every_env_steps=16)
        found = runfolder.latest_complete(run_dir)
        if found:
            restore(loop, found)
        run(loop, 10**9)
    before, deadline = runfolder.checkpoints(run_dir)[-1:], time.monotonic() + 60
    while runfolder.checkpoints(run_dir)[-1:] == before and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = []
    found = runfolder.latest_complete(run_dir, said.append)
    step = runfolder.read_manifest(found)["env_step"] if found else -1
    assert not said and step > last, (said, step, last)
    last = step
"""


def test_killed_at_random_moments_it_always_goes_on(tmp_path):
    """Children fork from one parent with its imports done; each goes on with what the one before left."""
    script = KILLED.format(tests=str(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    found = latest_complete(tmp_path)
    loop = make(tmp_path)
    restore(loop, found)
    loop.call("on_fit_start")
    frame = rows(tmp_path)
    assert frame["env_step"].is_monotonic_increasing
    assert frame["env_step"].max() <= runfolder.read_manifest(found)["env_step"]
    episodes = frame.dropna(subset="episode/score")
    assert (episodes["episode/score"] == 10).all()
    assert (episodes.groupby("env_step").size() == 2).all()  # two environments in step: no row lost, none repeated
    assert set(episodes["env_step"]) == set(range(40, frame["env_step"].max() + 1, 40))


RANKS = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from lightning.fabric import Fabric
from test_checkpoint import make, run
from dreamer_lightning.store import runfolder
from dreamer_lightning.callbacks import restore


def main(fabric):
    run_dir = Path(sys.argv[1])
    loop = run(make(run_dir, fabric), 8)
    found = runfolder.latest_complete(run_dir)
    assert runfolder.read_manifest(found)["world_size"] == 2
    callbacks = loop.callbacks
    again = make(run_dir, fabric)
    restore(again, found)
    assert again.clocks.env_step == loop.clocks.env_step == 8 * 32
    assert again.replay.steps == loop.replay.steps
    assert torch.equal(again.generator.get_state(), loop.generator.get_state())
    assert torch.equal(again.replay.generator.get_state(), loop.replay.generator.get_state())
    fabric._callbacks = callbacks
    loop.call("on_train_end")
    fabric.barrier()


Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(main)
"""


def test_two_ranks_write_one_checkpoint_and_one_file_of_rows(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RANKS.format(tests=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, script, tmp_path / "run"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = latest_complete(tmp_path / "run")
    assert {"model.pt", "rank-0.pt", "rank-1.pt"} == set(runfolder.read_manifest(found)["files"])
    states = [load_tensors(found / f"rank-{rank}.pt")["loop"]["generator"] for rank in (0, 1)]
    assert not torch.equal(*states)
    episodes = rows(tmp_path / "run").dropna(subset="episode/score")
    assert len(episodes) == 2 * 2 * 3  # two ranks, two environments, three episodes of ten decisions in 32
    assert (episodes.groupby("env_step").size() == 4).all()

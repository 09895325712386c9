"""A run's copy at a URL: whole or absent, kept up while the run goes on, and a run goes on from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dreamer_lightning import cli
from dreamer_lightning.callbacks import Checkpoint, Episodes, Metrics, Mirror, restore
from dreamer_lightning.store import runfolder
from dreamer_lightning.store.mirror import Copy
from dreamer_lightning.types import UserError
from fakes import FakeLoop
from test_checkpoint import rows, run


class Weak(MemoryFileSystem):
    """A store whose connection can break."""

    protocol = "weak"
    store: dict = {}
    broken = False
    lost = ""  # files of this name arrive with a byte changed

    def put_file(self, lpath, rpath, **kwargs):
        if self.broken:
            raise ConnectionError("the cable is out")
        super().put_file(lpath, rpath, **kwargs)
        if self.lost and rpath.endswith(self.lost):
            data = self.cat_file(rpath)
            self.pipe_file(rpath, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.fixture
def weak(monkeypatch):
    fsspec.register_implementation("weak", Weak, clobber=True)
    monkeypatch.setattr(Weak, "store", {})
    monkeypatch.setattr(Weak, "pseudo_dirs", [""])
    monkeypatch.setattr(Weak, "broken", False)
    monkeypatch.setattr(Weak, "lost", "")
    Weak.clear_instance_cache()
    return Weak


def make(run_dir: Path, url: str) -> FakeLoop:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / runfolder.CONFIG).write_text("seed: 0\n")
    return FakeLoop(run_dir, [Episodes(), Metrics(), Mirror(url), Checkpoint(every_env_steps=64, keep=2)])


@pytest.mark.parametrize("where", ["weak://runs", "folder"])
def test_a_run_that_is_gone_goes_on_from_its_copy(where, weak, tmp_path, capsys):
    url = where if "://" in where else str(tmp_path / where)
    run(make(tmp_path / "whole", str(tmp_path / "other")), 40).call("on_fit_end")
    run(make(tmp_path / "cut", url), 19).call("on_fit_end")
    assert f"copied to {url}/cut; fit --resume {url}/cut goes on from there" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "cut")
    again = Copy(f"{url}/cut", "--resume").fetch(tmp_path / "again")
    loop = make(again, str(tmp_path / "third"))
    restore(loop, runfolder.latest_complete(again))
    assert loop.clocks.env_step == 16 * 16
    run(loop, 40 - 16).call("on_fit_end")
    assert rows(tmp_path / "whole").equals(rows(again))


def test_only_the_newest_checkpoint_and_its_replay_are_kept(weak, tmp_path):
    loop = run(make(tmp_path / "a", "weak://runs"), 60)
    loop.call("on_fit_end")
    copy = Copy("weak://runs/a", "--resume")
    assert copy.checkpoints() == [runfolder.checkpoints(tmp_path / "a")[-1].name]
    needed = copy.manifest(copy.checkpoints()[0])["replay"]
    assert sorted(path.rpartition("/replay/")[2] for path in copy.below("replay")) == sorted(needed)


def test_a_broken_connection_costs_a_line_and_is_made_good(weak, tmp_path, capsys):
    loop = run(make(tmp_path / "a", "weak://runs"), 5)
    weak.broken = True
    run_on(loop, 30)
    loop.call("on_fit_end")
    told = capsys.readouterr().err
    assert told.count("weak://runs/a: not copied (the cable is out); training goes on") == 1
    assert f"weak://runs/a: the newest checkpoint is not there (the cable is out); it is in {tmp_path / 'a'}" in told
    weak.broken = False
    loop = make(tmp_path / "a", "weak://runs")
    restore(loop, runfolder.latest_complete(tmp_path / "a"))
    loop.call("on_fit_start")
    run_on(loop, 10)
    loop.call("on_fit_end")
    assert Copy("weak://runs/a", "").checkpoints() == [runfolder.checkpoints(tmp_path / "a")[-1].name]


def run_on(loop: FakeLoop, rounds: int) -> None:
    for _ in range(rounds):
        loop.round()


def test_what_did_not_arrive_whole_is_no_checkpoint(weak, tmp_path, capsys):
    weak.lost = "model.pt"
    run(make(tmp_path / "a", "weak://runs"), 10).call("on_fit_end")
    assert "model.pt did not arrive whole" in capsys.readouterr().err
    with pytest.raises(UserError, match="no complete checkpoint at weak://runs/a"):
        Copy("weak://runs/a", "--resume").fetch(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_copy_of_another_run_is_not_overwritten(weak, tmp_path):
    run(make(tmp_path / "a", "weak://runs"), 10).call("on_fit_end")
    with pytest.raises(UserError, match=r"Mirror.to: weak://runs/a holds a run already; go on with it by --resume"):
        make(tmp_path / "b" / "a", "weak://runs").call("on_fit_start")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing://x", "--resume: nothing://x: Protocol not known: nothing"),
        ("memory://empty/run", "--resume: no complete checkpoint at memory://empty/run"),
    ],
)
def test_a_resume_that_cannot_be_is_told_in_a_line(url, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "--resume", url]) == 2
    assert capsys.readouterr().err.strip() == f"dreamer-lightning: {said}"
    assert not list(tmp_path.iterdir())


def test_fit_is_copied_and_goes_on_from_the_url(weak, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mirror = '[{"class_path": "dreamer_lightning.callbacks.Mirror", "init_args": {"to": "weak://runs"}}]'
    options = {"--env_steps": "200", "--wandb.mode": "disabled", "--run_dir": "runs/one", "--fabric.callbacks": mirror}
    assert cli.main(["fit", "gym.yaml", "debug.yaml", *sum(map(list, options.items()), [])]) == 0
    shutil.rmtree("runs/one")
    assert cli.main(["fit", "--resume", "weak://runs/one", "--env_steps", "300"]) == 0
    said = capsys.readouterr()
    assert "note: copied weak://runs/one to runs/one" in said.err
    assert "resumed at update" in said.out
    assert runfolder.checkpoints(tmp_path / "runs" / "one")[-1].name in Copy("weak://runs/one", "").checkpoints()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_copied_to_s3_and_back(tmp_path, monkeypatch, capsys):
    pytest.importorskip("s3fs", reason="pip install s3fs")
    server = pytest.importorskip("moto.server", reason="pip install moto[server]").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("ACCESS_KEY_ID", "key"),
        ("SECRET_ACCESS_KEY", "none"),
        ("ENDPOINT_URL", f"http://{host}:{port}"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    fsspec.filesystem("s3").mkdir("bucket")
    try:
        run(make(tmp_path / "a", "s3://bucket/runs"), 40).call("on_fit_end")
        assert "copied to s3://bucket/runs/a" in capsys.readouterr().out
        copy = Copy("s3://bucket/runs/a", "--resume")
        assert copy.checkpoints() == [runfolder.checkpoints(tmp_path / "a")[-1].name]
        again = copy.fetch(tmp_path / "again")
        assert runfolder.damage(runfolder.checkpoints(again)[-1], replay=True) is None
    finally:
        server.stop()
    loop = run(make(tmp_path / "b", "s3://bucket/runs"), 10)  # nobody answers
    loop.call("on_fit_end")
    assert "s3://bucket/runs/b: not copied" in capsys.readouterr().err

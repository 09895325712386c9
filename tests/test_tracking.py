"""Weights & Biases, without a network: what an offline run leaves on disk, read back record by record."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import struct
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from dreamer_lightning.callbacks.tracking import Tracking, logged_in, resolve_mode, without_secrets
from fakes import FakeLoop

KEY = "f00dcafe" * 5
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # wandb's own


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    """A home without a login, and none of this machine's variables."""
    for name in [name for name in os.environ if name.startswith("WANDB") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB__DISABLE_STATS", "true")
    (tmp_path / "home").mkdir()


def records(path: Path) -> list[Any]:
    """The records of a .wandb file: a LevelDB log (32 KiB blocks; checksum, length, kind) of protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    data, position, found, parts = path.read_bytes(), 7, [], b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, last
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def offline_run(run_dir: Path) -> list[Any]:
    (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    return records(path)


def wait_for_the_end(run_dir: Path, seconds: float = 60.0) -> None:
    """W&B's own process writes the file, on a busy machine later than its client says it has finished."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # half a file
            if any(record.HasField("exit") for record in offline_run(run_dir)):
                return
        time.sleep(0.1)


def items(update) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One offline run, from start to end; the tests below read its files."""
    patch = pytest.MonkeyPatch()
    run_dir = tmp_path_factory.mktemp("tracked") / "a run"
    patch.setenv("HOME", str(run_dir.parent))
    patch.setenv("MY_SERVICE_TOKEN", KEY)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        patch.delenv(name, raising=False)
    config = {"seed": 3, "env": {"task": "walker_walk"}, "wandb": {"api_key": KEY}, "note": f"see {KEY}"}
    asked = "dmc-imag_last=16"
    tracking = Tracking(
        task="walker_walk", size="1m", settings=asked, seed=3, tags=["mine"], config=config, project="p"
    )
    loop = FakeLoop(run_dir, [tracking])
    printed: list[str] = []
    patch.setattr("builtins.print", lambda *args, **_: printed.append(" ".join(map(str, args))))
    loop.call("on_fit_start")
    for step, score in ((100, 5.0), (200, 9.0), (300, 7.0)):
        row = {"env_step": step, "agent_step": step // 2, "update": step // 10, "seconds": 1.0, "episode/score": score}
        loop.call("on_log", row=row)
        loop.clocks.env_step = step
    gap = {"gap/return@15": 1.0, "gap/return@50": 2.0, "openloop/reward_error@1": 0.1, "openloop/h_error@1": 0.2}
    loop.call("on_log", row={"env_step": 300, "agent_step": 150, "update": 30, "eval/greedy_score": 11.0, **gap})
    video, picture = run_dir / "episode.mp4", run_dir / "openloop.png"
    import imageio.v2 as imageio

    imageio.mimwrite(video, np.zeros((4, 32, 32, 3), np.uint8), fps=10)
    imageio.imwrite(picture, np.zeros((8, 8, 3), np.uint8))
    loop.call("on_media", name="video/episode", path=video)
    loop.call("on_media", name="video/openloop", path=picture)
    loop.call("on_fit_end")
    patch.undo()
    wait_for_the_end(run_dir)
    return run_dir, tracking, printed


def test_offline_without_a_question_and_the_sync_line(finished):
    run_dir, tracking, printed = finished
    (folder,) = run_dir.glob("wandb/offline-run-*")
    (line,) = printed
    assert shlex.split(line) == ["wandb", "sync", str(folder)], "to be copied, spaces and all"
    assert folder.name.endswith(tracking.id)


def test_run_name_group_and_tags(finished):
    (run,) = [record.run for record in offline_run(finished[0]) if record.HasField("run")]
    assert (run.display_name, run.run_group, run.project) == (
        "walker_walk-1m-dmc-imag_last=16-s3",
        "walker_walk-1m-dmc-imag_last=16",
        "p",
    )
    assert set(run.tags) == {"walker_walk", "v0.1.0", "1m", "mine"}


def test_env_step_is_the_axis_of_everything(finished):
    metrics = [record.metric for record in offline_run(finished[0]) if record.HasField("metric")]
    axes = {metric.glob_name or metric.name: metric.step_metric for metric in metrics}
    assert axes["*"] == "env_step"
    assert {"env_step", "agent_step", "update"} <= set(axes)
    assert "trainer/global_step" not in axes


def test_what_is_measured_by_steps_dreamed_is_one_chart(finished):
    metrics = {r.metric.name: r.metric for r in offline_run(finished[0]) if r.HasField("metric")}
    hidden = {name for name, metric in metrics.items() if metric.options.hidden}
    assert {"gap/return@15", "gap/return@50", "openloop/reward_error@1", "openloop/h_error@1"} <= hidden
    assert metrics["gap/return@15"].step_metric == "env_step"
    rows = [items(record.history.item) for record in offline_run(finished[0]) if record.HasField("history")]
    tables = {name.rpartition("/")[0] for row in rows for name in row if "/horizon" in name}
    assert tables == {"gap/horizon_table", "openloop/horizon_table"}
    found = list(finished[0].glob("wandb/offline-run-*/files/media/table/**/*.json"))
    data = sorted(json.loads(path.read_text())["data"] for path in found)
    assert data == [[[1, "h_error", 0.2], [1, "reward_error", 0.1]][::-1], [[15, "return", 1.0], [50, "return", 2.0]]]


def test_the_agent_is_an_artifact_that_loads_elsewhere(finished):
    found = [record.artifact for record in offline_run(finished[0]) if record.HasField("artifact")]
    (artifact,) = [one for one in found if one.type == "agent"]
    assert (artifact.type, artifact.name) == ("agent", "walker_walk-1m-dmc-imag_last_16-s3")
    assert {entry.path for entry in artifact.manifest.contents} == {"weights.safetensors", "card.json"}
    assert json.loads(artifact.metadata) == {
        "env_step": 300,
        "agent_step": 0,
        "update": 0,
        "episode/score": 9.0,
        "eval/greedy_score": 11.0,
    }


def test_an_agent_whose_config_has_secrets_is_not_sent(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("env: {init_args: {api_key: abc}}\n")
    tracking = Tracking()
    run = tracking.logger = MagicMock()
    tracking._keep_agent(FakeLoop(tmp_path, [tracking]))
    assert "look like keys" in capsys.readouterr().err
    assert not run.experiment.log_artifact.called


def test_every_row_with_its_clocks(finished):
    rows = [items(record.history.item) for record in offline_run(finished[0]) if record.HasField("history")]
    scores = [(row["env_step"], row["update"], row["episode/score"]) for row in rows if "episode/score" in row]
    assert scores == [(100, 10, 5.0), (200, 20, 9.0), (300, 30, 7.0)]
    assert all({"env_step", "agent_step", "update"} <= set(row) for row in rows)


def test_summary_has_best_and_last(finished):
    summary: dict[str, Any] = {}
    for record in offline_run(finished[0]):
        if record.HasField("summary"):
            summary |= items(record.summary.update)
        if record.HasField("history"):
            summary |= items(record.history.item)  # wandb's summary holds the last value of each metric
    assert (summary["best/episode/score"], summary["episode/score"]) == (9.0, 7.0)
    assert (summary["best/eval/greedy_score"], summary["eval/greedy_score"]) == (11.0, 11.0)


def test_videos_and_pictures_as_files(finished):
    run_dir = finished[0]
    kinds = {path.suffix for path in run_dir.glob("wandb/offline-run-*/files/media/**/*.*")}
    assert {".mp4", ".png"} <= kinds
    rows = [items(record.history.item) for record in offline_run(run_dir) if record.HasField("history")]
    media = {key: value for row in rows for key, value in row.items() if key.startswith("video/")}
    assert {key.split("/")[1] for key in media} >= {"episode", "openloop"}


def test_config_without_secrets(finished):
    run_dir = finished[0]
    config: dict[str, Any] = {}
    for record in offline_run(run_dir):
        if record.HasField("config"):
            config |= items(record.config.update)
    assert config["seed"] == 3
    assert config["env"] == {"task": "walker_walk"}
    assert config["wandb"] == {}
    for path in run_dir.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_resumed_run_goes_on_under_the_same_id(finished, tmp_path, monkeypatch):
    opened = {}
    monkeypatch.setattr("wandb.init", lambda **options: opened.update(options) or MagicMock())
    _, first, _ = finished
    second = Tracking(task="walker_walk", seed=3)
    second.load_state_dict(first.state_dict())
    assert second.best == {"episode/score": 9.0, "eval/greedy_score": 11.0}
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    second.on_fit_start(FakeLoop(tmp_path, [second]))
    assert (opened["id"], opened["resume"]) == (first.id, "allow")


def test_network_that_fails_means_offline(tmp_path, monkeypatch, capsys):
    asked = []

    def init(**options):
        asked.append(options["mode"])
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr("wandb.init", init)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracking = Tracking()
    loop = FakeLoop(tmp_path, [tracking])
    loop.call("on_fit_start")
    assert asked == ["online", "offline"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "warning: wandb does not start online (no route to host); writing offline",
        "warning: wandb does not start offline (no route to host); going on without it",
    ]
    loop.call("on_log", row={"env_step": 1})
    loop.call("on_fit_end")


def test_a_wandb_that_does_not_finish_leaves_a_line_to_copy(tmp_path, capsys):
    run = MagicMock()
    run.finish.side_effect = OSError("no space")
    run.settings.sync_dir = str(tmp_path / "a run" / "offline-run-1")
    tracking = Tracking()
    tracking.logger = MagicMock(experiment=run)
    tracking.on_exception()
    assert f"; wandb sync '{tmp_path}/a run/offline-run-1' sends what is there" in capsys.readouterr().err


def test_disabled_writes_nothing(tmp_path):
    loop = FakeLoop(tmp_path, [Tracking(mode="disabled")])
    for hook in ("on_fit_start", "on_fit_end"):
        loop.call(hook)
    loop.call("on_log", row={"env_step": 1})
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "home"])


def test_mode_by_variable_option_and_login(monkeypatch):
    assert [resolve_mode(mode) for mode in ("auto", "online", "offline", "disabled")] == [
        "offline",
        "offline",
        "offline",
        "disabled",
    ]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert [resolve_mode(mode) for mode in ("auto", "online", "offline", "disabled")] == [
        "online",
        "online",
        "offline",
        "disabled",
    ]
    for value, result in (
        ("offline", "offline"),
        ("dryrun", "offline"),
        ("disabled", "disabled"),
        ("online", "online"),
    ):
        monkeypatch.setenv("WANDB_MODE", value)
        assert resolve_mode("auto") == resolve_mode("disabled") == result


@pytest.mark.parametrize("host", ["api.wandb.ai", "wandb.example.com"])
def test_login_by_netrc(monkeypatch, tmp_path, host):
    assert not logged_in()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine {host} login user password {KEY}\n")
    netrc.chmod(0o600)
    if host != "api.wandb.ai":
        assert not logged_in()
        monkeypatch.setenv("WANDB_BASE_URL", f"https://{host}")
    assert logged_in()
    netrc.write_text("machine github.com login user password x\n")
    assert not logged_in()
    netrc.write_text("nonsense\n")
    assert not logged_in()


def test_without_secrets(monkeypatch):
    monkeypatch.setenv("SOME_PASSWORD", "open sesame")
    config = {"a": [1, {"wandb_token": "x"}], "line": "say open sesame", "path": Path("/x"), "none": None}
    assert without_secrets(config) == {"a": [1, {}], "line": "(removed)", "path": "/x", "none": None}

"""metrics.csv: means, rows at full precision, and what a full disk does to them."""

from __future__ import annotations

import math
import resource
import signal

import pandas as pd
import pytest
import torch
from lightning.fabric.loggers import TensorBoardLogger

from dreamer_lightning.callbacks import Metrics
from dreamer_lightning.callbacks.metrics import Mean, RowFile
from dreamer_lightning.store.runfolder import METRICS
from fakes import FakeLoop


def test_mean_over_updates_by_hand():
    mean = Mean()
    mean.add({"loss/a": torch.tensor(1.0), "loss/b": torch.tensor(10.0)})
    mean.add({"loss/a": torch.tensor(4.0), "loss/b": 20.0})
    mean.add({"loss/a": torch.tensor(7.0)})
    again = Mean()
    again.load_state_dict(mean.state_dict())
    assert mean.pop() == again.pop() == {"loss/a": 4.0, "loss/b": 15.0}
    assert mean.pop() == {}


def test_mean_keeps_no_graph():
    mean = Mean()
    mean.add({"loss": torch.ones((), requires_grad=True) * 2})
    assert not next(iter(mean.groups.values()))[0].requires_grad


def test_rows_at_full_precision_and_columns_that_come_later(tmp_path):
    file = RowFile(tmp_path / METRICS)
    file.append({"env_step": 2**40 + 1, "loss/a": 0.1 + 0.2})
    file.append({"env_step": 2**40 + 2, "loss/a": math.nan, "eval/score": 1 / 3, "bool": True})
    file.append({"env_step": 2**40 + 3, "eval/score": -math.inf})
    frame = pd.read_csv(tmp_path / METRICS)
    assert frame["env_step"].tolist() == [2**40 + 1, 2**40 + 2, 2**40 + 3]
    assert frame["loss/a"][0] == 0.1 + 0.2
    assert frame["eval/score"][1] == 1 / 3
    assert frame["eval/score"][2] == -math.inf
    assert frame["loss/a"].isna().tolist() == [False, True, True]
    assert list(frame.columns) == ["env_step", "loss/a", "eval/score", "bool"]


def test_file_is_cut_back_to_the_checkpoints_rows(tmp_path):
    file = RowFile(tmp_path / METRICS)
    for step in range(5):
        file.append({"env_step": step, "loss": step / 7})
    with open(file.path, "a") as half:
        half.write("5,0.71")  # killed in the middle of a row
    again = RowFile(file.path, rows=3)
    again.append({"env_step": 30, "loss": 0.5})
    assert pd.read_csv(file.path)["env_step"].tolist() == [0, 1, 2, 30]
    assert RowFile(file.path, rows=0).rows == 0
    assert file.path.read_bytes() == b""


def test_full_disk_keeps_rows_until_there_is_room(tmp_path, capsys):
    file = RowFile(tmp_path / METRICS)
    file.append({"env_step": 0, "loss": 1 / 3})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.size + 5, hard))
        file.append({"env_step": 1, "loss": 2 / 3})
        file.append({"env_step": 2, "loss": 4 / 3})
        file.append({"env_step": 3, "loss": 4 / 3, "new": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert pd.read_csv(file.path)["env_step"].tolist() == [0]
    file.append({"env_step": 4})
    assert pd.read_csv(file.path)["env_step"].tolist() == [0, 1, 2, 3, 4]


def test_means_join_the_loops_rows_but_not_those_of_episodes(tmp_path):
    loop = FakeLoop(tmp_path, [Metrics()])
    loop.call("on_fit_start")
    for value in (1.0, 3.0):
        loop.call("on_train_batch_end", metrics={"loss/model": torch.tensor(value)})
    loop.call("on_log", row={"env_step": 4, "agent_step": 2, "update": 2, "seconds": 0.5, "episode/score": 7.0})
    loop.flush()
    frame = pd.read_csv(tmp_path / METRICS)
    assert frame["loss/model"].isna().tolist() == [True, False]
    assert frame["loss/model"][1] == 2.0
    assert list(frame.columns)[:4] == ["env_step", "agent_step", "update", "seconds"]
    assert loop.last["loss/model"] == 2.0


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    loop = FakeLoop(tmp_path, [Metrics()])
    monkeypatch.setattr(type(loop.fabric), "is_global_zero", property(lambda self: False))
    loop.call("on_fit_start")
    loop.flush()
    assert not (tmp_path / METRICS).exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own protobuf and distutils
def test_fabrics_loggers_get_the_same_rows(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(root_dir=tmp_path, name="tb", version="0")
    loop = FakeLoop(tmp_path / "run", [Metrics()], loggers=[logger])
    loop.call("on_fit_start")
    loop.clocks.env_step = 128
    loop.call("on_train_batch_end", metrics={"loss/model": torch.tensor(2.5)})
    loop.flush()
    loop.call("on_fit_end")
    events = EventAccumulator(str(tmp_path / "tb" / "0")).Reload()
    (event,) = events.Scalars("loss/model")
    assert (event.step, event.value) == (128, 2.5)

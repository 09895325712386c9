"""What a run will cost, said before it starts."""

from __future__ import annotations

from dreamer_lightning.callbacks import Forecast
from dreamer_lightning.callbacks.forecast import record_bytes, replay_bytes, updates_to_come
from dreamer_lightning.data.replay import Replay
from fakes import FakeLoop


def test_forecast_by_hand(tmp_path, capsys):
    loop = FakeLoop(tmp_path, [Forecast(random_score=43.21, seconds_per_update=0.5)], env_steps=2000)
    assert updates_to_come(loop) == (1000 - 8) * 512 // 1024 == 496
    assert record_bytes(loop) == 3 * 4 + 2 * 4 + 4 + 3 + 4 * 4 + 2
    loop.call("on_fit_start")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("forecast: 496 updates to come, about 4 minutes, RAM about ")
    assert "replay 0.0 MB when full" in first
    assert second == "random policy: score 43.2"


def test_forecast_of_a_replay_that_is_limited_in_bytes(tmp_path):
    loop = FakeLoop(tmp_path, [])
    assert replay_bytes(loop) == 400 * record_bytes(loop)
    loop.replay = Replay(capacity=400, capacity_gb=1e-5, batch_size=2, length=5, num_streams=2)
    loop.play()
    assert replay_bytes(loop) == 2 * loop.replay.slots * loop.replay.bytes_per_step <= 1e4


def test_forecast_of_a_run_that_time_alone_ends(tmp_path, capsys):
    FakeLoop(tmp_path, [Forecast()], max_time=60.0).call("on_fit_start")
    assert "as many updates as max_time lets through" in capsys.readouterr().out


def test_forecast_measures_the_first_updates(tmp_path, capsys, monkeypatch):
    loop = FakeLoop(tmp_path, [Forecast()], updates=1050)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    loop.call("on_fit_start")
    for _ in range(80):
        now[0] += 0.25
        loop.call("on_train_batch_end", metrics={})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["forecast: 4.0 updates/s, about 4 minutes to go on this machine"]

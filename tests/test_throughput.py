"""Steps and updates per second."""

from __future__ import annotations

import sys

from dreamer_lightning.callbacks import Throughput
from fakes import FakeLoop


def test_throughput_of_known_times(tmp_path, monkeypatch):
    loop = FakeLoop(tmp_path, [Throughput()])
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    loop.call("on_train_start")
    now[0] += 4.0
    loop.clocks.env_step, loop.clocks.update = 200, 20
    loop.timers |= {"collect": 1.0, "train": 2.5}
    row = {"env_step": 200}
    loop.call("on_log", row=row)
    assert (row["fps/env"], row["fps/updates"]) == (50.0, 5.0)
    assert (row["fps/share_collect"], row["fps/share_train"]) == (0.25, 0.625)
    assert 0.05 < row["fps/ram_gb"] < 100
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    loop.call("on_log", row=(row := {"env_step": 200}))
    assert "fps/ram_gb" not in row
    episode = {"env_step": 200, "episode/score": 1.0}
    loop.call("on_log", row=episode)
    assert set(episode) == {"env_step", "episode/score"}

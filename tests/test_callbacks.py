"""Signals, forecast, progress, videos and the learning curve."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from rich.console import Console

from dreamer_lightning.callbacks import Callback, Curve, Forecast, Progress, Signals, Video, learning_curve
from dreamer_lightning.callbacks.base import tell, warn
from dreamer_lightning.callbacks.forecast import record_bytes, replay_bytes, updates_to_come
from dreamer_lightning.callbacks.metrics import RowFile
from dreamer_lightning.callbacks.progress import clock, fraction
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.store.runfolder import METRICS
from fakes import FakeLoop

SOURCES = Path(__file__).parents[1] / "src" / "dreamer_lightning"


# signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_loop_in_good_order(tmp_path, capsys, number):
    loop = FakeLoop(tmp_path, [Signals()])
    before = signal.getsignal(number)
    loop.call("on_fit_start")
    try:
        os.kill(os.getpid(), number)
        assert not loop.should_stop
        loop.round()
        assert loop.stop_reason == "signal"
        assert capsys.readouterr().out.startswith(f"{signal.Signals(number).name}: saving and stopping")
    finally:
        loop.call("on_fit_end")
    assert signal.getsignal(number) == before


def test_second_interrupt_ends_the_process_at_once(tmp_path):
    script = (
        "import os, signal, time\n"
        "from dreamer_lightning.callbacks.signals import Signals\n"
        "signals = Signals(); signals.on_fit_start()\n"
        "os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "still here\n")


# forecast


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


# progress


def test_a_line_a_minute_without_a_terminal(tmp_path, capsys, monkeypatch):
    loop = FakeLoop(tmp_path, [Progress()], env_steps=1000)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    loop.call("on_fit_start")
    for _ in range(150):
        now[0] += 1.0
        loop.clocks.env_step += 4
        loop.clocks.update += 2
        loop.timers["train"] += 0.75
        loop.call("on_train_batch_end", metrics={})
        if loop.clocks.env_step % 80 == 0:
            loop.call("on_log", row={"env_step": 0, "episode/score": loop.clocks.env_step / 4})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "env steps 240, updates 120, 2.0 updates/s, returns 20 40, collect 0%, train 75%, left 3:10",
        "env steps 480, updates 240, 2.0 updates/s, returns 60 80 100, collect 0%, train 75%, left 2:10",
    ]


def test_bar_on_a_terminal(tmp_path, monkeypatch):
    loop = FakeLoop(tmp_path, [Progress()], env_steps=1000)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    loop.call("on_fit_start")
    bar = loop.callbacks[0].bar
    assert bar is not None
    loop.callbacks[0].shown -= 10
    loop.clocks.env_step = 250
    loop.call("on_collect_end", wire=None)
    assert bar.tasks[0].completed == 0.25
    assert "env steps 250" in bar.tasks[0].fields["text"]
    loop.call("on_exception", error=ValueError())
    assert loop.callbacks[0].bar is None


@pytest.mark.parametrize(
    ("width", "last"),
    [
        (140, "returns 900 900 900, collect 0%, train 0%"),
        (120, "updates 250,000, 0.0 updates/s, returns 900 900 900"),
        (80, "updates 250,000"),
        (60, "env steps 500,000"),
        (40, "left 2:46:39"),
    ],
)
def test_the_bar_leaves_out_what_a_terminal_has_no_room_for(tmp_path, monkeypatch, width: int, last: str):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    progress = Progress()
    loop = FakeLoop(tmp_path, [progress], env_steps=1_000_000)
    now = [0.0]
    monkeypatch.setattr("dreamer_lightning.callbacks.progress.time.monotonic", lambda: now[0])
    loop.call("on_fit_start")
    now[0] = 9999.0
    loop.clocks.env_step, loop.clocks.update = 500_000, 250_000
    progress.rate = (0.0, 250_000, {})
    progress.returns.extend([900.0] * 3)
    loop.call("on_collect_end", wire=None)
    seen = Console(file=io.StringIO(), width=width)
    seen.print(progress.bar.get_renderable())
    loop.call("on_exception", error=ValueError())
    (line,) = seen.file.getvalue().splitlines()
    assert line.index("\u2501" * 9) < line.index(" 50% left 2:46:39"), "a bar, how much of it, how long to go"
    assert line.rstrip().endswith(last)
    assert len(line) <= width


def test_closing_table(tmp_path, capsys):
    progress = Progress(enabled=False)
    loop = FakeLoop(tmp_path, [progress])
    for score in range(12):
        loop.call("on_log", row={"env_step": 0, "episode/score": float(score)})
    for greedy, sampled in ((900.0, 800.0), (850.0, 820.0)):
        loop.call(
            "on_validation_end", metrics={"eval/greedy_score": greedy, "eval/sampled_score": sampled}, episodes=[]
        )
    loop.clocks.env_step, loop.clocks.update, loop.clocks.seconds = 30_000, 7500, 3723.0
    again = Progress(enabled=False)
    again.load_state_dict(progress.state_dict())
    loop.callbacks[0] = loop.fabric._callbacks[0] = again
    loop.call("on_fit_end")
    text = capsys.readouterr().out
    for part in (
        "walker_walk",
        "30,000",
        "7,500",
        "1:02:03",
        "last 850.0, best 900.0",
        "last 820.0, best 820.0",
        "mean return 6.5",
        str(tmp_path)[:40],
    ):
        assert part in text


def test_fraction_is_of_the_nearest_limit(tmp_path):
    loop = FakeLoop(tmp_path, [], env_steps=100, updates=10, max_time=1000.0)
    loop.clocks.env_step, loop.clocks.update, loop.clocks.seconds = 20, 5, 100.0
    assert fraction(loop) == 0.5
    assert (clock(59), clock(61), clock(3600)) == ("0:59", "1:01", "1:00:00")


# videos


class FilmFactory:
    name, repeat = "film", 1

    def __init__(self, gl: bool = True):
        self.gl = gl
        self.closed = 0

    def make(self, seed, pixels_for_video=False):
        return SimpleNamespace(reset=lambda: None, close=self.close)

    def close(self):
        self.closed += 1

    def frame(self, env):
        return np.full((47, 64, 3), 128, np.uint8) if self.gl else None


def media(loop) -> list[tuple[str, Path]]:
    seen = []

    class Look:
        def on_media(self, name, path):
            seen.append((name, path))

    loop.fabric._callbacks.append(Look())
    return seen


def film_loop(tmp_path, monkeypatch, gl=True, **options) -> FakeLoop:
    loop = FakeLoop(tmp_path, [Video(**options)])
    loop.env_factory = FilmFactory(gl)
    frames = [np.full((48, 64, 3), i, np.uint8) for i in range(6)]
    played = SimpleNamespace(frames=frames)
    monkeypatch.setattr("dreamer_lightning.evaluation.rollout.rollout", lambda *args, **kwargs: [played])
    return loop


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of imageio's reader, which leaves its pipes to the collector
def test_film_of_every_nth_evaluation_and_at_the_end(tmp_path, monkeypatch):
    loop = film_loop(tmp_path, monkeypatch, every=2, keep=2)
    seen = media(loop)
    for step in (10, 20, 30, 40, 50, 60, 70):
        loop.clocks.env_step = step
        loop.call("on_validation_end", metrics={}, episodes=[])
    loop.call("on_train_end")
    loop.call("on_train_end")
    stems = [path.name for _, path in seen]
    assert stems == [f"{step:010d}-episode.mp4" for step in (10, 30, 50, 70)]
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == stems[-2:]
    assert iio.imread(seen[-1][1]).shape == (6, 48, 64, 3)
    assert loop.env_factory.closed == 4


def test_folders_among_the_films_are_left_alone(tmp_path, monkeypatch):
    loop = film_loop(tmp_path, monkeypatch, every=1, keep=1)
    (tmp_path / "videos" / "0000000005-mine").mkdir(parents=True)
    for step in (10, 20):
        loop.clocks.env_step = step
        loop.call("on_validation_end", metrics={}, episodes=[])
    left = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert left == ["0000000005-mine", "0000000020-episode.mp4"]


def test_no_gl_no_film_no_complaint(tmp_path, monkeypatch, capsys):
    loop = film_loop(tmp_path, monkeypatch, gl=False, every=1)
    loop.call("on_validation_end", metrics={}, episodes=[])
    assert not (tmp_path / "videos").exists()
    assert capsys.readouterr().err == ""
    assert loop.env_factory.closed == 1


def test_a_video_is_never_worth_the_run(tmp_path, monkeypatch, capsys):
    loop = film_loop(tmp_path, monkeypatch, every=1)
    monkeypatch.setattr(loop.env_factory, "frame", lambda env: 1 / 0)
    loop.call("on_validation_end", metrics={}, episodes=[])
    loop.call("on_validation_end", metrics={}, episodes=[])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_films_leave_random_states_alone(tmp_path, monkeypatch):
    loop = film_loop(tmp_path, monkeypatch, every=1)
    before = torch.get_rng_state()
    monkeypatch.setattr(loop.env_factory, "frame", lambda env: torch.rand(1) and None)
    loop.call("on_validation_end", metrics={}, episodes=[])
    assert torch.equal(before, torch.get_rng_state())


# the curve


def write_rows(path: Path, episodes: int = 60, evaluations: bool = True) -> None:
    random = np.random.default_rng(0)
    file = RowFile(path)
    for i in range(1, episodes + 1):
        step = i * 500
        level = 40 + 900 / (1 + np.exp(-(i - 30) / 6))
        clocks = {"env_step": step, "agent_step": step // 2, "update": step // 4, "seconds": i}
        file.append({**clocks, "episode/score": level + random.normal() * 60})
        if evaluations and i % 10 == 0:
            file.append({**clocks, "eval/greedy_score": level + 40, "eval/sampled_score": level})


def test_learning_curve(tmp_path):
    write_rows(tmp_path / METRICS)
    path = learning_curve(tmp_path, random_score=43, title="walker_walk")
    assert path == tmp_path / "plots" / "learning_curve.png"
    picture = iio.imread(path)
    assert picture.shape[1] > 900
    assert 0.01 < (picture[..., :3] < 200).any(-1).mean() < 0.2
    assert list(path.parent.iterdir()) == [path]


def test_learning_curve_of_several_runs(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / METRICS, evaluations=False)
    path = learning_curve({"seed 0": tmp_path / "a", "seed 1": tmp_path / "b"}, path=tmp_path / "curves.png")
    assert path.stat().st_size > 10_000


def test_curve_of_an_empty_run_is_none(tmp_path, capsys):
    RowFile(tmp_path / METRICS).append({"env_step": 4})
    assert learning_curve(tmp_path) is None
    loop = FakeLoop(tmp_path, [Curve()])
    seen = media(loop)
    loop.call("on_train_end")
    loop.call("on_fit_end")
    assert seen == []
    assert capsys.readouterr() == ("", "")


def test_curve_at_the_end_of_training(tmp_path, capsys):
    write_rows(tmp_path / METRICS)
    loop = FakeLoop(tmp_path, [Curve(random_score=43.0)])
    seen = media(loop)
    loop.call("on_train_end")
    loop.call("on_fit_end")
    assert seen == [("plots/learning_curve", tmp_path / "plots" / "learning_curve.png")]
    assert capsys.readouterr().out == f"learning curve: {seen[0][1]}\n"


# house rules


def test_only_tracking_imports_wandb():
    for path in SOURCES.rglob("*.py"):
        modules = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
        assert "wandb" not in modules or path.name == "tracking.py", path


def test_a_users_callback_needs_only_its_own_hooks(tmp_path):
    class Count(Callback):
        seen = 0

        def on_train_batch_end(self, metrics):
            self.seen += "loss/model" in metrics

    loop = FakeLoop(tmp_path, [Count()])
    for _ in range(6):
        loop.round()
    assert loop.callbacks[0].seen == loop.clocks.update > 0


def test_a_full_disk_under_the_log_file_does_not_end_the_run():
    """Found by benchmarks/faults: the line that tells of the full disk was what killed the run."""
    full = open("/dev/full", "w")  # noqa: SIM115 (to close it fails, too)
    with contextlib.redirect_stdout(full), contextlib.redirect_stderr(full):
        with pytest.raises(OSError, match="No space left"):
            print("env steps 1", flush=True)
        warn("checkpoint not written")
        tell("env steps 2")
    with contextlib.suppress(OSError):
        full.close()


# memory


HOLES = """
import os, torch
from dreamer_lightning.callbacks import Memory
from dreamer_lightning.kernels.process import keep_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

keep_memory()
many = [torch.ones(25_000) for _ in range(2000)]  # 200 MB
many = many[-1:]  # keeps the heap from shrinking at its end
before = resident()
Memory().on_validation_end()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_free_pages_go_back_after_an_evaluation():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 150

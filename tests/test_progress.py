"""The bar, the lines without a terminal, and the closing table."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from dreamer_lightning.callbacks import Progress
from dreamer_lightning.callbacks.progress import clock, fraction
from fakes import FakeLoop


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
        "returns 20 40, left 3:10, env steps 240, updates 120, 2.0 updates/s, collect 0%, train 75%",
        "returns 60 80 100, left 2:10, env steps 480, updates 240, 2.0 updates/s, collect 0%, train 75%",
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
        (140, "0.0 updates/s, collect 0%, train 0%"),
        (120, "updates 250,000, 0.0 updates/s"),
        (80, "left 2:46:39, env steps 500,000"),
        (60, "left 2:46:39"),
        (46, "returns 900 900 900"),
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
    assert line.index("\u2501" * 9) < line.index(" 50% returns 900 900 900"), "a bar, how much of it, the returns"
    assert line.rstrip().endswith(last)
    assert len(line) <= width


def test_it_says_what_it_does_before_between_and_after_updates(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    progress = Progress()
    loop = FakeLoop(tmp_path, [progress], env_steps=1000)
    loop.ratio.learning = False
    seen = []

    def text(hook: str, **kwargs) -> None:
        loop.call(hook, **kwargs)
        seen.append(progress.bar.tasks[0].fields["text"].partition(",")[0])

    text("on_fit_start")
    loop.ratio.learning, loop.clocks.update = True, 1
    progress.returns.append(7.0)
    for hook in ("on_validation_start", "on_validation_end", "on_train_end"):
        text(hook, **({"metrics": {}, "episodes": []} if hook == "on_validation_end" else {}))
    loop.call("on_fit_end")
    assert seen == ["playing the first steps", "evaluating", "returns 7", "saving"]
    assert progress.bar is None


def test_a_log_is_told_more_rarely_as_time_goes_on(tmp_path, capsys, monkeypatch):
    loop = FakeLoop(tmp_path, [Progress()], env_steps=100_000)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    loop.call("on_fit_start")
    for _ in range(1200):  # ten hours
        now[0] += 30.0
        loop.call("on_collect_end", wire=None)
    loop.call("on_validation_start")
    lines = capsys.readouterr().out.splitlines()
    assert 60 < len(lines) < 90
    assert "\u2501" not in "".join(lines)


def test_a_notebook_has_one_line_that_is_written_again(tmp_path, monkeypatch, capsys):
    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(
        sys.modules,
        "IPython.display",
        SimpleNamespace(display=lambda data, raw, display_id: shown.append("") or handle),
    )
    loop = FakeLoop(tmp_path, [Progress()], env_steps=1000)
    loop.call("on_fit_start")
    loop.clocks.env_step = 500
    loop.call("on_validation_start")
    assert shown[-1] == "\u2588" * 10 + "\u2591" * 10 + "  50% evaluating, left 0:00, env steps 500"
    assert capsys.readouterr().out == ""
    loop.call("on_fit_end")
    assert "Summary" in capsys.readouterr().out


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

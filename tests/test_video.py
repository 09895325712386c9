"""Films of evaluations."""

from __future__ import annotations

from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from dreamer_lightning.callbacks import Video
from fakes import FakeLoop, media


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


def test_a_film_that_cannot_be_drawn_is_told_and_not_tried_again(tmp_path, monkeypatch, capsys):
    loop = film_loop(tmp_path, monkeypatch, gl=False, every=1)
    loop.env_factory.no_picture = "pygame is not installed"
    for _ in range(2):
        loop.call("on_validation_end", metrics={}, episodes=[])
    assert capsys.readouterr().err == "warning: no film of episodes: pygame is not installed\n"
    assert loop.env_factory.closed == 1


def test_films_leave_random_states_alone(tmp_path, monkeypatch):
    loop = film_loop(tmp_path, monkeypatch, every=1)
    before = torch.get_rng_state()
    monkeypatch.setattr(loop.env_factory, "frame", lambda env: torch.rand(1) and None)
    loop.call("on_validation_end", metrics={}, episodes=[])
    assert torch.equal(before, torch.get_rng_state())

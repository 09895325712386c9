"""Pictures of open loops."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest

from clockwork import SPECS, PerfectDreamer, play
from dreamer_lightning.envs.pictures import drawn
from dreamer_lightning.evaluation import pictures
from dreamer_lightning.evaluation.openloop import open_loop


def test_pictures(tmp_path):
    (episode,) = play(end=20, terminal=True, episodes=1, num_envs=1)
    dream = open_loop(PerfectDreamer(20, True), episode, context=5, length=10, samples=3)
    assert pictures.image_keys(SPECS, dream) == ["image"]
    video = pictures.dream_video([dream], "image", scale=1, named=False)
    assert video.shape == (15, 3 * 12, 3 * 12, 3)
    assert tuple(video[4, 0, 0]) == pictures.GREEN
    assert tuple(video[5, 0, 0]) == pictures.RED
    assert video[7, 2 * 12 + 6, 6].tolist() == [128, 128, 128]  # no error is grey
    path = pictures.write_video(tmp_path / "videos" / "dream.mp4", video)
    assert path.stat().st_size > 500


def test_pictures_say_what_they_show(tmp_path):
    (episode,) = play(end=20, terminal=True, episodes=1, num_envs=1)
    dream = open_loop(PerfectDreamer(20, True), episode, context=5, length=10, samples=3)
    plain, named = (pictures.dream_video([dream], "image", named=named) for named in (False, True))
    left = named.shape[2] - plain.shape[2]
    assert left > 0
    assert np.array_equal(named[:, :, left:], plain)
    for panel in np.split(named[0, :, :left], 3):
        assert (panel < 100).any(), "a name in black"
        assert (panel[:20] > 200).all(), "in the middle of its row"
    (axis,) = pictures.film_strip(dream, "image", count=3).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["truth", "model", "error"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["-4", "3", "10"]
    assert axis.get_xlabel() == "agent steps from now"
    assert axis.images[0].get_array().shape[:2] == (plain.shape[1], plain.shape[2])  # three moments, one future each
    figure = pictures.dream_figure(SPECS, dream)
    labels = [axis.get_xlabel() for axis in figure.axes if axis.get_visible()]
    assert labels == ["", "", *["agent steps from now"] * 3]
    path = pictures.save_figure(tmp_path / "plots" / "dream.png", figure)
    assert path.stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of imageio's reader, which leaves its pipes to the collector
def test_frames_of_other_sizes_are_resized_and_single_pixels_are_no_film(tmp_path):
    frames = [np.full((20 + i, 31, 3), 9 * i, np.uint8) for i in range(5)]
    path = pictures.write_video(tmp_path / "film.mp4", frames)
    assert iio.imread(path).shape == (5, 20, 30, 3)
    with pytest.raises(ValueError, match="a film of 1 by 1 pixels"):
        pictures.write_video(path, [np.zeros((1, 1, 3), np.uint8)] * 3)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (np.full((4, 5, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((4, 5), 7, np.uint8), [7, 7, 7]),
        (np.full((4, 5, 4), 7, np.uint8), [7, 7, 7]),
        (np.full((4, 5, 3), 0.5), [128, 128, 128]),
        (np.full((4, 5, 1), 200.4, np.float32), [200, 200, 200]),
        (np.full((4, 5), 300), [255, 255, 255]),
        (np.full((4, 5), True), [255, 255, 255]),
    ],
)
def test_what_is_drawn_becomes_a_picture(given, seen):
    picture = drawn(given)
    assert (picture.dtype, picture.shape) == (np.uint8, (4, 5, 3))
    assert picture[0, 0].tolist() == seen


@pytest.mark.parametrize("given", [np.zeros((0, 0, 3)), np.zeros((4, 5, 2)), "text", [None], np.zeros(3)])
def test_what_is_no_picture_is_refused(given):
    with pytest.raises(ValueError, match="its picture is"):
        drawn(given)

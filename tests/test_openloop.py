"""Open loop: seen steps, then a dream."""

from __future__ import annotations

import numpy as np

from clockwork import PerfectDreamer, play
from dreamer_lightning.evaluation.openloop import open_loop


def test_open_loop_joins_seen_steps_and_dream_and_goes_on_past_the_end():
    (episode,) = play(end=20, terminal=True, episodes=1, num_envs=1)
    dream = open_loop(PerfectDreamer(20, True), episode, start=3, context=5, length=30, samples=2)
    assert dream.decoded["clock"].shape == (2, 35, 2)
    np.testing.assert_allclose(dream.decoded["clock"][1, :, 0], np.arange(3, 38))
    np.testing.assert_allclose(dream.seen["clock"][:18, 0], np.arange(3, 21))
    assert np.isnan(dream.seen["clock"][18:]).all()
    np.testing.assert_allclose(dream.truth["cont"][16:18], [1, 0])
    np.testing.assert_allclose(dream.dream["cont"][0, :18], dream.truth["cont"][:18], atol=1e-6)
    np.testing.assert_allclose(dream.decoded["image"][0, :18], dream.seen["image"][:18], atol=1e-6)

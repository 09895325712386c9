"""Whole episodes, in step with their actions and latents."""

from __future__ import annotations

import numpy as np
import pytest

from clockwork import Clocks, PerfectDreamer, play
from dreamer_lightning.evaluation.rollout import rollout


def test_rollout_aligns_time_and_splits_the_episodes_between_environments():
    episodes = play(end=7, terminal=True)
    assert [episode.length for episode in episodes] == [7, 7, 7]
    for episode in episodes:
        np.testing.assert_allclose(episode.obs["clock"][:, 0], np.arange(8))
        np.testing.assert_allclose(episode.reward, 0.1 * np.arange(8), rtol=1e-6)
        np.testing.assert_allclose(episode.latent["deter"][:, 0], np.arange(8))
        np.testing.assert_allclose(episode.latent["deter"][1:, 1], episode.action[:, 0])
        np.testing.assert_allclose(episode.state(3)["prev_action"], episode.action[2])
        np.testing.assert_allclose(episode.state(0)["prev_action"], 0)
        assert episode.score == pytest.approx(2.8)
        assert episode.terminated
        assert episode.obs["image"].dtype == np.uint8


def test_rollout_of_one_unbatched_environment_with_pictures_and_limits():
    env = Clocks(30, False).make(0)
    picture = np.zeros((4, 4, 3), np.uint8)
    episode, second = rollout(PerfectDreamer(30, False), env, 2, True, keep=5, frame=lambda env: picture)
    assert (episode.length, episode.kept, len(episode.frames)) == (30, 5, 30)
    assert not episode.action.any()  # the greedy action of this agent
    assert rollout(PerfectDreamer(30, False), Clocks(30, False).make(0), 1, False)[0].action.any()
    assert not episode.terminated
    assert episode.last["deter"][0] == 30
    assert second.length == 30
    (cut,) = rollout(PerfectDreamer(30, False), Clocks(30, False).make(0), 1, True, max_length=4)
    assert (cut.length, cut.terminated) == (4, False)
    assert (cut.cut, second.cut) == (True, False)


def test_a_rollout_that_is_stopped_returns_what_has_ended():
    asked = iter([False] * 9 + [True])
    assert [episode.length for episode in play(end=7, terminal=True, stopped=lambda: next(asked))] == [7, 7]

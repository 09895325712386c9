"""Whether dreams are as uncertain as they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clockwork import PerfectDreamer, play
from dreamer_lightning.evaluation.coverage import coverage, inside
from dreamer_lightning.evaluation.gap import choose_starts


def test_the_band_of_many_futures_by_hand():
    """Of 99 futures 1 to 99, a hundredth of what comes lies between two of them: the band goes from 5 to 95."""
    futures = np.arange(1.0, 100.0)[None, :, None]
    real = np.array([[5.0], [95.0], [50.0], [4.9], [95.1]])
    assert inside(real, futures.repeat(5, 0))[:, 0].tolist() == [True, True, True, False, False]
    draws = np.random.default_rng(0).normal(size=(20_000, 33, 1))
    assert inside(draws[:, 0], draws[:, 1:]).mean() == pytest.approx(0.9, abs=0.01)


class VagueDreamer(PerfectDreamer):
    """Dreams rewards with the right mean, drawn from a normal of some width; its clock is never late."""

    def __init__(self, width: float):
        super().__init__(60, False)
        self.width, self.widest = width, 0

    def imagine(self, state, length, actions=None, generator=None, decode=True):
        imagined = super().imagine(state, length, actions, generator, decode)
        self.widest = max(self.widest, len(imagined.reward))
        noise = self.width * torch.randn(imagined.reward.shape, generator=generator)
        return imagined._replace(reward=imagined.reward + noise)


def test_coverage_says_whether_dreams_are_too_certain():
    episodes = play(end=60, terminal=False)
    starts = choose_starts(episodes, 30)
    perfect = coverage(PerfectDreamer(60, False), starts)
    assert perfect == {f"openloop/coverage@{k}": 1.0 for k in (1, 5, 15, 50)}
    wrong = coverage(PerfectDreamer(60, False, bias=1.0), starts)
    assert set(wrong.values()) == {2 / 3}, "both entries of the clock are right, the reward never is"
    dreamer = VagueDreamer(0.5)
    vague = coverage(dreamer, starts, torch.Generator().manual_seed(0))
    assert dreamer.widest == 16 * 32
    assert min(vague.values()) == 1.0, "the mean is always inside"
    (short,) = play(end=4, terminal=True, episodes=1, num_envs=1)
    assert set(coverage(PerfectDreamer(4, True), choose_starts([short], 4))) == {"openloop/coverage@1"}

"""Dream against reality: returns by hand, and the alarm."""

from __future__ import annotations

import numpy as np
import pytest

from clockwork import GAMMA, play
from dreamer_lightning.evaluation.gap import GapAlarm, choose_starts, dreamed_returns, real_returns


def test_returns_by_hand():
    (episode,) = play(end=4, terminal=True, episodes=1, num_envs=1)
    starts = choose_starts([episode], 4)
    assert [start.time for start in starts] == [0, 1, 2, 3]
    expected = 0.1 + GAMMA * 0.2
    assert real_returns(starts, GAMMA, 2)[0] == pytest.approx(expected, rel=1e-6)
    assert real_returns(starts, GAMMA)[2] == pytest.approx(0.3 + GAMMA * 0.4, rel=1e-6)
    reward, survive = np.array([[9.0, 1.0, 2.0, 4.0]]), np.array([[0.1, 0.5, 0.25, 9.0]])
    assert dreamed_returns(reward, survive, 3)[0] == pytest.approx(1 + 0.5 * 2 + 0.125 * 4)


def test_the_alarm_counts_evaluations_running_and_survives_a_checkpoint():
    bad, good = {"gap/return": 3.0, "gap/real_return": 4.0}, {"gap/return": 1.0, "gap/real_return": 4.0}
    alarm = GapAlarm()
    assert not any(alarm.update(metrics) for metrics in (bad, bad, good, bad, bad))
    resumed = GapAlarm()
    resumed.load_state_dict(alarm.state_dict())
    assert resumed.update(bad)
    assert not any(GapAlarm(3.5).update(bad) for _ in range(3))

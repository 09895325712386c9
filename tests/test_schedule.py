"""Updates owed and cadences, for steps made by hand."""

import pytest

from dreamer_lightning.migration import loop_state
from dreamer_lightning.schedule import Clocks, Every, Limits, Ratio


def paid(ratio: Ratio) -> int:
    """Make the updates that are due; returns how many these were."""
    made = 0
    while ratio.due:
        ratio.pay()
        made += 1
    return made


def played(ratio: Ratio, *steps: int) -> list[int]:
    """Updates made after each of these numbers of agent steps."""
    made = []
    for count in steps:
        ratio.play(count)
        made.append(paid(ratio))
    return made


# ratio


def test_updates_owed_are_steps_times_ratio_over_the_batch():
    ratio = Ratio(train_ratio=32, batch_steps=128, learning=True)  # an update for every four steps
    assert played(ratio, 4, 4, 8, 1, 1, 1, 1) == [1, 1, 2, 0, 0, 0, 1]
    assert ratio.owed == 0


def test_fractions_of_an_update_are_carried_over():
    ratio = Ratio(train_ratio=48, batch_steps=128, learning=True)  # 3/8 of an update a step
    assert played(ratio, *[1] * 8) == [0, 0, 1, 0, 0, 1, 0, 1]


def test_more_than_one_update_a_step():
    assert played(Ratio(train_ratio=1024, batch_steps=256, learning=True), 1, 2) == [4, 8]


def test_a_burst_waits_until_all_of_it_is_owed():
    ratio = Ratio(train_ratio=128, batch_steps=128, burst=3, learning=True)
    assert played(ratio, 2, 1, 1, 3) == [0, 3, 0, 4]


def test_what_was_played_before_learning_began_is_not_made_up_for():
    ratio = Ratio(train_ratio=128, batch_steps=128)
    ratio.begin(updates=0)
    assert paid(ratio) == 0
    assert played(ratio, 1) == [1]


@pytest.mark.parametrize(("before", "made"), [(0, 5), (7, 0)])
def test_learning_begins_with_the_pretraining_of_a_run_that_has_made_no_update_yet(before, made):
    ratio = Ratio(train_ratio=128, batch_steps=128, pretrain=5, burst=8)
    ratio.begin(before)
    assert paid(ratio) == made
    assert ratio.owed == 0


def test_a_ratio_that_was_saved_between_two_updates_goes_on_with_the_second():
    ratio = Ratio(train_ratio=128, batch_steps=128, burst=3, learning=True)
    ratio.play(3)
    ratio.pay()
    again = Ratio(train_ratio=128, batch_steps=128, burst=3)
    again.load_state_dict(ratio.state_dict())
    assert again == ratio
    assert paid(again) == 2
    again.wait()
    assert again.state_dict() == {"learning": False, "owed": 0.0, "due": False}


# cadences


def happened(every: Every, *clock: int) -> list[int]:
    """The times among these when it was due, and done."""
    times = []
    for now in clock:
        if every.due(now):
            every.done(now)
            times.append(now)
    return times


def test_a_cadence_is_due_at_the_first_chance_after_each_multiple():
    assert happened(Every(10), *range(0, 40, 4)) == [12, 20, 32]
    assert happened(Every(10), 9, 10, 11, 20, 57, 58, 60) == [10, 20, 57, 60]
    assert happened(Every(1), 1, 2, 3) == [1, 2, 3]


def test_what_happens_out_of_turn_moves_no_multiple():
    every = Every(10)
    every.done(14)
    assert happened(every, 16, 20) == [20]


def test_zero_is_never():
    assert happened(Every(0), 1, 100) == []


def test_a_cadence_goes_on_after_a_resume():
    again = Every(10)
    again.load_state_dict(Every(10, last=27).state_dict())
    assert happened(again, 28, 30) == [30]


# limits


def test_the_first_limit_that_is_reached_is_named():
    limits = Limits(env_steps=100, updates=10, max_time=60.0)
    assert limits.reached(Clocks(99, 50, 9, 59.9)) is None
    assert limits.reached(Clocks(100, 50, 10, 0.0)) == "env_steps"
    assert limits.reached(Clocks(0, 0, 10, 60.0)) == "updates"
    assert limits.reached(Clocks(0, 0, 0, 60.0)) == "max_time"
    assert Limits().reached(Clocks(10**9, 10**9, 10**9, 1e9)) is None


# checkpoints of earlier versions


def test_loose_numbers_of_earlier_checkpoints_become_ratio_and_cadences():
    old = {"clocks": {}, "credit": 0.5, "paying": False, "learning": True, "cadence": [400, 500, 390]}
    new = loop_state(old)
    assert new["ratio"] == {"learning": True, "owed": 0.5, "due": False}
    rows, evaluations = Every(50), Every(100)
    rows.load_state_dict(new["log_every"])
    evaluations.load_state_dict(new["evaluate_every"])
    assert [now for now in range(390, 420, 5) if rows.due(now)] == [400, 405, 410, 415]
    assert evaluations.last == 390
    assert loop_state(new) == new
    assert "cadence" in old


def test_the_oldest_checkpoints_know_neither_the_last_evaluation_nor_updates_that_are_due():
    new = loop_state({"credit": 0.0, "learning": False, "cadence": [400, 500]})
    assert new["ratio"]["due"] is False
    evaluations = Every(100)
    evaluations.load_state_dict(new["evaluate_every"])
    assert [now for now in (440, 499, 500) if evaluations.due(now)] == [500]

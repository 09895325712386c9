"""Evaluations of an agent that knows the world, and of one that promises too much."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clockwork import GAMMA, Clock, Clocks, PerfectDreamer, play
from dreamer_lightning.envs.atari import Atari
from dreamer_lightning.envs.batched import batch_of, make_batched
from dreamer_lightning.evaluation.evaluator import Evaluator, compare
from dreamer_lightning.evaluation.gap import choose_starts, real_returns
from dreamer_lightning.types import Occupied


@pytest.mark.parametrize("terminal", [True, False])
def test_a_perfect_model_has_no_gap_and_no_error(terminal):
    episodes = play(end=60, terminal=terminal)
    metrics = compare(PerfectDreamer(60, terminal), episodes, 30, None)
    names = [name for name in metrics if name.startswith("openloop/") or "return" in name and "real" not in name]
    expected = {f"gap/{name}@{k}" for name in ("return", "return_actions") for k in (15, 50)} | {"gap/return"}
    expected |= {f"openloop/{x}_error@{k}" for x in ("clock", "image", "reward", "cont") for k in (1, 5, 15, 50)}
    assert expected == set(names)
    if terminal:  # past the end the world pays nothing, and the dream knows
        assert [name for name in names if abs(metrics[name]) > 1e-4] == []
    starts = choose_starts(episodes, 30)
    tail = np.array([0 if terminal else 7.0 * GAMMA ** (60 - start.time) for start in starts])
    assert metrics["gap/value"] == pytest.approx((7 - real_returns(starts, GAMMA) - tail).mean(), rel=1e-5)


def test_short_episodes_skip_what_they_cannot_tell():
    metrics = compare(PerfectDreamer(8, False), play(end=8, terminal=False), 30, None)
    assert "gap/return@15" not in metrics
    assert "openloop/clock_error@5" in metrics
    assert "openloop/clock_error@15" not in metrics
    assert metrics["gap/return"] == pytest.approx(0, abs=1e-5)
    terminated = compare(PerfectDreamer(8, True), play(end=8, terminal=True), 30, None)
    assert terminated["gap/return@50"] == pytest.approx(0, abs=1e-5)


def test_a_biased_dream_raises_one_warning_at_the_third_evaluation(caplog):
    evaluator = Evaluator(Clocks(60, True), episodes=2, starts=8)
    random = torch.get_rng_state()
    results = [evaluator.evaluate(PerfectDreamer(60, True, bias=5.0)) for _ in range(5)]
    assert torch.equal(random, torch.get_rng_state())
    assert [metrics["gap/alarm"] for metrics, _ in results] == [0, 0, 1, 0, 0]
    assert [record.message.split(":")[0] for record in caplog.records] == ["gap/return"]
    assert all(option in caplog.text for option in ("imag_length", "value_aware", "train_ratio"))
    metrics, episodes = results[0]
    assert metrics["eval/greedy_score"] == metrics["eval/sampled_score"] == pytest.approx(183.0)
    assert [episode.greedy for episode in episodes] == [True, True, False, False]
    assert metrics == {**results[1].metrics}


def test_lengths_are_env_steps_and_nothing_else_is_changed_by_the_repeat():
    once, thrice = (
        Evaluator(Clocks(60, True, repeat=repeat), episodes=2, starts=8).evaluate(PerfectDreamer(60, True)).metrics
        for repeat in (1, 3)
    )
    names = ("eval/greedy_length", "eval/sampled_length")
    assert [once[name] for name in names] == [60, 60]
    assert [thrice[name] for name in names] == [180, 180]
    assert once == {**thrice, **{name: once[name] for name in names}}


def test_episodes_that_never_end_are_cut_and_that_is_said_once(caplog):
    evaluator = Evaluator(Clocks(60, True), episodes=2, starts=8, max_length=20)
    for _ in range(2):
        assert evaluator.evaluate(PerfectDreamer(60, True)).metrics["eval/greedy_length"] == 20
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "evaluation: an episode had not ended after 20 agent steps and was cut there"
    ]
    assert Evaluator(Clocks(60, True)).max_length == 10_000
    assert Evaluator(Atari("pong")).max_length == 27_000  # its own limit is the larger one


def test_an_evaluation_that_is_stopped_has_no_result():
    asked = iter([False] * 70 + [True] * 9)  # in the sampled episodes
    evaluator = Evaluator(Clocks(60, True), episodes=1, stopped=lambda: next(asked))
    assert evaluator.evaluate(PerfectDreamer(60, True)) is None
    assert evaluator.state_dict() == {"count": 0, "warned": 0}


class Robot(Clocks):
    """There is one."""

    made = held = 0

    def make(self, seed, pixels_for_video=False):
        if self.held:
            raise OSError("the robot is in use")
        self.made, self.held = self.made + 1, 1
        return Arm(self)


class Arm(Clock):
    def __init__(self, robot):
        super().__init__(robot.end, robot.terminal)
        self.is_closed = False
        self.robot = [robot]

    def close(self, *, raise_if_closed=True):
        self.robot[0].held = 0


def test_what_is_there_once_is_played_in_by_all(caplog):
    robot, still = Robot(60, True), torch.zeros(1, 3)
    training = make_batched(robot, 1, 0)
    evaluator = Evaluator(robot, episodes=2, starts=8, lender=batch_of(training))
    state = training.reset()
    for _ in range(3):
        after, state = training.step_and_maybe_reset(state.set("action", still))
    for _ in range(2):
        metrics = evaluator.evaluate(PerfectDreamer(60, True)).metrics
        assert metrics["eval/greedy_score"] == pytest.approx(183.0)
    after, state = training.step_and_maybe_reset(state.set("action", still))
    after = after["next"]
    assert (after["clock"][0, 0], after["reward"].item()) == (3, 0)  # the episode that was playing is cut
    assert (after["done"].item(), after["terminated"].item(), state["clock"][0, 0]) == (True, False, 0)
    assert training.step_and_maybe_reset(state.set("action", still))[0]["next", "clock"][0, 0] == 1
    assert (robot.made, robot.held) == (1, 1)
    assert [record.message.split("(")[0] for record in caplog.records] == [
        "evaluation: no environment can be opened beside that of training "
    ]


def test_what_is_there_once_beside_nothing():
    robot = Robot(60, True)
    with pytest.raises(Occupied, match="OSError: the robot is in use.*--num_envs 1"):
        make_batched(robot, 2, 0)
    assert not robot.held
    assert Evaluator(robot, episodes=2, starts=8).evaluate(PerfectDreamer(60, True)).metrics["eval/greedy_length"] == 60
    training = make_batched(robot, 1, 0)
    with pytest.raises(OSError, match="in use"):
        Evaluator(robot, episodes=1).evaluate(PerfectDreamer(60, True))
    training.close()

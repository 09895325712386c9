"""Collecting in the background: the same steps in the same order, one batch ahead, with weights one batch old."""

from __future__ import annotations

import threading

import pytest
import torch

import tiny
from dreamer_lightning.data.overlap import Overlap, copier
from test_collect import collect
from test_records import start

CPU = torch.device("cpu")


def overlapped(collector, refresh=lambda: None):
    return Overlap(lambda: collector, refresh, CPU)


def test_the_records_are_those_of_a_plain_collector():
    plain, background = start((7, 3), (False, True), envs=2, steps=2), start((7, 3), (False, True), envs=2, steps=2)
    ahead = overlapped(background)
    ours, theirs = collect(ahead, 12)[0], collect(plain, 12)[0]
    for one, two in zip(ours, theirs, strict=True):
        assert (one == two).all()
    assert ahead.policy is background.policy  # everything else is passed through
    ahead.shutdown()
    plain.shutdown()


def test_it_plays_while_the_caller_holds_a_batch_and_never_more_than_one_ahead():
    begun, go, played = threading.Event(), threading.Event(), []

    class Slow:
        def __iter__(self):
            for batch in range(9):
                if batch:
                    begun.set()
                    assert go.wait(20)
                played.append((batch, threading.current_thread() is threading.main_thread()))
                yield batch

    refreshed = []
    batches = iter(overlapped(Slow(), lambda: refreshed.append(len(played))))
    assert next(batches) == 0
    assert begun.wait(20)  # the second batch is on its way while we hold the first
    go.set()
    assert [next(batches), next(batches)] == [1, 2]
    assert played[:3] == [(0, False), (1, False), (2, False)]
    assert refreshed == [1, 2, 3]  # weights change between batches only


def test_pictures_are_drawn_where_the_first_was():
    """OpenGL's context belongs to one thread, in which environments are made, reset and played."""
    seen = []

    def make():
        seen.append(threading.current_thread())
        return Threads()

    class Threads:
        def __iter__(self):
            while True:
                yield threading.current_thread()

    batches = iter(Overlap(make, lambda: None, CPU))
    assert {next(batches), next(batches), *seen} == set(seen)
    assert seen != [threading.main_thread()]


def test_a_failure_in_the_background_reaches_the_caller():
    def broken():
        yield 1
        raise RuntimeError("the simulator is gone")

    batches = iter(overlapped(broken()))
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match="the simulator is gone"):
        next(batches)


def test_the_actor_gets_the_weights_when_asked():
    learner, actor = tiny.agent(), tiny.agent()
    refresh = copier(learner, actor)
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(1)
    state = actor.state_dict()
    assert not any(torch.equal(p, state[name]) for name, p in learner.named_parameters())
    refresh()
    assert all(torch.equal(value, state[name]) for name, value in learner.state_dict().items())

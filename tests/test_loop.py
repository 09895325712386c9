"""The loop's ends: what is evaluated and written when a run stops."""

from types import SimpleNamespace

import pytest
from lightning.fabric import Fabric

import tiny
from dreamer_lightning.loop import Loop
from dreamer_lightning.schedule import Every, Limits, Ratio


def make(tmp_path, every=100):
    rows, evaluated = [], []

    class Rows:
        def on_log(self, loop, row):
            rows.append(row)

    def evaluate(dreamer):
        evaluated.append(1)
        return {"eval/greedy_score": 1.0}, []

    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[Rows()])
    loop = Loop(
        fabric=fabric,
        dreamer=tiny.agent(),
        update=SimpleNamespace(optimizer=SimpleNamespace(param_groups=[])),
        collector=None,
        replay=SimpleNamespace(steps=0),
        env_factory=None,
        ratio=Ratio(),
        limits=Limits(),
        run_dir=tmp_path,
        evaluate_every=Every(every),
        evaluate=evaluate,
    )
    return loop, rows, evaluated


@pytest.mark.parametrize(
    ("reason", "env_step", "last", "evaluations"),
    [
        ("max_time", 390, 300, 1),  # the last evaluation is 90 of 100 steps old
        ("env_steps", 60, 0, 1),  # none yet
        ("max_time", 340, 300, 0),  # a fresh one
        ("updates", 300, 300, 0),  # this very step
        ("SIGTERM", 390, 300, 0),  # who asks for an end now gets it now
    ],
)
def test_a_run_that_ends_by_a_limit_is_evaluated_once_more(tmp_path, reason, env_step, last, evaluations):
    loop, rows, evaluated = make(tmp_path)
    loop.clocks.env_step = env_step
    loop.evaluate_every.done(last)
    loop.log_every.done(last)
    loop.stop(reason)
    loop.conclude()
    assert len(evaluated) == evaluations
    assert len(rows) == (env_step > last)
    assert all(("eval/greedy_score" in row) == bool(evaluations) and row["env_step"] == env_step for row in rows)


def test_a_run_resumed_at_its_end_is_not_evaluated_again(tmp_path):
    loop, rows, evaluated = make(tmp_path)
    loop.clocks.env_step = 60
    loop.stop("max_time")
    loop.conclude()
    loop.conclude()
    assert len(evaluated) == len(rows) == 1


def test_without_a_schedule_there_is_no_evaluation(tmp_path):
    loop, rows, evaluated = make(tmp_path, every=0)
    loop.clocks.env_step = 500
    loop.stop("env_steps")
    loop.conclude()
    assert not evaluated
    assert len(rows) == 1

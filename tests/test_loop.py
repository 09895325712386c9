"""The loop: what is played and trained in which order, what a bad update may not reach, and how a run ends."""

from types import SimpleNamespace

import pytest
import torch
from lightning.fabric import Fabric

import tiny
from dreamer_lightning import loop as module
from dreamer_lightning.callbacks import Checkpoint
from dreamer_lightning.callbacks.base import LoopView
from dreamer_lightning.loop import Loop
from dreamer_lightning.sanity import Sanity
from dreamer_lightning.schedule import Every, Limits, Ratio
from dreamer_lightning.store import runfolder
from dreamer_lightning.types import BadNumbers
from dreamer_lightning.updates import Update
from fakes import FakeLoop
from test_updates import make as make_update
from test_updates import spoil


class Idle:
    """An update that computes nothing."""

    def __init__(self):
        self.optimizer, self.sanity = SimpleNamespace(param_groups=[]), Sanity()

    def __call__(self):
        return {"loss/total": torch.zeros(())}

    def finish(self):
        pass


def make(tmp_path, every=100, **parts):
    rows, evaluated = [], []

    class Rows:
        def on_log(self, loop, row):
            rows.append(row)

    def evaluate(dreamer):
        evaluated.append(1)
        return {"eval/greedy_score": 1.0}, []

    defaults = {
        "fabric": Fabric(accelerator="cpu", devices=1, callbacks=[Rows()]),
        "dreamer": tiny.agent(),
        "update": Idle(),
        "collector": None,
        "replay": SimpleNamespace(steps=0),
        "env_factory": None,
        "ratio": Ratio(),
        "limits": Limits(),
        "run_dir": tmp_path,
        "evaluate_every": Every(every),
        "evaluate": evaluate,
    }
    return Loop(**{**defaults, **parts}), rows, evaluated


# the order of things


class Steps:
    """An environment of one step a wire, four at a time; and a replay that counts them."""

    requested_frames_per_batch = 4
    repeat = 2

    def __init__(self):
        self.policy, self.steps = SimpleNamespace(explore=None), 0

    def __iter__(self):
        while True:
            yield SimpleNamespace(numel=lambda: 4, shape=(4, 1))

    def __len__(self):
        return self.steps

    def extend(self, records):
        self.steps += 4


class Order:
    """Notes the hooks, and the update's number with each update."""

    def __init__(self):
        self.seen = []

    def on_collect_end(self, loop):
        self.seen.append("collect")

    def on_train_batch_end(self, loop):
        self.seen.append(loop.clocks.update)

    def on_validation_end(self):
        self.seen.append("evaluate")

    def on_log(self):
        self.seen.append("row")

    def on_train_end(self):
        self.seen.append("end")


def run(tmp_path, monkeypatch, ratio, limits, **parts):
    monkeypatch.setattr(module, "to_records", lambda wire, carry: ([], carry))
    monkeypatch.setattr(module, "initial_carry", lambda n: {"n": n})
    order, steps = Order(), Steps()
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[order])
    shared = {"fabric": fabric, "collector": steps, "replay": steps, "env_factory": steps, "ratio": ratio}
    loop, *_ = make(tmp_path, limits=limits, **shared, **parts)
    loop.run()
    return loop, order.seen


def test_the_latest_policy_plays_then_the_updates_that_this_owes_are_made(tmp_path, monkeypatch):
    ratio = Ratio(train_ratio=32, batch_steps=64, learning_starts=8)  # half an update a step
    loop, seen = run(tmp_path, monkeypatch, ratio, Limits(updates=4), evaluate=None)
    assert seen == ["collect", "collect", "collect", 1, 2, "collect", 3, 4, "row", "end"]
    assert (loop.clocks.agent_step, loop.clocks.env_step, loop.clocks.update) == (16, 32, 4)
    assert loop.stop_reason == "updates"


def test_an_evaluation_that_a_signal_cut_off_is_made_first_when_the_run_goes_on(tmp_path):
    metrics = {"eval/greedy_score": 2.0}
    loop, rows, _ = make(tmp_path, every=100, evaluate=lambda dreamer: None)
    loop.clocks.env_step = 150
    loop.report()
    assert (rows, loop.evaluate_every.last) == ([], 0)
    loop, rows, _ = make(tmp_path, every=100, evaluate=lambda dreamer: (metrics, []), limits=Limits(env_steps=150))
    loop.clocks.env_step, loop.collector = 150, []
    loop.run()
    assert [(row["env_step"], row["eval/greedy_score"]) for row in rows] == [(150, 2.0)]


def test_evaluations_and_rows_come_at_the_multiples_of_their_env_steps(tmp_path, monkeypatch):
    ratio = Ratio(train_ratio=32, batch_steps=128, learning_starts=0)
    parts = {"evaluate_every": Every(16), "log_every": Every(24)}
    _, seen = run(tmp_path, monkeypatch, ratio, Limits(env_steps=48), every=None, **parts)
    at_16, at_24, at_32, at_48 = ["evaluate", "row"], ["row"], ["evaluate", "row"], ["evaluate", "row"]
    expected = ["collect", "collect", 1, *at_16, "collect", 2, *at_24, "collect", 3, *at_32]
    assert seen == [*expected, "collect", 4, "collect", *at_48, "end"]  # the limit comes before the fifth update


def test_a_limit_stops_between_two_updates(tmp_path, monkeypatch):
    ratio = Ratio(train_ratio=64, batch_steps=64, learning_starts=0)
    loop, seen = run(tmp_path, monkeypatch, ratio, Limits(updates=2), evaluate=None)
    assert seen == ["collect", "collect", 1, 2, "row", "end"]
    assert loop.ratio.due
    assert loop.ratio.owed == 2


def test_nothing_is_learned_until_the_prefill_is_played(tmp_path, monkeypatch):
    ratio = Ratio(train_ratio=16, batch_steps=64, learning_starts=0, prefill=12, pretrain=3)
    _, seen = run(tmp_path, monkeypatch, ratio, Limits(env_steps=40), evaluate=None)
    assert seen == ["collect", "collect", "collect", 1, 2, 3, "collect", 4, "collect", "row", "end"]


def test_a_callback_sees_what_its_protocol_names(tmp_path):
    assert isinstance(make(tmp_path)[0], LoopView)
    assert isinstance(FakeLoop(tmp_path, []), LoopView)


# bad updates


def learning(tmp_path, late):
    """A loop with a real update, which plays nothing, and its checkpoints."""
    update = make_update(Update, late=late)
    collector = SimpleNamespace(settle=lambda: None, policy=SimpleNamespace(generator=torch.Generator()))
    checkpoint = Checkpoint(replay=False)
    parts = {"fabric": update.fabric, "dreamer": update.dreamer, "replay": update.replay, "callbacks": [checkpoint]}
    return make(tmp_path, update=update, collector=collector, **parts)[0], checkpoint


def train(loop, updates=1):
    loop.ratio.owed, loop.ratio.due = updates, True
    loop.train()


@pytest.mark.parametrize("what", ["loss", "gradient", "normaliser"])
@pytest.mark.parametrize("late", [False, True])
def test_a_bad_update_never_reaches_a_checkpoint(tmp_path, capsys, what, late):
    loop, checkpoint = learning(tmp_path, late)
    train(loop, 2)
    loop.clocks.env_step = 10
    good = checkpoint.save(loop)
    assert good is not None
    spoil(loop.update, what)
    train(loop)
    assert (loop.failure is None) == late  # a late one is not judged yet
    loop.clocks.env_step = 20
    assert checkpoint.save(loop) is None
    checkpoint.on_validation_end(loop, {"eval/greedy_score": 1.0})
    assert not list((tmp_path / "checkpoints").glob("best-*"))
    assert not loop.sound()
    assert isinstance(loop.failure, BadNumbers)
    assert loop.stop_reason == "failure"
    assert capsys.readouterr().err.count("not finite") == 2
    assert runfolder.checkpoints(tmp_path) == [good]


def test_a_checkpoint_holds_the_latents_of_the_update_before_it(tmp_path):
    loop, checkpoint = learning(tmp_path, late=True)
    train(loop)
    assert loop.update.sent is not None
    checkpoint.save(loop)
    assert loop.update.sent is None


def test_after_a_bad_update_nothing_is_evaluated_and_its_name_comes_before_what_it_led_to(tmp_path):
    loop, _ = learning(tmp_path, late=True)
    spoil(loop.update, "loss")
    train(loop)
    with loop.to_the_end():
        raise ZeroDivisionError("an environment that got NaN as an action")
    assert isinstance(loop.failure, BadNumbers)
    loop.clocks.env_step = 100
    loop.report()
    assert loop.evaluate_every.last == 0


# ends


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

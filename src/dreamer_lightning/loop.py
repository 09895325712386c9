"""The algorithm: collect, train by ratio, evaluate; everything else happens in callbacks at its borders.

repeat
    play the latest policy for a few steps in every environment, keep the records
    for each `batch_size * batch_length / train_ratio` agent steps played
        replay a batch, one gradient step on one scalar, write fresher latents back
    on schedule: evaluate in a separate environment, log
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from tensordict import TensorDictBase
from torch import Tensor

from dreamer_lightning import loopstate
from dreamer_lightning.data.records import initial_carry, to_records
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.sanity import Sanity
from dreamer_lightning.schedule import Clocks, Every, Limits, Ratio, Timers
from dreamer_lightning.types import UserError
from dreamer_lightning.updates import Update


@dataclass
class Loop:
    """The training loop over objects that are built already.

    Args:
        fabric: launched Fabric with the callbacks.
        dreamer: the raw agent, which acts; on the device.
        update: one gradient step on one replayed batch.
        collector: iterator of wire TensorDicts [num_envs, steps].
        replay: this rank's records.
        env_factory: names the task and its action repeat.
        ratio: how many updates are owed to the steps that were played.
        limits: where the run ends.
        run_dir: the run folder.
        log_every: how often a row is written, in env steps.
        evaluate_every: how often there is an evaluation, in env steps.
        evaluate: plays and dreams evaluation episodes: (metrics, episodes), or None if it was stopped; None: there are
            no evaluations.
        callbacks: those of ``fabric``.
    """

    fabric: Fabric
    dreamer: Dreamer
    update: Update
    collector: Any
    replay: Replay
    env_factory: EnvFactory
    ratio: Ratio
    limits: Limits
    run_dir: Path
    log_every: Every = field(default_factory=lambda: Every(1000))
    evaluate_every: Every = field(default_factory=lambda: Every(0))
    evaluate: Callable[[Dreamer], Any] | None = None
    callbacks: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.specs, self.clocks = self.dreamer.specs, Clocks()
        self.options = loopstate.options_of(self.update.optimizer)
        self.timers = Timers(collect=0.0, train=0.0, evaluate=0.0, callbacks=0.0)
        self.began = time.perf_counter()
        self.waited = 0.0  # seconds for the answers of other ranks
        self.carry: dict[str, Tensor] | None = None  # of ``to_records``, from one wire to the next
        self.pending: dict[str, Any] = {}  # metrics for the next row
        self.stop_reason: str | None = None
        self.failure: Exception | None = None  # what the run ends with

    # The algorithm.

    def run(self) -> None:
        """Train until a limit is reached or a callback calls ``stop``."""
        self.began = time.perf_counter() - self.clocks.seconds
        self.call("on_fit_start")
        try:
            self.call("on_train_start")
            collector = iter(self.collector)
            if self.clocks.env_step and not self.ratio.due:  # what a signal cut off comes first
                self.report()
            while not self.finished():
                if not self.ratio.due:  # a run that stopped between two updates goes on with the second
                    self.collect(collector)
                self.train()
                self.report()
                self.call("on_iteration_end")
            self.conclude()
            self.call("on_train_end")
            if self.failure:
                raise self.failure
        except BaseException as error:
            self.call("on_exception", error=error)
            raise
        self.call("on_fit_end")

    def collect(self, collector: Iterator[TensorDictBase]) -> None:
        """Play some steps in every environment, keep the records. A failed batch counts too: ranks keep one clock."""
        with self.timers.of("collect"):
            policy, wire = self.collector.policy, None
            policy.env_step, policy.agent_step = self.clocks.env_step, self.clocks.agent_step
            with self.to_the_end():
                wire = next(collector)
            if wire is not None:
                records, self.carry = to_records(wire, self.carry or initial_carry(wire.shape[0]))
                self.replay.extend(records)
        played = self.fabric.world_size * (self.collector.requested_frames_per_batch if wire is None else wire.numel())
        self.clocks.agent_step += played
        self.clocks.env_step += played * self.env_factory.repeat
        self.tick()
        if wire is not None:
            self.log(policy.explore.metrics() if policy.explore else {})
            self.call("on_collect_end", wire=wire)
        if self.ratio.learning:
            self.ratio.play(played)
        elif self.clocks.agent_step >= self.ratio.prefill and self.agreed(self.ratio.enough(len(self.replay)), all):
            self.ratio.begin(self.clocks.update)

    def train(self) -> None:
        """Make the updates that are due."""
        while self.ratio.due and not self.finished():
            self.ratio.pay()
            with self.timers.of("train"):
                metrics = self.update()
            if self.sanity.problem:
                self.fail(self.sanity.problem)
            self.clocks.update += 1
            self.tick()
            self.call("on_train_batch_end", metrics=metrics)

    def report(self) -> None:
        """Evaluate and write a row where it is due."""
        now = self.clocks.env_step
        validate = self.evaluate and self.evaluate_every.due(now) and self.agreed(self.sound(), all)
        if self.validate() if validate else self.log_every.due(now):
            self.flush()

    def conclude(self) -> None:
        """At a limit, evaluate once more if the last time is long ago; write what was not yet logged."""
        every, limit = self.evaluate_every, self.sound() and self.stop_reason in ("env_steps", "updates", "max_time")
        old = self.clocks.env_step - every.last >= every.every / 2
        late = bool(self.evaluate and every.every and old and self.agreed(limit, any))
        if late:
            self.validate()
        if late or self.clocks.env_step > self.log_every.last:
            self.flush()

    def validate(self) -> bool:
        """Play and dream evaluation episodes on rank 0, for the next row; False if that was stopped."""
        self.call("on_validation_start")
        metrics, episodes, stopped = {}, [], False
        with self.timers.of("evaluate"):
            if self.evaluate and self.fabric.is_global_zero:
                self.dreamer.eval()
                with self.fabric.autocast(), self.to_the_end():
                    found = self.evaluate(self.dreamer)
                    stopped = found is None
                    metrics, episodes = found or ({}, [])
                self.dreamer.train()
            stopped = self.agreed(stopped, any)
        self.tick()
        if stopped:
            return False
        self.evaluate_every.done(self.clocks.env_step)
        self.log(metrics)
        self.call("on_validation_end", metrics=metrics, episodes=episodes)
        return True

    # Borders.

    def call(self, hook: str, **kwargs: Any) -> None:
        """Call a hook of every callback that has it, in their order."""
        with self.timers.of("callbacks"):
            self.fabric.call(hook, loop=self, **kwargs)

    def log(self, metrics: dict[str, float | Tensor]) -> None:
        """Add to the next row."""
        self.pending.update(metrics)

    def flush(self) -> None:
        """Hand the row to the callbacks."""
        row, self.pending = {**asdict(self.clocks), **self.pending, "replay/steps": self.replay.steps}, {}
        self.log_every.done(self.clocks.env_step)
        self.call("on_log", row=row)

    def stop(self, reason: str) -> None:
        """End the run after the update at hand."""
        self.stop_reason = self.stop_reason or reason

    @property
    def sanity(self) -> Sanity:
        """What was found about the updates."""
        return self.update.sanity

    def sound(self) -> bool:
        """Whether no bad update is in the weights. Waits for the numbers of the last one; a bad one ends the run."""
        self.update.finish()
        if self.sanity.problem:
            self.fail(self.sanity.problem)
        return not self.sanity.problem

    def fail(self, error: Exception) -> None:
        """End the run after the step at hand, its state saved, and raise this."""
        if isinstance(error, UserError):
            error = type(error)(f"{error} (update {self.clocks.update}, env step {self.clocks.env_step})")
        self.failure = self.failure or error
        self.stop("failure")

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """What fails in here, such as an environment for good, ends the run in good order."""
        try:
            yield
        except Exception as error:
            self.sound()  # bad weights may be the cause
            self.fail(error)

    @property
    def should_stop(self) -> bool:
        return self.stop_reason is not None

    def finished(self) -> bool:
        """Whether a limit is reached or a stop was asked for, on any rank."""
        limit = self.limits.reached(self.clocks)
        if limit:
            self.stop(limit)
        if self.agreed(self.should_stop, any) and not self.should_stop:
            self.stop("another rank stopped")
        return self.should_stop

    def agreed(self, mine: bool, among: Callable[[list[bool]], bool]) -> bool:
        """One answer for all ranks, so that none waits for another in a collective."""
        if self.fabric.world_size == 1:
            return mine
        asked = time.perf_counter()
        votes: Any = self.fabric.all_gather(torch.tensor(mine, device=self.fabric.device))
        answers = votes.flatten().bool().tolist()
        self.waited += time.perf_counter() - asked
        return among(answers)

    def tick(self) -> None:
        self.clocks.seconds = time.perf_counter() - self.began

    # State, for checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Everything of the loop's own that a resumed run needs, in plain tensors and numbers; ask ``sound`` first."""
        return loopstate.loop_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; ``run`` then goes on from there."""
        loopstate.set_loop_state(self, state)

    def rank_state_dict(self) -> dict[str, Any]:
        """What each rank keeps for itself: random states, its environments, what the policy carries, the open row."""
        return loopstate.rank_state(self)

    def load_rank_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Restore what ``rank_state_dict`` gave; returns the environments that begin new episodes instead."""
        return loopstate.set_rank_state(self, state)

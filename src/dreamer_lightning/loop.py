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

from dreamer_lightning.data.collect import playing_state, set_playing_state
from dreamer_lightning.data.records import initial_carry, to_records
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.data.restore import close_streams
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.schedule import Clocks, Limits, Schedule
from dreamer_lightning.store import resume
from dreamer_lightning.types import UserError
from dreamer_lightning.updates import StaticUpdate, Update


@dataclass
class Loop:
    """The training loop over objects that are built already.

    Args:
        fabric: launched Fabric with the callbacks.
        dreamer: the raw agent, which acts; on the device.
        module: the agent as Fabric wrapped it, whose forward trains.
        optimizer: of all parameters, as Fabric wrapped it.
        collector: iterator of wire TensorDicts [num_envs, steps].
        replay: this rank's records.
        env_factory: names the task and its action repeat.
        schedule: ratios and cadences.
        limits: where the run ends.
        run_dir: the run folder.
        evaluate: plays and dreams evaluation episodes: (metrics, episodes).
        seed: of the training noise; every rank draws its own.
        random_score: return of the uniformly random policy, for forecasts and plots.
        static_update: every update works on the same memory: on a GPU it is one CUDA graph.
    """

    fabric: Fabric
    dreamer: Dreamer
    module: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    collector: Any
    replay: Replay
    env_factory: EnvFactory
    schedule: Schedule
    limits: Limits
    run_dir: Path
    evaluate: Callable[[Dreamer], Any] | None = None
    seed: int = 0
    random_score: float | None = None
    callbacks: list[Any] = field(default_factory=list)
    static_update: bool = False

    def __post_init__(self) -> None:
        self.specs = self.dreamer.specs
        self.clocks, self.options = Clocks(), resume.options_of(self.optimizer)
        self.last: dict[str, Any] = {}
        self.timers = {"collect": 0.0, "train": 0.0, "evaluate": 0.0, "callbacks": 0.0}
        self.generator = torch.Generator(self.fabric.device).manual_seed(self.seed * 1009 + self.fabric.global_rank + 1)
        parts = (self.fabric, self.dreamer, self.module, self.optimizer, self.replay, self.generator)
        self.update = (StaticUpdate if self.static_update else Update)(*parts)
        self.credit, self.paying = 0.0, False  # updates owed to the steps played so far; whether they are due
        self.learning = False
        self.next_log, self.next_evaluation = self.schedule.log_every, self.schedule.evaluate_every
        self.carry: dict[str, Tensor] | None = None
        self.pending: dict[str, Any] = {}
        self.logged, self.evaluated = 0, 0
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
            while not self.finished():
                if not self.paying:  # a run that stopped between two updates goes on with the second
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
        with self.timed("collect"):
            if self.schedule.prefill:
                self.collector.policy.random = self.clocks.agent_step < self.schedule.prefill
            wire = None
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
            self.call("on_collect_end", wire=wire)
        if self.learning:
            self.credit += played * self.schedule.train_ratio / self.schedule.batch_steps
            self.paying = self.credit >= self.schedule.burst
        elif self.clocks.agent_step >= self.schedule.prefill:  # what was played before is not made up for
            self.learning = self.agreed(len(self.replay) >= self.schedule.learning_starts, all)
            self.credit = float(self.schedule.pretrain if self.learning and not self.clocks.update else 0)
            self.paying = self.credit >= 1

    def train(self) -> None:
        """Pay the updates that are owed."""
        while self.paying and not self.finished():
            self.credit -= 1
            self.paying = self.credit >= 1
            with self.timed("train"):
                metrics = self.update()
            if self.update.sanity.problem:
                self.fail(self.update.sanity.problem)
            self.clocks.update += 1
            self.tick()
            self.call("on_train_batch_end", metrics=metrics)

    def report(self) -> None:
        """Evaluate and log where it is due."""
        now, every = self.clocks.env_step, self.schedule
        validate = bool(self.evaluate and every.evaluate_every and now >= self.next_evaluation)
        if validate:
            self.next_evaluation = (now // every.evaluate_every + 1) * every.evaluate_every
            self.validate()
        if validate or now >= self.next_log:
            self.next_log = (now // every.log_every + 1) * every.log_every
            self.flush()

    def conclude(self) -> None:
        """At a limit, evaluate once more if the last time is long ago; write what was not yet logged."""
        every, limit = self.schedule.evaluate_every, self.stop_reason in ("env_steps", "updates", "max_time")
        since = self.clocks.env_step - max(self.next_evaluation - every, self.evaluated)
        late = bool(self.evaluate and every and since >= every / 2 and self.agreed(limit, any))
        if late:
            self.validate()
        if late or self.clocks.env_step > self.logged:
            self.flush()

    def validate(self) -> None:
        """Play and dream evaluation episodes on rank 0, for the next row."""
        self.call("on_validation_start")
        metrics, episodes, self.evaluated = {}, [], self.clocks.env_step
        with self.timed("evaluate"):
            if self.evaluate and self.fabric.is_global_zero:
                self.dreamer.eval()
                with self.fabric.autocast(), self.to_the_end():
                    metrics, episodes = self.evaluate(self.dreamer)
                self.dreamer.train()
            self.fabric.barrier()
        self.tick()
        self.log(metrics)
        self.call("on_validation_end", metrics=metrics, episodes=episodes)

    # Borders.

    def call(self, hook: str, **kwargs: Any) -> None:
        """Call a hook of every callback that has it, in their order."""
        with self.timed("callbacks"):
            self.fabric.call(hook, loop=self, **kwargs)

    def log(self, metrics: dict[str, float | Tensor]) -> None:
        """Add to the next row."""
        self.pending.update(metrics)

    def flush(self) -> None:
        """Hand the row to the callbacks."""
        row, self.pending = {**asdict(self.clocks), **self.pending, "replay/steps": self.replay.steps}, {}
        self.logged = self.clocks.env_step
        self.call("on_log", row=row)
        self.last.update(row)

    def stop(self, reason: str) -> None:
        """End the run after the update at hand."""
        self.stop_reason = self.stop_reason or reason

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
            self.fail(error)

    @property
    def should_stop(self) -> bool:
        return self.stop_reason is not None

    def finished(self) -> bool:
        """Whether a limit is reached or a stop was asked for, on any rank."""
        limits, clocks = self.limits, self.clocks
        if limits.env_steps is not None and clocks.env_step >= limits.env_steps:
            self.stop("env_steps")
        if limits.updates is not None and clocks.update >= limits.updates:
            self.stop("updates")
        if limits.max_time is not None and clocks.seconds >= limits.max_time:
            self.stop("max_time")
        if self.agreed(self.should_stop, any) and not self.should_stop:
            self.stop("another rank stopped")
        return self.should_stop

    def agreed(self, mine: bool, among: Callable[[list[bool]], bool]) -> bool:
        """One answer for all ranks, so that none waits for another in a collective."""
        if self.fabric.world_size == 1:
            return mine
        votes: Any = self.fabric.all_gather(torch.tensor(mine, device=self.fabric.device))
        return among(votes.flatten().bool().tolist())

    def tick(self) -> None:
        self.clocks.seconds = time.perf_counter() - self.began

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timers[name] += time.perf_counter() - start

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Everything of the loop's own that a resumed run needs, in plain tensors and numbers."""
        self.update.finish()
        return {
            "dreamer": self.dreamer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "clocks": asdict(self.clocks),
            "timers": dict(self.timers),
            **{name: getattr(self, name) for name in ("options", "credit", "paying", "learning")},
            "cadence": [int(self.next_log), int(self.next_evaluation), int(self.evaluated)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; ``run`` then goes on from there."""
        self.dreamer.load_state_dict(state["dreamer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.clocks = Clocks(**state["clocks"])
        self.timers.update(state["timers"])
        resume.keep_options(self.optimizer, self.options, state.get("options", self.options))
        self.credit, self.learning, self.paying = state["credit"], state["learning"], state.get("paying", False)
        self.next_log, self.next_evaluation, self.evaluated = [*state["cadence"], 0][:3]

    def rank_state_dict(self) -> dict[str, Any]:
        """What each rank keeps for itself: random states, its environments, what the policy carries, the open row."""
        return {
            "random": resume.random_states(training=self.generator, acting=self.collector.policy.generator),
            "playing": playing_state(self.collector, self.carry, exact=not self.failure),
            "pending": {name: float(value) for name, value in self.pending.items()},
            "logged": self.logged,
        }

    def load_rank_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Restore what ``rank_state_dict`` gave; returns the environments that begin new episodes instead."""
        if "playing" not in state:  # of an older version
            return list(range(self.replay.num_streams))
        resume.set_random_states(state["random"], training=self.generator, acting=self.collector.policy.generator)
        self.carry, anew = set_playing_state(self.collector, state["playing"])
        close_streams(self.replay, anew)
        self.pending, self.logged = dict(state["pending"]), state["logged"]
        return anew

"""Evaluation on a schedule: real episodes, greedy and sampled, then the same episodes dreamed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torchrl.envs import EnvBase

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.batched import Batch, make_batched
from dreamer_lightning.envs.guarded import Failures
from dreamer_lightning.evaluation.coverage import coverage
from dreamer_lightning.evaluation.film import observed_frames
from dreamer_lightning.evaluation.gap import (
    ERROR_STEPS,
    RETURN_STEPS,
    GapAlarm,
    choose_starts,
    going_on,
    remaining,
    return_metrics,
    stack_actions,
    stack_states,
    to_dreams,
    value_metrics,
)
from dreamer_lightning.evaluation.openloop import error_metrics
from dreamer_lightning.evaluation.rollout import Episode, device_of, own_randomness, rollout
from dreamer_lightning.types import Occupied, UserError

logger = logging.getLogger("dreamer_lightning")

LONGEST = 10_000  # agent steps of an evaluation episode, where neither the user nor the environment has a limit
EVALUATION_SEED = 77_777  # added to seeds, so that no training environment is evaluated in


@dataclass
class Evaluation:
    """What one evaluation found: metrics by name, and the episodes behind them (greedy ones first)."""

    metrics: dict[str, float]
    episodes: list[Episode]

    def __iter__(self):
        return iter((self.metrics, self.episodes))


class Evaluator:
    """Plays episodes apart from training, and compares the agent's dreams with them.

    Every evaluation starts from the same seeds and draws from its own generator, so that two of them differ by the
    agent alone and training is not disturbed.

    Args:
        env_factory: makes the evaluation environments.
        episodes: greedy ones, and as many sampled ones.
        seed: of the environments (kept apart from the training ones) and of the draws.
        num_envs: episodes played at once; 0: as many as there are episodes, 8 at most.
        backend: environments in this process, or in worker processes.
        starts: states from which the sampled episodes are dreamed; 0 switches the comparison off.
        gap_alarm: largest acceptable ``gap/return``, in return; None: half the size of the real return.
        alarm_after: evaluations running above it until the warning.
        max_length: agent steps after which an episode is cut; None: the factory's ``time_limit``, 10,000 at least.
        failures: where failures of environments are told; None: each one raises.
        lender: environments of training. Where no other one can be opened (a robot, a licence), evaluation plays in
            the first of these, whose own episode ends as truncated; None: that raises.
        stopped: asked between steps; on True an evaluation ends without a result.
    """

    def __init__(
        self,
        env_factory: EnvFactory,
        episodes: int = 4,
        seed: int = 0,
        num_envs: int = 0,
        backend: Literal["serial", "process"] = "serial",
        starts: int = 64,
        gap_alarm: float | None = None,
        alarm_after: int = 3,
        max_length: int | None = None,
        failures: Failures | None = None,
        lender: Batch | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ):
        self.env_factory, self.episodes, self.seed = env_factory, episodes, seed
        self.num_envs = min(num_envs or 8, episodes)
        self.backend, self.starts = backend, starts
        limit = -(-(getattr(env_factory, "time_limit", None) or 0) // env_factory.repeat)
        self.max_length = max_length or max(LONGEST, limit)
        self.alarm, self.failures = GapAlarm(gap_alarm, alarm_after), failures
        self.lender, self.stopped, self.borrows, self.told = lender, stopped, False, False

    def evaluate(self, dreamer) -> Evaluation | None:
        """Plays ``episodes`` greedy and as many sampled episodes, dreams the sampled ones, minds the alarm.

        Returns:
            Metrics ``eval/*``, ``gap/*``, ``openloop/*``, and the episodes. None: it was stopped.
        """
        with own_randomness():
            generator = torch.Generator(device_of(dreamer)).manual_seed(self.seed)
            greedy = self.play(dreamer, generator, greedy=True)
            sampled = self.play(dreamer, generator, greedy=False)
            if self.stopped():
                return None
            repeat = self.env_factory.repeat
            metrics = score_metrics("greedy", greedy, repeat) | score_metrics("sampled", sampled, repeat)
            greedy[0].frames = observed_frames(dreamer.specs, greedy[0])
            if self.starts:
                metrics.update(compare(dreamer, sampled, self.starts, generator))
                metrics.update(coverage(dreamer, choose_starts(sampled, self.starts), generator))
                metrics["gap/alarm"] = float(self.alarm.update(metrics))
        return Evaluation(metrics, greedy + sampled)

    def play(self, dreamer, generator: torch.Generator, greedy: bool) -> list[Episode]:
        """The episodes of one kind."""
        length, stopped = self.max_length, self.stopped
        with self.environment() as env:
            played = rollout(dreamer, env, self.episodes, greedy, generator, max_length=length, stopped=stopped)
        if not self.told and any(episode.cut for episode in played):
            self.told = True
            logger.warning(
                "evaluation: an episode had not ended after %d agent steps and was cut there; fit takes another limit "
                "by --evaluation.max_length, and --env.time_limit ends training episodes, too", self.max_length,
            )  # fmt: skip
        return played

    @contextmanager
    def environment(self) -> Iterator[EnvBase]:
        """New environments, as many as are to be opened; else one of the lender's."""
        env = None if self.borrows else self._opened()
        if env is None:
            assert self.lender is not None
            with self.lender.lend() as env:
                yield env
            return
        try:
            yield env
        finally:
            env.close()

    def _opened(self) -> EnvBase | None:
        """New environments; None if there can be none beside those of training."""
        seed = self.seed + EVALUATION_SEED
        try:
            return make_batched(self.env_factory, self.num_envs, seed, self.backend, failures=self.failures)
        except Occupied:  # there is one, but no second one
            self.num_envs = 1
            return self._opened()
        except Exception as error:
            if isinstance(error, UserError) or self.lender is None:
                raise
            self.borrows, self.num_envs = True, 1
            logger.warning(
                "evaluation: no environment can be opened beside that of training (%s: %s); it plays in that one, and "
                "training goes on with a new episode", type(error).__name__, error,
            )  # fmt: skip
            return None

    def state_dict(self) -> dict[str, int]:
        return self.alarm.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.alarm.load_state_dict(state)


def score_metrics(kind: str, episodes: list[Episode], repeat: int) -> dict[str, float]:
    """``eval/<kind>_score`` and ``_length`` (means, in env steps), ``_std``, ``_min`` and ``_max`` of the scores.

    Args:
        kind: ``greedy`` or ``sampled``.
        episodes: of that kind.
        repeat: env steps of each decision.
    """
    scores = np.array([episode.score for episode in episodes])
    return {
        f"eval/{kind}_score": float(scores.mean()),
        f"eval/{kind}_length": float(np.mean([episode.length * repeat for episode in episodes])),
        f"eval/{kind}_std": float(scores.std()),
        f"eval/{kind}_min": float(scores.min()),
        f"eval/{kind}_max": float(scores.max()),
    }


@torch.no_grad()
def compare(dreamer, episodes: list[Episode], count: int, generator: torch.Generator | None) -> dict[str, float]:
    """``gap/*`` and ``openloop/*`` of sampled episodes.

    Args:
        dreamer: the agent that played them.
        episodes: played with sampled actions, as the dream under the policy samples them too.
        count: start points over all episodes.
        generator: draws the dreams.
    """
    starts = choose_starts(episodes, count)
    device, discount = device_of(dreamer), dreamer.world_model.discount.gamma
    state = stack_states(starts, device)
    reach = min(max(ERROR_STEPS), int(remaining(starts).max()))
    actions = stack_actions(starts, reach, device)
    same = dreamer.imagine(state, reach, actions=actions, generator=generator, decode=False)
    free = dreamer.imagine(state, max(RETURN_STEPS), generator=generator, decode=False)
    same_dreams, free_dreams = (to_dreams(dreamer.world_model, imagined) for imagined in (same, free))
    metrics = return_metrics(starts, free_dreams, same_dreams, discount)
    by_episode = _final_values(dreamer, episodes, generator)
    final = np.array([by_episode[id(start.episode)] for start in starts])
    metrics |= value_metrics(starts, free_dreams.value[:, 0], final, discount)
    decoded = {k: dreamer.reconstruct(same.latent.map(lambda x, k=k: x[:, k])) for k in ERROR_STEPS if k <= reach}
    cont = going_on(dreamer.world_model, same.cont).double().cpu().numpy()
    return {**metrics, **error_metrics(dreamer.specs, starts, decoded, same_dreams.reward, cont)}


def _final_values(dreamer, episodes: list[Episode], generator) -> dict[int, float]:
    """The critic at each episode's last observation, by the episode's id."""
    states = [{**episode.last, "prev_action": torch.from_numpy(episode.action[-1])} for episode in episodes]
    device = device_of(dreamer)
    state = {key: torch.stack([state[key] for state in states]).to(device) for key in states[0]}
    value = dreamer.imagine(state, 1, generator=generator, decode=False).value[:, 0]
    return {id(episode): float(v) for episode, v in zip(episodes, value.tolist(), strict=True)}

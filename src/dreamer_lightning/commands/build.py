"""The objects around the networks of a run, one small function for each."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric import Fabric
from torch import nn
from torchrl.envs import EnvBase

from dreamer_lightning import settings
from dreamer_lightning.callbacks import (
    Checkpoint,
    Curve,
    Episodes,
    Forecast,
    Health,
    Memory,
    Metrics,
    Peers,
    Progress,
    Signals,
    Throughput,
    Tracking,
    Video,
)
from dreamer_lightning.commands.options import (
    CheckpointOptions,
    CollectorOptions,
    EvaluationOptions,
    FabricOptions,
    ReplayFactory,
    WandbOptions,
)
from dreamer_lightning.data.collect import CollectorPolicy, make_collector, primers
from dreamer_lightning.data.explore import RandomFirst
from dreamer_lightning.data.overlap import Overlap, copier
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.envs.base import EnvFactory, random_score, specs_of
from dreamer_lightning.envs.batched import Batch, Primers, batch_of, make_batched
from dreamer_lightning.envs.guarded import Failures, Guard
from dreamer_lightning.evaluation.evaluator import Evaluator
from dreamer_lightning.store import runfolder
from dreamer_lightning.types import (
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    LATENT,
    OBS,
    PREV_ACTION,
    REWARD,
    Specs,
    UserError,
)


def probe(env: EnvFactory, seed: int) -> Specs:
    """The environment's spaces, from one that is made and closed again.

    Raises:
        UserError: the factory is a user's own and makes something else.
    """
    env.prepare()
    made = env.make(seed)
    if not isinstance(made, EnvBase):
        raise UserError(
            f"env: {type(env).__name__}.make returns a {type(made).__name__}, no TorchRL EnvBase; "
            "dreamer_lightning.envs.Custom wires a gymnasium.Env"
        )
    specs = specs_of(made)
    made.close()
    return specs


def networks_of(encoder: nn.Module) -> dict[str, str]:
    """The class of the network that reads each observation, by name."""
    parts = getattr(encoder, "parts", [encoder])
    return {
        name: type(part).__name__ for part in parts for name in getattr(part, "keys", ()) or getattr(part, "spaces", ())
    }


def taken(specs: Specs, encoder: nn.Module) -> str:
    """What the observations and actions are taken for, and which network reads each, in a line."""
    networks, words = networks_of(encoder), []
    for name, space in specs.obs.items():
        source = f" from {space.source}" if space.source else ""
        words.append(f"{name} is {space.words}{source} ({networks.get(name, 'no network')})")
    actions = Counter(space.words for space in specs.action.values())
    acted = ", ".join(f"{count} of {what}" if count > 1 else what for what, count in actions.items())
    return f"observations: {'; '.join(words)}; actions: {acted}"


def build_collector(
    fabric: Fabric,
    dreamer: Dreamer,
    env: EnvFactory,
    options: CollectorOptions,
    num_envs: int,
    seed: int,
    failures: Failures | None = None,
    prefill: int = 0,
) -> Any:
    """This rank's environments under the acting policy, in the precision of training.

    Args:
        prefill: agent steps, over all ranks, that are played blindly at first.
    """
    actor = copy.deepcopy(dreamer).requires_grad_(False) if options.overlap else dreamer

    def act(*args: Any) -> Any:
        with fabric.autocast():
            return actor.act(*args)

    first = seed * 1009 + fabric.global_rank * 31
    generator = torch.Generator(fabric.device).manual_seed(first + 7)
    carried: Primers = {key: value for key, value in primers(dreamer.initial(1)).items()}
    place = (dreamer.specs, num_envs, torch.Generator(fabric.device).manual_seed(first + 13))
    explore = options.explore(*place) if options.explore else None
    if prefill:
        explore = RandomFirst(*place, steps=prefill, then=explore)
    policy = CollectorPolicy(act, dreamer.specs, generator, fabric.device, explore, actor)

    def make() -> Any:
        envs = make_batched(env, num_envs, first, options.backend, carried, failures=failures)
        return make_collector(envs, policy, options.steps)

    return Overlap(make, copier(dreamer, actor), fabric.device) if options.overlap else make()


def build_replay(
    kind: ReplayFactory,
    folder: Path,
    batch_size: int,
    batch_length: int,
    num_envs: int,
    seed: int,
    device: torch.device,
) -> Replay:
    """This rank's records; a context step comes before each sequence.

    Args:
        kind: makes it.
        folder: where memory-mapped files go.
        batch_size: sequences of this rank.
        batch_length: trained steps of each.
        num_envs: streams.
        seed: of the sampler.
        device: that of training.
    """
    return kind(
        batch_size=batch_size,
        length=batch_length + 1,
        num_streams=num_envs,
        seed=seed,
        folder=folder,
        device=device,
    )


def example_record(specs: Specs, dreamer: Dreamer) -> dict[str, Any]:
    """One record of zeros [1], from which the replay knows its size before anything is played."""
    obs = {name: torch.zeros(1, *space.shape, dtype=getattr(torch, space.dtype)) for name, space in specs.obs.items()}
    flags = {name: torch.zeros(1, dtype=torch.bool) for name in (IS_FIRST, IS_LAST, IS_TERMINAL)}
    state = {name: value.cpu() for name, value in dreamer.initial(1).items()}
    action = state.pop(PREV_ACTION)
    return {OBS: obs, LATENT: state, PREV_ACTION: action, REWARD: torch.zeros(1), **flags}


def play_randomly(
    fabric: Fabric, env: EnvFactory, specs: Specs, options: EvaluationOptions, seed: int, failures: Failures
) -> float | None:
    """The random policy's mean return; one episode for images, which take long to draw."""
    if not options.random_episodes or not fabric.is_global_zero:
        return None
    images = any(space.image for space in specs.obs.values())
    guarded = lambda factory: Batch([Guard(factory, {"seed": seed}, 0, failures, failures.timeout)])  # noqa: E731
    return random_score(env, seed, 1 if images else options.random_episodes, make=guarded)[0]


def build_evaluator(
    env: EnvFactory,
    options: EvaluationOptions,
    seed: int,
    failures: Failures | None = None,
    lender: Batch | None = None,
) -> Evaluator | None:
    """Plays and dreams evaluation episodes in environments of its own, else in the lender's.

    Raises:
        UserError: there would be no episode.
    """
    if not options.every:
        return None
    if options.episodes < 1:
        raise UserError("--evaluation.episodes: give 1 or more, or --evaluation.every 0 for no evaluation")
    return Evaluator(
        env,
        episodes=options.episodes,
        seed=seed,
        num_envs=options.num_envs,
        starts=options.starts,
        gap_alarm=options.gap_alarm,
        alarm_after=options.alarm_after,
        max_length=options.max_length,
        failures=failures,
        lender=lender,
    )


def lender_of(collector: Any) -> Batch | None:
    """The environments that evaluation may borrow; none of a collector that plays meanwhile, or of none at all."""
    env = None if isinstance(collector, Overlap) else getattr(collector, "env", None)
    batch = None if env is None else batch_of(env)
    return batch if isinstance(batch, Batch) else None


def build_tracking(options: WandbOptions, env: EnvFactory, size: str, seed: int, config_text: str) -> Tracking | None:
    """Weights & Biases, unless it is switched off."""
    if options.mode == "disabled":
        return None
    return Tracking(
        mode=options.mode,
        project=options.project,
        entity=options.entity,
        name=options.name,
        group=options.group,
        tags=options.tags,
        task=env.name,
        size=size,
        settings=settings.label(runfolder.public(config_text)),
        seed=seed,
        config=yaml.safe_load(config_text),
    )


def build_callbacks(
    fabric: FabricOptions,
    checkpoint: CheckpointOptions,
    baseline: float | None,
    tracking: Tracking | None,
    evaluator: Evaluator | None,
    failures: Failures | None = None,
) -> list[Any]:
    """What happens at the loop's borders, in this order: whatever adds to a row comes before those that write it."""
    signals = Signals()
    if evaluator:
        evaluator.stopped = lambda: bool(signals.received)
    return [
        signals,
        Peers(),
        Forecast(random_score=baseline),
        Episodes(),
        Throughput(),
        Health(failures),
        *(fabric.callbacks or []),
        Video(),
        *([evaluator] if evaluator else []),  # for its state: the alarm counts on after a resume
        Metrics(),
        *([tracking] if tracking else []),
        Progress(),
        Checkpoint(
            every_env_steps=checkpoint.every,
            keep=checkpoint.keep,
            keep_best=checkpoint.best,
            monitor=checkpoint.monitor,
            replay=checkpoint.replay,
        ),
        Curve(random_score=baseline),
        Memory(),
    ]

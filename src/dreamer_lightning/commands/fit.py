"""Train an agent: builds every object from plain typed options, then runs the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dreamer_lightning.commands.options import (
    CheckpointOptions,
    CollectorOptions,
    Count,
    Duration,
    EvaluationOptions,
    FabricOptions,
    LossOptions,
    ReplayOptions,
    WandbOptions,
)
from dreamer_lightning.commands.run import Run
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.nets.decoders import Decoder
from dreamer_lightning.nets.encoders import Encoder
from dreamer_lightning.nets.heads import Head, PolicyHead
from dreamer_lightning.types import Size, Specs


def fit(
    env: EnvFactory,
    encoder: Callable[[Specs], Encoder],
    rssm: Callable[[int, int], nn.Module],
    decoder: Callable[[Specs, int, int], Decoder],
    reward: Callable[[int], Head],
    cont: Callable[[int], Head],
    policy: Callable[[int, Specs], PolicyHead],
    value: Callable[[int], Head],
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    seed: int = 0,
    run_dir: str | None = None,
    resume: str | None = None,
    init_from: str | None = None,
    num_envs: int = 4,
    env_steps: Count | None = Count(500_000),
    updates: Count | None = None,
    max_time: Duration | None = None,
    train_ratio: float = 512.0,
    batch_size: int = 16,
    batch_length: int = 64,
    learning_starts: Count | None = None,
    imag_length: int = 15,
    imag_last: int = 0,
    actor_gradient: Literal["reinforce", "dynamics", "mix"] = "reinforce",
    value_aware: Literal["latents", "critic", "off"] = "latents",
    size: Size = Size(),
    losses: LossOptions = LossOptions(),
    replay: ReplayOptions = ReplayOptions(),
    collector: CollectorOptions = CollectorOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    checkpoint: CheckpointOptions = CheckpointOptions(),
    log_every: Count = Count(1000),
    gap_alarm: float = 0.5,
    fabric: FabricOptions = FabricOptions(),
    wandb: WandbOptions = WandbOptions(),
    import_from: list[str] | None = None,
    config_text: str = "",
) -> Run:
    """Train an agent, or go on with a run.

    Args:
        env: the environment, by class_path: dreamer_lightning.envs.DMC, Gym, Atari, Custom or your own.
        encoder: from the specs, a network that turns observations into embed.
        rssm: from the sizes of action and embed, the recurrent model.
        decoder: from the specs and the sizes of deter and stoch, a network with one output per observation.
        reward: from the size of feat, the reward head.
        cont: from the size of feat, the continue head.
        policy: from the size of feat and the specs, the policy head.
        value: from the size of feat, the value head.
        optimizer: from the parameters, the optimizer of everything.
        seed: of networks, environments, replay and noise; each has its own generator.
        run_dir: folder of this run; None: runs/TASK-SIZE-sSEED-TIME below the current folder.
        resume: run folder to go on with, under its own config; options such as --env_steps may extend it.
        init_from: run folder or checkpoint file whose weights are loaded where they fit.
        num_envs: environments per rank.
        env_steps: stop after this many env steps (simulator frames, action repeat included), over all ranks.
        updates: stop after this many gradient steps.
        max_time: stop after this time: 90s, 10m, 2h or HH:MM:SS.
        train_ratio: replayed steps trained on for each agent step (decision), over all ranks.
        batch_size: sequences in a batch, over all ranks.
        batch_length: agent steps of a sequence that are trained on; one more is sampled as context.
        learning_starts: agent steps collected before the first update; None: batch_size * batch_length.
        imag_length: agent steps dreamed from each start state.
        imag_last: start states per sequence, its last ones; 0: all. Also limits the replay value loss; 1 leaves none.
        actor_gradient: reinforce (score function), dynamics (backpropagation through the dream) or mix.
        value_aware: the replay value loss trains critic and latents (latents), the critic alone (critic), or is off.
        size: network sizes that configs refer to as ${size.units} and so on.
        losses: scales and coefficients of the losses.
        replay: the replay buffer.
        collector: how environment steps are gathered.
        evaluation: evaluation in a separate environment.
        checkpoint: when checkpoints are written, and how many are kept.
        log_every: env steps between two rows of metrics.csv.
        gap_alarm: warn when dreams promise more than reality by this fraction of the real return.
        fabric: Lightning Fabric's own options.
        wandb: Weights & Biases.
        import_from: folders that the config's own classes are imported from (each config's folder joins by itself).
        config_text: the resolved config, as the run folder keeps it.

    Returns:
        The run: its folder and metrics.

    Raises:
        UserError: one line that says what is wrong, which option, and what would be right.
    """
    return Run(Path(run_dir or "."))

"""The option groups of ``fit``, parsed from YAML and dotted flags: dataclasses, a factory, a type of durations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_type_hints

import torch
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from torch import nn

from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.commands.networks import (
    ActorCriticFactory,
    DecoderFactory,
    EncoderFactory,
    HeadFactory,
    PolicyFactory,
    RSSMFactory,
    WorldModelFactory,
)
from dreamer_lightning.data.explore import Exploration
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.nets.totals import Total
from dreamer_lightning.types import Count, NonNegativeFloat, NonNegativeInt, PositiveInt, Specs, UserError
from dreamer_lightning.world_model import ExtraLoss, WorldModel

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(float):
    """Seconds, which may be written ``90``, ``90s``, ``10m``, ``2h``, ``1d`` or ``HH:MM:SS``."""

    def __new__(cls, value: Any) -> Duration:
        text = str(value).strip()
        if re.fullmatch(r"\d+:\d\d:\d\d", text):
            hours, minutes, seconds = map(int, text.split(":"))
            return super().__new__(cls, hours * 3600 + minutes * 60 + seconds)
        match = re.fullmatch(r"([0-9]+\.?[0-9]*)([smhd]?)", text)
        if not match:
            raise ValueError(f"expected a time such as 90s, 10m, 2h or 01:30:00, got '{value}'")
        return super().__new__(cls, float(match[1]) * SECONDS[match[2]])


class Flat:
    """A group of options that are typed without the group's name before them: ``--seed``, not ``--run.seed``."""


@dataclass
class Networks(Flat):
    """What learns, each by class_path and init_args.

    Args:
        encoder: from the specs, a network that turns observations into embed.
        rssm: from the sizes of action and embed, the recurrent model.
        decoder: from the specs and the sizes of deter and stoch, a network with one output per observation.
        reward: from the size of feat, the reward head.
        cont: from the size of feat, the continue head.
        policy: from the size of feat and the specs, the policy head.
        value: from the size of feat, the value head.
        optimizer: from the parameters, the optimizer of everything.
        world_model: WorldModel or your own; it is made of encoder, rssm, decoder, reward and cont.
        actor_critic: ActorCritic (V3), another of dreamer_lightning.versions or your own; of policy and value.
    """

    encoder: EncoderFactory
    rssm: RSSMFactory
    decoder: DecoderFactory
    reward: HeadFactory
    cont: HeadFactory
    policy: PolicyFactory
    value: HeadFactory
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    world_model: WorldModelFactory = WorldModel
    actor_critic: ActorCriticFactory = ActorCritic


@dataclass
class RunOptions(Flat):
    """Which run this is, and what it starts from.

    Args:
        seed: of networks, environments, replay and noise; each has its own generator.
        run_dir: folder of this run; None: runs/TASK-SIZE-sSEED-TIME below the current folder.
        resume: run folder to go on with, under its own config; options such as --env_steps may extend it. The URL of a
            copy by Mirror is brought to --run_dir first.
        init_from: run folder or checkpoint file whose weights are loaded where they fit.
        init_parts: what init_from loads by name: encoder, rssm, decoder, reward, cont (all: world_model), policy, value
            (all: actor_critic); None: everything.
        freeze: parts that are not trained, by the same names; what init_from could not load of them is trained.
        data: recorded episodes that fill the replay before the run begins: minari:NAME, a folder of Minari, or a
            run folder.
        offline: learn from data alone: nothing is played, and env_steps count what the updates would be owed to; the
            environment is for evaluation.
        import_from: folders that the config's own classes are imported from (each config's folder joins by itself).
    """

    seed: NonNegativeInt = 0
    run_dir: str | None = None
    resume: str | None = None
    init_from: str | None = None
    init_parts: list[str] | None = None
    freeze: list[str] | None = None
    data: str | None = None
    offline: bool = False
    import_from: list[str] | None = None

    def __post_init__(self) -> None:
        if self.seed >= 2**32:
            raise UserError(f"--seed: {self.seed} is too large; give {2**32 - 1} or less")
        if self.init_parts and not self.init_from:
            raise UserError("--init_parts: names parts of what --init_from loads; give that, too")


@dataclass
class LimitOptions(Flat):
    """Where the run ends; the first limit that is reached ends it.

    Args:
        env_steps: stop after this many env steps (simulator frames, action repeat included), over all ranks.
        updates: stop after this many gradient steps.
        max_time: stop after this time: 90s, 10m, 2h or HH:MM:SS.
    """

    env_steps: Count | None = Count(500_000)
    updates: Count | None = None
    max_time: Duration | None = None


@dataclass
class TrainingOptions(Flat):
    """How much is played and trained.

    Args:
        num_envs: environments per rank.
        train_ratio: replayed steps trained on for each agent step (decision), over all ranks.
        batch_size: sequences in a batch, over all ranks.
        batch_length: agent steps of a sequence that are trained on; one more is sampled as context.
        learning_starts: sequences in the replay before the first update; None: batch_size * batch_length.
        prefill: agent steps that a random policy plays before learning begins, over all ranks.
        pretrain: updates made at once when learning begins.
        burst: updates are made this many at a time, as soon as the train ratio owes them.
        log_every: env steps between two rows of metrics.csv.
    """

    num_envs: PositiveInt = 4
    train_ratio: NonNegativeFloat = 512.0
    batch_size: PositiveInt = 16
    batch_length: PositiveInt = 64
    learning_starts: Count | None = None
    prefill: Count = Count(0)
    pretrain: NonNegativeInt = 0
    burst: PositiveInt = 1
    log_every: Count = Count(1000)

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise UserError(f"--log_every: {self.log_every} is too small; give 1 or more")


@dataclass
class MachineOptions(Flat):
    """How the machine computes.

    Args:
        threads: CPU threads of tensor work in each process; None: torch's choice, one per core. Small networks want 1.
        deterministic: same seed, same numbers on a GPU too, at some cost of speed; on a CPU they are in any case.
        compile: let torch.compile make the training forward; for GPUs, and several of them, where cuda_graph cannot be.
        cuda_graph: on one GPU, replay each update as one CUDA graph, captured at the fourth.
        recompute_decoder: compute the decoder's activations anew in the backward pass, in place of keeping them: the
            same numbers in less memory and more time, for large pictures and models.
    """

    threads: PositiveInt | None = None
    deterministic: bool = False
    compile: bool = False
    cuda_graph: bool = False
    recompute_decoder: bool = False


def flat_groups(function: Callable) -> dict[str, type]:
    """The parameters of a command that are groups without a name, with their classes."""
    hints = {name: kind for name, kind in get_type_hints(function).items() if name != "return"}
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, Flat)}


def grouped(function: Callable, options: dict[str, Any]) -> dict[str, Any]:
    """Options by name as the arguments of a command, whose groups without a name are made of them."""
    given = dict(options)
    for name, kind in flat_groups(function).items():
        given[name] = kind(**{field.name: given.pop(field.name) for field in fields(cast(Any, kind))})
    return given


class ExtraLossFactory(Protocol):
    """Makes a further loss; what else its class takes is its own."""

    def __call__(self, specs: Specs, feat_dim: int, embed_dim: int) -> ExtraLoss: ...


@dataclass
class LossOptions:
    """Scales of the losses, and further losses.

    Args:
        recon: scale of each reconstruction loss (one per decoded observation).
        reward: scale of the reward loss.
        cont: scale of the continue loss.
        dyn: scale of the dynamics loss, KL(sg(post) || prior).
        rep: scale of the representation loss, KL(post || sg(prior)).
        policy: scale of the policy loss.
        value: scale of the value loss on dreams.
        repval: scale of the value loss on replayed states.
        total: makes one scalar of all losses: Total, their sum, or Harmony, which learns weights for reconstruction,
            reward and KL (dreamer_lightning.nets.totals).
        extra: losses of your own: each a name, and a class of ExtraLoss by class_path, with its scale in init_args.
    """

    recon: float = 1.0
    reward: float = 1.0
    cont: float = 1.0
    dyn: float = 1.0
    rep: float = 0.1
    policy: float = 1.0
    value: float = 1.0
    repval: float = 0.3
    total: Callable[[], Total] = Total
    extra: dict[str, ExtraLossFactory] | None = None

    @property
    def scales(self) -> dict[str, float]:
        """Factor on each loss; ``recon`` holds for every decoded observation."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("total", "extra")}


class ReplayFactory(Protocol):
    """Makes the replay of a rank from what ``fit`` knows; the other options of its class are the user's."""

    def __call__(
        self, *, batch_size: int, length: int, num_streams: int, seed: int, folder: Path, device: torch.device
    ) -> Replay: ...


@dataclass
class CollectorOptions:
    """How environment steps are gathered.

    Args:
        backend: serial (environments in this process) or process (one worker process each).
        steps: agent steps of each environment between two rounds of training.
        overlap: play the next steps in a thread while training, with weights one round older; runs no longer repeat
            bit for bit.
        explore: what is played in place of the policy's action, by class_path: dreamer_lightning.data.HeldCorners,
            Disturbed (V1) or your own; from the specs, the number of environments and a random generator. null: none.
    """

    backend: Literal["serial", "process"] = "serial"
    steps: PositiveInt = 1
    overlap: bool = False
    explore: Callable[[Specs, int, torch.Generator], Exploration] | None = None


@dataclass
class FaultOptions:
    """What happens when numbers or environments go bad; everything is told on stderr and counted in metrics.csv.

    Args:
        numbers: NaN or infinity in an observation or a reward: stop (state saved), or mask (0 in its place).
        update: NaN or infinity in a loss or a gradient: stop (at the last checkpoint), or skip (leave the update out).
        env_failures: failures in a row of one environment that stop the run (state saved); before, it is made anew.
        env_timeout: time without an answer after which an environment counts as failed.
    """

    numbers: Literal["stop", "mask"] = "stop"
    update: Literal["stop", "skip"] = "stop"
    env_failures: PositiveInt = 5
    env_timeout: Duration = Duration("5m")


@dataclass
class EvaluationOptions:
    """Evaluation in a separate environment, greedy and sampled.

    Args:
        every: env steps between two evaluations; 0 turns evaluation off.
        episodes: episodes per evaluation, of each kind.
        num_envs: episodes played at once; 0: as many as there are episodes, 8 at most.
        starts: states from which dreams are compared with reality; 0 turns the comparison off.
        max_length: agent steps after which an episode is cut; None: env.time_limit, 10,000 at least.
        alarm_after: evaluations running with too large a gap/return until the warning.
        random_episodes: episodes of the random policy at the start, for its score; 0: none.
        gap_alarm: largest gap/return (dreamed minus real return) without a warning; None: half the real return.
    """

    every: Count = Count(25_000)
    episodes: int = 5
    num_envs: NonNegativeInt = 0
    starts: NonNegativeInt = 64
    max_length: PositiveInt | None = None
    alarm_after: int = 3
    random_episodes: NonNegativeInt = 3
    gap_alarm: float | None = None


@dataclass
class CheckpointOptions:
    """Checkpoints in ``checkpoints/`` of the run folder.

    Args:
        every: env steps between two checkpoints.
        keep: newest checkpoints kept.
        best: keep the weights with the best evaluation too.
        monitor: metric that decides which is best, larger is better.
        replay: save the replay buffer too, so that a resumed run trains on.
    """

    every: Count = Count(25_000)
    keep: NonNegativeInt = 2
    best: bool = True
    monitor: str = "eval/greedy_score"
    replay: bool = True


@dataclass
class FabricOptions:
    """Lightning Fabric, under Fabric's own names.

    Args:
        accelerator: auto (cuda if there is one, else cpu), cpu, cuda or mps.
        devices: number of devices, or auto (one).
        num_nodes: machines.
        strategy: auto, ddp or any other of Fabric's.
        precision: auto (bf16-mixed on GPUs that have bf16, else 32-true), 32-true, bf16-mixed or 16-mixed.
        loggers: a list of further Fabric loggers, such as [TensorBoardLogger] or by class_path.
        callbacks: a list of further callbacks by class_path.
        plugins: Fabric plugins by class_path.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str | int = "auto"
    loggers: list[str | dict[str, Any]] | None = None
    callbacks: list[str | dict[str, Any]] | None = None
    plugins: list[Precision | ClusterEnvironment | CheckpointIO] | None = None


@dataclass
class WandbOptions:
    """Weights & Biases.

    Args:
        mode: auto (online when logged in, else offline), online, offline or disabled; WANDB_MODE wins.
        project: project name.
        entity: user or team.
        group: group name; None: task-size-settings.
        name: run name; None: task-size-settings-seed, with the options that differ from the preset.
        tags: further tags.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "dreamer-lightning"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] | None = None

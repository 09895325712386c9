"""Train an agent: builds every object from plain typed options, then runs the loop."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from dreamer_lightning import kernels
from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.callbacks.base import say
from dreamer_lightning.callbacks.checkpoint import restore
from dreamer_lightning.commands.build import (
    build_callbacks,
    build_collector,
    build_evaluator,
    build_replay,
    build_tracking,
    example_record,
    play_randomly,
    probe,
    taken,
)
from dreamer_lightning.commands.checks import check_numbers, check_optimizer, check_start
from dreamer_lightning.commands.devices import build_fabric, hardware, repeatable
from dreamer_lightning.commands.extras import check_callbacks, check_loggers
from dreamer_lightning.commands.initialise import check_shapes, load_fitting
from dreamer_lightning.commands.networks import (
    ActorCriticFactory,
    DecoderFactory,
    EncoderFactory,
    HeadFactory,
    PolicyFactory,
    RSSMFactory,
    WorldModelFactory,
    build_dreamer,
    parts,
)
from dreamer_lightning.commands.options import (
    CheckpointOptions,
    CollectorOptions,
    Duration,
    EvaluationOptions,
    FabricOptions,
    FaultOptions,
    LossOptions,
    ReplayFactory,
    WandbOptions,
)
from dreamer_lightning.commands.run import Run
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.guarded import Failures
from dreamer_lightning.kernels.process import keep_memory
from dreamer_lightning.loop import Loop
from dreamer_lightning.schedule import Clocks, Every, Limits, Ratio
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.store.lock import held
from dreamer_lightning.types import Count, Discount, Size, UserError
from dreamer_lightning.updates import SkippingUpdate, StaticUpdate, Update, check_capture, compiled
from dreamer_lightning.world_model import WorldModel


def fit(
    env: EnvFactory,
    encoder: EncoderFactory,
    rssm: RSSMFactory,
    decoder: DecoderFactory,
    reward: HeadFactory,
    cont: HeadFactory,
    policy: PolicyFactory,
    value: HeadFactory,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    world_model: WorldModelFactory = WorldModel,
    actor_critic: ActorCriticFactory = ActorCritic,
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
    prefill: Count = Count(0),
    pretrain: int = 0,
    burst: int = 1,
    threads: int | None = None,
    deterministic: bool = False,
    compile: bool = False,
    cuda_graph: bool = False,
    size: Size = Size(),
    discount: Discount = Discount(),
    losses: LossOptions = LossOptions(),
    replay: ReplayFactory = Replay,
    collector: CollectorOptions = CollectorOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    checkpoint: CheckpointOptions = CheckpointOptions(),
    log_every: Count = Count(1000),
    gap_alarm: float | None = None,
    faults: FaultOptions = FaultOptions(),
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
        world_model: by class_path, WorldModel or your own; it is made of encoder, rssm, decoder, reward and cont.
        actor_critic: by class_path, ActorCritic (V3), another of dreamer_lightning.versions or your own.
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
        learning_starts: sequences in the replay before the first update; None: batch_size * batch_length.
        prefill: agent steps that a random policy plays before learning begins, over all ranks.
        pretrain: updates made at once when learning begins.
        burst: updates are made this many at a time, as soon as the train ratio owes them.
        threads: CPU threads of tensor work in each process; None: torch's choice, one per core. Small networks want 1.
        deterministic: same seed, same numbers on a GPU too, at some cost of speed; on a CPU they are in any case.
        compile: let torch.compile make the training forward; for GPUs, and several of them, where cuda_graph cannot be.
        cuda_graph: on one GPU, replay each update as one CUDA graph, captured at the fourth.
        size: network sizes that configs refer to as ${size.units} and so on.
        discount: how much a later reward counts, for world model and actor-critic.
        losses: scales of the losses, and further losses.
        replay: the replay buffer: dreamer_lightning.data.Replay, EpisodeReplay (V1, V2) or your own.
        collector: how environment steps are gathered.
        evaluation: evaluation in a separate environment.
        checkpoint: when checkpoints are written, and how many are kept.
        log_every: env steps between two rows of metrics.csv.
        gap_alarm: largest gap/return (dreamed minus real return) without a warning; None: half the real return.
        faults: what happens when numbers or environments go bad.
        fabric: Lightning Fabric's own options.
        wandb: Weights & Biases.
        import_from: folders that the config's own classes are imported from (each config's folder joins by itself).
        config_text: the resolved config, as the run folder keeps it.

    Returns:
        The run: its folder and metrics.

    Raises:
        UserError: one line that says what is wrong, which option, and what would be right.
    """
    options = dict(locals())
    check_numbers(options)
    fabric.callbacks = check_callbacks(fabric.callbacks)
    limits = Limits(env_steps, updates, max_time)
    folder = check_run_dir(run_dir or default_run_dir(env, size.name, seed), resume, limits)
    found = find_checkpoint(folder, limits) if resume else None
    if isinstance(found, Run):
        return found
    keep_memory()
    repeatable(deterministic)
    if threads:
        torch.set_num_threads(threads)
    callbacks: list[Any] = []  # Fabric calls those that are in this list by then
    devices = build_fabric(fabric, check_loggers(fabric.loggers, folder), callbacks)
    folder = Path(devices.broadcast(str(folder)))
    world, rank = devices.world_size, devices.global_rank
    if batch_size % world:
        raise UserError(f"--batch_size: {batch_size} does not divide by {world} devices; take a multiple of {world}")

    L.seed_everything(seed, verbose=False)  # networks start alike on all ranks; everything else has its own generator
    specs = probe(env, seed)
    dreamer = build_dreamer(specs, options)
    if found:
        check_optimizer(folder, config_text)
        check_shapes(dreamer, found)
    loaded = load_fitting(dreamer, init_from) if init_from and not found else ""
    module, optim = devices.setup(compiled(devices, dreamer) if compile else dreamer, optimizer(parts(dreamer)))
    speed = kernels.accelerate(dreamer)
    if cuda_graph:
        check_capture(devices, optim)

    shard = folder / "memmap" / f"rank-{rank}"
    sequences, own_seed = batch_size // world, seed * world + rank
    records = build_replay(replay, shard, sequences, batch_length, num_envs, own_seed, devices.device)
    batch_steps = batch_size * batch_length
    ratio = Ratio(
        train_ratio=train_ratio,
        batch_steps=batch_steps,
        learning_starts=-(-(learning_starts or batch_steps) // world),
        prefill=prefill,
        pretrain=pretrain,
        burst=burst,
    )
    failures = Failures(faults.env_failures, faults.env_timeout, mask=faults.numbers == "mask")
    acting = build_collector(devices, dreamer, env, collector, num_envs, seed, failures, prefill)
    records.allocate(example_record(specs, dreamer))
    check_start(records, ratio.learning_starts)
    baseline = play_randomly(devices, env, specs, evaluation, seed, failures)
    evaluator = build_evaluator(env, evaluation, gap_alarm, seed, failures)
    tracking = build_tracking(wandb, env, size.name, seed, config_text)
    callbacks += build_callbacks(fabric, checkpoint, baseline, tracking, evaluator, failures)

    generator = torch.Generator(devices.device).manual_seed(seed * 1009 + rank + 1)  # of the training noise
    kind = StaticUpdate if cuda_graph else SkippingUpdate if faults.update == "skip" else Update
    update = kind(devices, dreamer, module, optim, records, generator)
    loop = Loop(
        fabric=devices,
        dreamer=dreamer,
        update=update,
        collector=acting,
        replay=records,
        env_factory=env,
        ratio=ratio,
        limits=limits,
        run_dir=folder,
        log_every=Every(log_every),
        evaluate_every=Every(evaluation.every),
        evaluate=evaluator.evaluate if evaluator else None,
        callbacks=callbacks,
    )
    say(loop, hardware(devices, speed))
    say(loop, taken(specs, dreamer.world_model.encoder))
    with held(folder, devices):
        check_run_dir(str(folder), resume, limits)  # another run may have begun there meanwhile
        if found:
            restore(loop, found)
            say(loop, f"resumed at update {loop.clocks.update}")
        elif resume:
            say(loop, f"no complete checkpoint in {folder}: starting over")
        if loaded:
            say(loop, loaded)
        if devices.is_global_zero:  # nothing else is written before everything is built, and what was saved fits
            atomic.write_atomic(folder / runfolder.CONFIG, runfolder.public(config_text))
            atomic.write_atomic(folder / runfolder.SPECS, json.dumps(asdict(specs)))
        try:
            loop.run()
        finally:
            with suppress(Exception):  # what broke the run may not close, either
                acting.shutdown()
    from dreamer_lightning.workshop.diagnose import closing  # the one thing of the workshop that a run needs

    return Run(folder, closing(folder) if devices.is_global_zero else "")


def default_run_dir(env: EnvFactory, what: str, seed: int) -> str:
    """runs/TASK-WHAT-sSEED-TIME-XXXXXX; WHAT is the name of the sizes, or of a yardstick's algorithm.

    The six digits tell runs that begin in the same second from each other.
    """
    task = env.name.replace("/", "_").replace(":", "_")
    return str(Path("runs") / f"{task}-{what}-s{seed}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}")


def check_run_dir(folder: str, resume: str | None, limits: Limits, resumable: bool = True) -> Path:
    """The run folder as a path, before anything is written; a yardstick's is not ``resumable``.

    Raises:
        UserError: it holds a run already, or the run would never end.
    """
    path = Path(os.path.abspath(Path(folder).expanduser()))  # without the dots of ../, it is printed for copying
    if not resume and runfolder.is_run(path) and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        hint = f"go on with it by --resume {folder}, or name another" if resumable else "name another"
        raise UserError(f"--run_dir: {folder} holds a run already; {hint}")
    if path.exists() and not path.is_dir():
        raise UserError(f"--run_dir: {folder} is a file; name a folder")
    if limits.env_steps is None and limits.updates is None and limits.max_time is None:
        raise UserError("--env_steps, --updates and --max_time are all unset; set one, or the run never ends")
    return path


def find_checkpoint(folder: Path, limits: Limits) -> Path | Run | None:
    """The newest complete checkpoint of a run to resume; the run itself if it is finished; None to start over."""
    checkpoint = runfolder.latest_complete(folder)
    if checkpoint is None:
        return None
    clocks = Clocks(**atomic.load_tensors(checkpoint / runfolder.MODEL)["loop"]["clocks"])
    name = limits.reached(clocks)
    if name is None:
        return checkpoint
    reached = {"env_steps": clocks.env_step, "updates": clocks.update, "max_time": clocks.seconds}[name]
    done = f"{reached:.0f} of {getattr(limits, name):.0f} {'seconds' if name == 'max_time' else name}"
    return Run(folder, f"{folder} is finished ({done}); a larger --{name} goes on with it")

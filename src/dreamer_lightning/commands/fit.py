"""Train an agent: builds every object from plain typed options, then runs the loop."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric import Fabric

from dreamer_lightning import configfiles, kernels
from dreamer_lightning.callbacks.base import say
from dreamer_lightning.callbacks.checkpoint import restore
from dreamer_lightning.commands.build import (
    build_callbacks,
    build_collector,
    build_evaluator,
    build_replay,
    build_tracking,
    example_record,
    lender_of,
    play_randomly,
    probe,
    taken,
)
from dreamer_lightning.commands.checks import check_optimizer, check_start
from dreamer_lightning.commands.devices import build_fabric, hardware, repeatable
from dreamer_lightning.commands.extras import check_callbacks, check_loggers
from dreamer_lightning.commands.initialise import check_shapes, freeze, hold_again, load_fitting
from dreamer_lightning.commands.networks import build_dreamer, parts
from dreamer_lightning.commands.options import (
    CheckpointOptions,
    CollectorOptions,
    EvaluationOptions,
    FabricOptions,
    FaultOptions,
    LimitOptions,
    LossOptions,
    MachineOptions,
    Networks,
    ReplayFactory,
    RunOptions,
    TrainingOptions,
    WandbOptions,
)
from dreamer_lightning.commands.run import Run
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.guarded import Failures
from dreamer_lightning.kernels.process import keep_memory
from dreamer_lightning.loop import Loop
from dreamer_lightning.schedule import Clocks, Every, Limits, Ratio
from dreamer_lightning.store import atomic, package, runfolder
from dreamer_lightning.store.lock import held
from dreamer_lightning.types import Discount, Size, Specs, UserError
from dreamer_lightning.updates import SkippingUpdate, StaticUpdate, Update, check_capture, compiled


def fit(
    env: EnvFactory,
    networks: Networks,
    run: RunOptions,
    limits: LimitOptions,
    training: TrainingOptions,
    machine: MachineOptions,
    size: Size = Size(),
    discount: Discount = Discount(),
    losses: LossOptions = LossOptions(),
    replay: ReplayFactory = Replay,
    collector: CollectorOptions = CollectorOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    checkpoint: CheckpointOptions = CheckpointOptions(),
    faults: FaultOptions = FaultOptions(),
    fabric: FabricOptions = FabricOptions(),
    wandb: WandbOptions = WandbOptions(),
    config_text: str = "",
) -> Run:
    """Train an agent, or go on with a run.

    Args:
        env: the environment, by class_path: dreamer_lightning.envs.DMC, Gym, Atari, Custom or your own.
        networks: what learns.
        run: which run this is, and what it starts from.
        limits: where it ends.
        training: how much is played and trained.
        machine: how the machine computes.
        size: network sizes that configs refer to as ${size.units} and so on.
        discount: how much a later reward counts, for world model and actor-critic.
        losses: scales of the losses, and further losses.
        replay: the replay buffer: dreamer_lightning.data.Replay, EpisodeReplay (V1, V2) or your own.
        collector: how environment steps are gathered.
        evaluation: evaluation in a separate environment.
        checkpoint: when checkpoints are written, and how many are kept.
        faults: what happens when numbers or environments go bad.
        fabric: Lightning Fabric's own options.
        wandb: Weights & Biases.
        config_text: the resolved config, as the run folder keeps it.

    Returns:
        The run: its folder and metrics.

    Raises:
        UserError: one line that says what is wrong, which option, and what would be right.
    """
    fabric.callbacks, ends = check_callbacks(fabric.callbacks), Limits(**vars(limits))
    folder = check_run_dir(run.run_dir or default_run_dir(env, size.name, run.seed), run.resume, ends)
    found = find_checkpoint(folder, ends) if run.resume else None
    if isinstance(found, Run):
        return found
    callbacks: list[Any] = []  # Fabric calls those that are in this list by then
    devices = launch(machine, fabric, folder, callbacks)
    folder = Path(devices.broadcast(str(folder)))
    ratio = build_ratio(training, devices.world_size)

    L.seed_everything(run.seed, verbose=False)  # networks start alike on all ranks; all else has its own generator
    specs = probe(env, run.seed)
    dreamer = build_dreamer(specs, {**vars(networks), "discount": discount, "losses": losses})
    loaded, frozen = load_before(dreamer, folder, found, run, config_text)
    learner = build_learner(devices, dreamer, networks.optimizer, machine)
    records = build_records(replay, folder, training, run.seed, devices)
    failures = Failures(faults.env_failures, faults.env_timeout, mask=faults.numbers == "mask")
    example = example_record(specs, dreamer)
    records.allocate(example)
    check_start(records, ratio.learning_starts)
    baseline = play_randomly(devices, env, specs, evaluation, run.seed, failures)  # there may be one instance only
    acting: Any
    if run.offline:
        acting = rest(run, training.num_envs, devices)
    else:
        acting = build_collector(
            devices, dreamer, env, collector, training.num_envs, run.seed, failures, training.prefill
        )
    evaluator = build_evaluator(env, evaluation, run.seed, failures, lender_of(acting))
    tracking = build_tracking(wandb, env, size.name, run.seed, config_text)
    callbacks += build_callbacks(fabric, checkpoint, baseline, tracking, evaluator, failures)
    loop = Loop(
        fabric=devices,
        dreamer=dreamer,
        update=build_update(devices, dreamer, learner, records, machine, faults, run.seed),
        collector=acting,
        replay=records,
        env_factory=env,
        ratio=ratio,
        limits=ends,
        run_dir=folder,
        log_every=Every(training.log_every),
        evaluate_every=Every(evaluation.every),
        evaluate=evaluator.evaluate if evaluator else None,
        callbacks=callbacks,
    )
    say(loop, hardware(devices, learner.speed))
    say(loop, taken(specs, dreamer.world_model.encoder))
    with held(folder, devices):
        check_again(devices, folder, run.resume, ends)
        begin(loop, found, resumes=bool(run.resume), loaded=loaded)
        if run.data and not records.steps:  # a resumed run has it in its replay
            from dreamer_lightning.offline.filling import fill

            say(loop, fill(records, run.data, specs, example, devices.global_rank, devices.world_size))
        play(loop, specs, config_text, frozen)
    from dreamer_lightning.workshop.report.command import closing  # the one thing of the workshop that a run needs

    return Run(folder, closing(folder) if devices.is_global_zero else "")


class Learner(NamedTuple):
    """What an update steps: the agent as Fabric set it up, its optimizer, and what stands in for it for speed."""

    module: Any
    optimizer: Any
    speed: Any


def launch(machine: MachineOptions, fabric: FabricOptions, folder: Path, callbacks: list[Any]) -> Fabric:
    """This process made ready, and Fabric launched."""
    keep_memory()
    repeatable(machine.deterministic)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    return build_fabric(fabric, check_loggers(fabric.loggers, folder), callbacks)


def build_ratio(training: TrainingOptions, world: int) -> Ratio:
    """How many updates are owed to the steps that were played.

    Raises:
        UserError: the batch does not divide by the devices.
    """
    size = training.batch_size
    if size % world:
        raise UserError(f"--batch_size: {size} does not divide by {world} devices; take a multiple of {world}")
    batch_steps = size * training.batch_length
    return Ratio(
        train_ratio=training.train_ratio,
        batch_steps=batch_steps,
        learning_starts=-(-(training.learning_starts or batch_steps) // world),
        prefill=training.prefill,
        pretrain=training.pretrain,
        burst=training.burst,
    )


def load_before(
    dreamer: Dreamer, folder: Path, found: Path | None, run: RunOptions, config_text: str
) -> tuple[list[str], list[str]]:
    """Load the weights that a new run starts from and freeze some, or see whether a resumed run's will fit.

    Returns:
        What was done, in lines; and the names of the frozen tensors of a new run.

    Raises:
        UserError: they do not fit.
    """
    if found:
        check_optimizer(folder, config_text)
        check_shapes(dreamer, found)
        hold_again(dreamer, folder)
        return [], []
    said: list[str] = []
    frozen: list[str] = []
    loaded = None
    if run.init_from:
        line, loaded = load_fitting(dreamer, run.init_from, run.init_parts)
        said.append(line)
    if run.freeze:
        line, frozen = freeze(dreamer, run.freeze, loaded)
        said.append(line)
    return said, frozen


def build_learner(
    devices: Fabric, dreamer: Dreamer, optimizer: Callable[[Any], Any], machine: MachineOptions
) -> Learner:
    """The agent and its optimizer on their devices, with fast twins in place."""
    dreamer.world_model.recompute = machine.recompute_decoder
    module, optim = devices.setup(compiled(devices, dreamer) if machine.compile else dreamer, optimizer(parts(dreamer)))
    speed = kernels.accelerate(dreamer)
    if machine.cuda_graph:
        check_capture(devices, optim)
    return Learner(module, optim, speed)


def build_records(kind: ReplayFactory, folder: Path, training: TrainingOptions, seed: int, devices: Fabric) -> Replay:
    """This rank's share of the replay, with a seed of its own."""
    world, rank = devices.world_size, devices.global_rank
    shard, sequences = folder / "memmap" / f"rank-{rank}", training.batch_size // world
    return build_replay(
        kind, shard, sequences, training.batch_length, training.num_envs, seed * world + rank, devices.device
    )


def rest(run: RunOptions, num_envs: int, devices: Fabric) -> Any:
    """What stands in for the collector where nothing is played.

    Raises:
        UserError: there is nothing to learn from, either.
    """
    from dreamer_lightning.offline.recorded import Resting

    if not (run.data or run.resume):
        raise UserError("--offline: there is no data to learn from; give --data minari:NAME, or --data RUN")
    seed = run.seed * 1009 + devices.global_rank * 31 + 7
    return Resting(num_envs, torch.Generator(devices.device).manual_seed(seed))


def build_update(
    devices: Fabric,
    dreamer: Dreamer,
    learner: Learner,
    records: Replay,
    machine: MachineOptions,
    faults: FaultOptions,
    seed: int,
) -> Update:
    """One gradient step: replayed as a CUDA graph, one that is left out where numbers are bad, or the plain one."""
    generator = torch.Generator(devices.device).manual_seed(seed * 1009 + devices.global_rank + 1)
    kind = StaticUpdate if machine.cuda_graph else SkippingUpdate if faults.update == "skip" else Update
    return kind(devices, dreamer, learner.module, learner.optimizer, records, generator)


def begin(loop: Loop, found: Path | None, resumes: bool, loaded: list[str]) -> None:
    """Go back to where a resumed run was, and say what the run begins with."""
    if found:
        restore(loop, found)
        say(loop, f"resumed at update {loop.clocks.update}")
    elif resumes:
        say(loop, f"no complete checkpoint in {loop.run_dir}: starting over")
    for line in loaded:
        say(loop, line)


def play(loop: Loop, specs: Specs, config_text: str, frozen: list[str]) -> None:
    """Write down what the run is, and run it to its end."""
    if loop.fabric.is_global_zero:  # nothing else is written before everything is built, and what was saved fits
        atomic.write_atomic(Path(loop.run_dir) / runfolder.CONFIG, runfolder.public(config_text))
        atomic.write_atomic(Path(loop.run_dir) / runfolder.SPECS, json.dumps(asdict(specs)))
        if frozen:
            atomic.write_atomic(Path(loop.run_dir) / runfolder.FROZEN, json.dumps(frozen))
        if config_text:  # a bench has none
            package.keep_modules(loop.run_dir, configfiles.import_from(Path(loop.run_dir) / runfolder.CONFIG))
    try:
        loop.run()
    finally:
        with suppress(Exception):  # what broke the run may not close, either
            loop.collector.shutdown()


def default_run_dir(env: EnvFactory, what: str, seed: int) -> str:
    """Where a run lies that was given no folder: ``runs/TASK-WHAT-sSEED-TIME-XXXXXX``.

    WHAT is the name of the sizes, or of a yardstick's algorithm. The six digits tell runs that begin in the same
    second from each other.
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


def check_again(devices: Fabric, folder: Path, resume: str | None, limits: Limits) -> None:
    """``check_run_dir`` on rank 0, for all: another run may have begun there since.

    Others may come late, when rank 0 has written its own config.

    Raises:
        UserError: on all ranks.
    """
    problem = None
    if devices.is_global_zero:
        try:
            check_run_dir(str(folder), resume, limits)
        except UserError as error:
            problem = str(error)
    if problem := devices.broadcast(problem):
        raise UserError(problem)


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

"""Fabric on the devices that options, machine and launcher agree on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment

from dreamer_lightning.commands.options import FabricOptions
from dreamer_lightning.kernels import Report
from dreamer_lightning.types import UserError
from dreamer_lightning.updates import as_they_are

PRECISIONS = ("32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")  # half of them are short names of others

# These cut parameters into pieces, which only the forward of the whole module puts together; here the policy acts with
# the weights of its parts, and rank 0 alone evaluates and saves. Names that begin so mean the same.
CUT = ("fsdp", "deepspeed", "model_parallel", "xla")


class Launch(NamedTuple):
    """Processes that a launcher has started: so many on each machine, on so many machines."""

    processes: int
    machines: int


def launched() -> Launch | None:
    """What torchrun, ``fabric run`` or srun has started this process among; None if it was started by itself.

    Inside a SLURM allocation only variables of a step count, which srun sets: those of the allocation also surround a
    single process.

    Raises:
        UserError: srun put different numbers of tasks on its machines.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:  # fabric run starts processes by torchrun
        processes = int(env.get("LOCAL_WORLD_SIZE", 1))
        return Launch(processes, int(env.get("WORLD_SIZE", processes)) // processes)
    tasks, machines = int(env.get("SLURM_STEP_NUM_TASKS", 1)), int(env.get("SLURM_STEP_NUM_NODES", 1))
    if tasks == 1 or "SLURM_PROCID" not in env:
        return None
    if tasks % machines:
        raise UserError(f"srun: {tasks} tasks do not divide by {machines} nodes; ask for --ntasks-per-node")
    return Launch(tasks // machines, machines)


def with_fabric_run(options: FabricOptions) -> dict[str, Any]:
    """The options of Fabric, those left at auto as ``fabric run`` was given them.

    ``fabric run`` hands its options over in variables, which Fabric compares with every argument and then forbids to
    launch. Taken out of the environment, they leave what torchrun would have left.
    """
    os.environ.pop("LT_CLI_USED", None)
    os.environ.pop("LT_DEVICES", None)  # the processes are there, and counted
    os.environ.pop("LT_NUM_NODES", None)
    values = {}
    for name in ("accelerator", "strategy", "precision"):
        given, value = os.environ.pop(f"LT_{name.upper()}", "auto"), getattr(options, name)
        values[name] = given if value == "auto" else value
    return values


def count_devices(options: FabricOptions, launch: Launch | None) -> tuple[Any, int]:
    """Devices on each machine, and machines; without a launcher ``auto`` is one device.

    Raises:
        UserError: the options ask for other numbers than the launcher has started.
    """
    if launch is None:
        return (1 if options.devices == "auto" else options.devices), options.num_nodes
    if options.devices not in ("auto", launch.processes, str(launch.processes)):
        raise UserError(
            f"--fabric.devices: {options.devices}, but the launcher has started {launch.processes} processes on each "
            "machine; leave it out"
        )
    if options.num_nodes not in (1, launch.machines):
        raise UserError(
            f"--fabric.num_nodes: {options.num_nodes}, but the launcher uses {launch.machines}; leave it out"
        )
    return launch


def cluster(options: FabricOptions, launch: Launch | None) -> list[Any]:
    """Fabric's plugins: the user's, and what tells a process its rank where Fabric would guess wrong."""
    plugins = list(options.plugins or ())
    if any(isinstance(plugin, ClusterEnvironment) for plugin in plugins) or "TORCHELASTIC_RUN_ID" in os.environ:
        return plugins
    if launch:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(launch.processes))  # Fabric insists, srun does without
        return [*plugins, SLURMEnvironment(auto_requeue=False)]
    return [*plugins, LightningEnvironment()]


def build_fabric(options: FabricOptions, loggers: Sequence[Any] = (), callbacks: list[Any] | None = None) -> Fabric:
    """Launched Fabric; ``auto`` is one GPU if there is one, in bfloat16 where it has that, else the CPU in float32.

    Args:
        options: Fabric's own.
        loggers: as objects.
        callbacks: a list whose callbacks Fabric calls, also those that are added later.

    Raises:
        UserError: devices that this machine does not have, or a precision that is not for us.
    """
    values, launch = with_fabric_run(options), launched()
    devices, machines = count_devices(options, launch)
    gpus, accelerator, precision = torch.cuda.device_count(), values["accelerator"], values["precision"]
    if accelerator == "auto":
        accelerator = "cuda" if gpus else "cpu"
    on_gpu = accelerator in ("cuda", "gpu")
    if on_gpu and not gpus:
        raise UserError(f"--fabric.accelerator: {accelerator}, but this machine has no GPU; take auto or cpu")
    if on_gpu and isinstance(devices, int) and devices > gpus:
        raise UserError(f"--fabric.devices: {devices}, but this machine has {gpus} GPUs; take {gpus} or fewer")
    if precision == "auto":
        half = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if half else "32-true"
    if str(precision) not in PRECISIONS:
        raise UserError(
            f"--fabric.precision: '{precision}' is not for this loop, which acts and stores in float32; "
            "take 32-true, bf16-mixed or 16-mixed"
        )
    if values["strategy"].startswith(CUT):
        raise UserError(
            f"--fabric.strategy: '{values['strategy']}' is not for this loop, which acts, evaluates and saves with "
            "whole weights on each device; take ddp, and to save memory bf16-mixed and --recompute_decoder"
        )
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=machines,
            strategy=values["strategy"],
            precision=precision,  # type: ignore[arg-type]  # checked above
            loggers=list(loggers),
            callbacks=callbacks,
            plugins=cluster(options, launch),
        )
    except (ValueError, TypeError, RuntimeError) as error:  # what Fabric refuses, and why, in its first line
        raise UserError(f"--fabric: {str(error).splitlines()[0]}") from error
    as_they_are(fabric)
    if fabric.device.type == "cuda" and str(fabric._precision.precision).endswith("-mixed"):
        torch.set_float32_matmul_precision("high")  # TF32 where a scan stays in float32: as exact as bfloat16 and more
    fabric.launch()
    return fabric


def hardware(fabric: Fabric, speed: Report) -> str:
    """What trains, in a line: device, precision, and on a CPU threads and whether the compiled kernels are in use."""
    found = f"training on {fabric.device.type} in {fabric._precision.precision}"
    threads = torch.get_num_threads()
    by = f" with {threads} thread{'s' * (threads > 1)}" if fabric.device.type == "cpu" else ""
    return f"{found}{by}, {speed}"


def repeatable(everywhere: bool) -> None:
    """Let torch take the same way through every computation each time, also where a faster one exists (GPUs).

    Args:
        everywhere: True refuses operations that have no such way; False leaves torch as it is by default.
    """
    if everywhere:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(everywhere)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # finds errors, costs time

"""Measure how fast this machine trains with a config, and where the time goes."""

from __future__ import annotations

import io
import json as json_lines
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric import Fabric

from dreamer_lightning import kernels
from dreamer_lightning.callbacks.throughput import peak_ram
from dreamer_lightning.commands.build import build_collector, build_replay, probe
from dreamer_lightning.commands.devices import build_fabric
from dreamer_lightning.commands.fit import fit
from dreamer_lightning.commands.networks import build_dreamer, parts
from dreamer_lightning.commands.options import Duration, grouped
from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.kernels import native
from dreamer_lightning.kernels.process import keep_memory
from dreamer_lightning.planning import Planner, named
from dreamer_lightning.types import Count, Specs, UserError
from dreamer_lightning.updates import compiled
from dreamer_lightning.workshop.bench.baseline import Plan, time_torchrl
from dreamer_lightning.workshop.bench.learner import (
    Learner,
    random_batch,
    time_acting,
    time_dreams,
    time_floor,
    time_parts,
    time_planning,
    time_update,
)
from dreamer_lightning.workshop.bench.report import table
from dreamer_lightning.workshop.bench.system import LoopWatch, fill, time_collector, time_envs, time_replay
from dreamer_lightning.workshop.bench.timing import Measures

FILL_BYTES = 5e8  # the replay is filled with so much at most
LOOP_UPDATES, LOOP_SECONDS = 12, 90  # of the running loop, after 3 updates; whichever comes first


def bench(
    options: dict[str, Any],
    json: bool = False,
    baseline: Literal["none", "torchrl"] = "none",
    twin: bool = False,
    planner: Planner | str | None = None,
    repeats: int = 7,
    seconds: float = 2.0,
    replay_steps: Count = Count(100_000),
) -> Outcome:
    """Measure how fast this machine trains with a config, and where time goes.

    If none is named: dmc.yaml with faithful.yaml at size 1m.

    Without ``json`` a table. With it one JSON object a line; the one with ``"default": true`` is what ``fit`` would do.

    Args:
        options: those of ``fit``.
        json: print JSON objects instead of the table.
        baseline: also time TorchRL's DreamerV3 learner (torchrl) on a batch of the same shape.
        twin: also time the step-by-step twin of the update.
        planner: also time a planner's decision, beside the policy's: shooting, cem, mppi, gradient, or a class by its
            path with options below it.
        repeats: timed updates, after five that are not.
        seconds: how long environments and collector are timed.
        replay_steps: steps that the replay is filled with (at most 0.5 GB of them).

    Raises:
        UserError: as ``fit`` does; several devices; or TorchRL's learner cannot be built for this config.
    """
    keep_memory()
    if options["fabric"].devices not in ("auto", 1):
        raise UserError(f"--fabric.devices: bench measures one process, not {options['fabric'].devices}; leave it out")
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    rows = measure(options, baseline, twin, planner, repeats, seconds, replay_steps)
    if json:
        return Outcome("\n".join(json_lines.dumps(row) for row in rows))
    return Outcome(table(rows))


def measure(
    options: dict[str, Any],
    baseline: str,
    twin: bool,
    planner: Planner | str | None,
    repeats: int,
    seconds: float,
    replay_steps: int,
) -> list[Measures]:
    """One row for what ``fit`` would do, and one for each other system."""
    fabric = build_fabric(options["fabric"])
    L.seed_everything(options["seed"], verbose=False)
    specs = progress("environment", probe, options["env"], options["seed"])
    dreamer = build_dreamer(specs, options)
    b, t = options["batch_size"], options["batch_length"]
    batch = random_batch(specs, dreamer, b, t + 1)
    forward = compiled(fabric, dreamer) if options["compile"] else dreamer
    module, optimizer = fabric.setup(forward, options["optimizer"](parts(dreamer)))
    kernels.accelerate(dreamer)
    learner = Learner(fabric, dreamer, module, optimizer, batch.to(fabric.device))
    n, h = learner.lengths[2:]
    common = {
        "task": options["env"].name,
        "device": fabric.device.type,
        "device_name": device_name(fabric.device),
        "precision": fabric._precision.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": [b, t],
        "dreams": [n, h],
        "size": {key: getattr(options["size"], key) for key in ("deter", "hidden", "classes", "depth", "units")},
    }
    static = bool(options["cuda_graph"])
    how = mode(fabric, static, options["compile"])
    own = {**common, "system": "dreamer-lightning", "default": True, "mode": how}
    own["params"] = sum(p.numel() for p in parts(dreamer))
    own |= progress("update", time_update, learner, repeats, static, options["compile"])
    own["peak_rss_mb"] = peak_ram() / 1e6
    if fabric.device.type == "cuda":
        own["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    rows = [own]
    own |= progress("floor", time_floor, learner, min(5, repeats))  # at once: the same machine for both
    if baseline == "torchrl":
        plan = Plan(specs, options["size"], h)
        found = progress("torchrl's update", time_torchrl, plan, b, t, fabric.device, repeats)
        rows.append({**common, "system": "torchrl", "default": False, "dreams": [b * t, h], **found})
    if twin:
        found = progress("twin's update", time_update, learner.stepwise(), repeats)
        rows.append({**common, "system": "dreamer-lightning", "default": False, "mode": "steps", **found})
    own |= progress("parts", time_parts, learner, max(3, repeats // 2))
    own |= progress("dreams", time_dreams, learner, repeats)
    own |= progress("acting", time_acting, learner, repeats)
    if planner is not None:
        own |= progress("planning", time_planning, learner, named(planner), repeats)
    own |= progress("replay", replay_row, options, specs, learner, repeats, replay_steps)
    own |= progress("environments", env_row, options, learner, seconds)
    own |= progress("loop", loop_row, options, repeats)
    for row in rows:
        row["update_floor_ratio"] = row["update_ms"] / own["floor_ms"]
    return rows


def replay_row(options: dict[str, Any], specs: Specs, learner: Learner, repeats: int, steps: int) -> Measures:
    """Times of a replay filled with random records."""
    num_envs, (b, t) = options["num_envs"], (options["batch_size"], options["batch_length"])
    with tempfile.TemporaryDirectory() as folder:
        replay = build_replay(options["replay"], Path(folder), b, t, num_envs, options["seed"], learner.device)
        records = random_batch(specs, learner.dreamer, num_envs, max(250, t + 1))
        replay.allocate(records.reshape(-1)[:1])
        held = min(steps, int(FILL_BYTES / replay.bytes_per_step), replay.slots * num_envs)
        fill(replay, records, held)
        rssm: Any = learner.dreamer.world_model.rssm
        latents = {key: value.cpu() for key, value in rssm.pack(rssm.initial(b, t)).items()}
        return time_replay(replay, records[:, :1], latents, repeats)


def env_row(options: dict[str, Any], learner: Learner, seconds: float) -> Measures:
    """Env steps a second, with and without policy and collector."""
    env, num_envs, collecting = options["env"], options["num_envs"], options["collector"]
    alone = time_envs(env, num_envs, collecting.backend, seconds)
    collector = build_collector(learner.fabric, learner.dreamer, env, collecting, num_envs, options["seed"])
    return {**alone, **time_collector(collector, env.repeat, seconds), "num_envs": num_envs}


def loop_row(options: dict[str, Any], repeats: int) -> Measures:
    """What a short run of ``fit`` does, in a folder that is thrown away."""
    watch = LoopWatch()
    fabric = replace(options["fabric"], callbacks=[*(options["fabric"].callbacks or []), watch])
    quiet = {
        "evaluation": replace(options["evaluation"], every=0, random_episodes=0),
        "wandb": replace(options["wandb"], mode="disabled"),
        "learning_starts": Count(options["num_envs"]),
        "prefill": Count(0),
        "pretrain": 0,
        "max_time": Duration(LOOP_SECONDS),
        **dict.fromkeys(("env_steps", "resume", "init_from", "init_parts", "freeze", "data")),
        "offline": False,
        "updates": Count(watch.warm_up + max(LOOP_UPDATES, 2 * repeats)),
    }
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        run_dir = str(Path(folder) / "run")
        fit(**grouped(fit, {**options, **quiet, "fabric": fabric, "run_dir": run_dir}))
    return watch.row()


def progress(what: str, measure: Callable[..., Any], *args: Any) -> Any:
    """Run one measurement, and tell on stderr how long it took."""
    print(f"bench: {what} ...", end="", file=sys.stderr, flush=True)
    start = time.perf_counter()
    found = measure(*args)
    print(f" {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return found


def mode(fabric: Fabric, static: bool, compiling: bool) -> str:
    """How the update is run."""
    asked = "+".join(name for name, on in (("compiled", compiling), ("cuda_graph", static)) if on)
    return asked or ("kernels" if fabric.device.type == "cpu" and native.library() else "eager")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()

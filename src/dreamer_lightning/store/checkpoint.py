"""Checkpoints that are whole or absent: written aside, synced, checksummed, renamed; and put back into a loop.

``model.pt`` is the loop's state (networks, optimizer, clocks), ``rank-<r>.pt`` what each process keeps for itself, and
``manifest.json`` names these and the replay files with their checksums.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dreamer_lightning.store import replay_files, runfolder
from dreamer_lightning.store.atomic import (
    ASIDE,
    TEMPORARY,
    commit_folder,
    load_tensors,
    remove_folder,
    save_tensors,
    write_atomic,
)
from dreamer_lightning.store.replay_files import ReplayFiles, Shard
from dreamer_lightning.store.runfolder import BEST, CHECKPOINTS, FORMAT, MODEL, REPLAY


class Kind(NamedTuple):
    """What is saved.

    Args:
        replay: the files of this process's replay; None: it is not saved.
        keep: checkpoints to keep, this one included.
        score: of the evaluation for which weights alone are kept, instead of the latest best; None: to resume from.
    """

    replay: ReplayFiles | None
    keep: int = 1
    score: float | None = None


def files_of(loop: Any) -> ReplayFiles:
    """The files of this process's replay in its run folder."""
    return ReplayFiles(loop.replay, Path(loop.run_dir) / REPLAY / f"rank-{loop.fabric.global_rank}")


def save(loop: Any, kind: Kind) -> Path:
    """Write a checkpoint, on all ranks together; one of weights alone on rank 0.

    Args:
        loop: the training loop.
        kind: what is saved.

    Returns:
        Its folder.

    Raises:
        OSError, RuntimeError, ValueError: the disk refuses, or weights are not finite; the older ones stay whole.
    """
    name = runfolder.checkpoint_name(loop.clocks.env_step, loop.clocks.update)
    final = Path(loop.run_dir) / CHECKPOINTS / (name if kind.score is None else BEST + name)
    temporary = final.with_name(TEMPORARY + final.name)
    error: Exception | None = None
    for step in (_prepare, _write_rank, _commit):
        try:
            if error is None and (step is _write_rank or loop.fabric.is_global_zero):
                step(loop, kind, temporary, final)
        except (OSError, RuntimeError, ValueError) as problem:  # torch tells of a full disk by RuntimeError
            error = problem
        if kind.score is None:
            loop.fabric.barrier()
    if error is not None:
        shutil.rmtree(temporary, ignore_errors=True)
        raise error
    return final


def _prepare(loop: Any, kind: Kind, temporary: Path, final: Path) -> None:
    """Make the temporary folder, and remove what a killed process left behind."""
    for prefix in (TEMPORARY, ASIDE):
        for leftover in final.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)


def _write_rank(loop: Any, kind: Kind, folder: Path, final: Path) -> None:
    """Write this process's files, and for rank 0 which they are."""
    rank = loop.fabric.global_rank
    files: dict[str, Any] = {}
    replay: dict[str, Any] = {}
    if rank == 0 and not finite(loop.dreamer):
        raise ValueError("the weights are not finite")
    if not loop.sound():  # before the replay is saved: latents of the last update may still be on their way
        raise ValueError("the last update was not finite")
    if rank == 0:
        state = {"loop": loop.state_dict()}
        loop.fabric.call("on_save_checkpoint", loop=loop, state=state)
    if kind.score is None:
        own = rank_state(loop)
        if kind.replay:
            replay = {f"{kind.replay.folder.name}/{name}": entry for name, entry in kind.replay.save().items()}
            own["replay"] = loop.replay.state_dict()
        files[f"rank-{rank}.pt"] = save_tensors(folder / f"rank-{rank}.pt", own)
    if rank == 0:
        files[MODEL] = save_tensors(folder / MODEL, state)
    write_atomic(folder / f"rank-{rank}.json", json.dumps({"files": files, "replay": replay}))


def _commit(loop: Any, kind: Kind, temporary: Path, final: Path) -> None:
    """Write the manifest of what all ranks have written, move the folder to its place, remove what is too old."""
    files: dict[str, Any] = {}
    replay: dict[str, Any] = {}
    world = 1 if kind.score is not None else loop.fabric.world_size
    for rank in range(world):
        part = temporary / f"rank-{rank}.json"
        if not part.exists():
            raise OSError(f"rank {rank} could not write its part")
        written = json.loads(part.read_text("utf-8"))
        files |= written["files"]
        replay |= written["replay"]
        part.unlink()
    clocks = {name: int(getattr(loop.clocks, name)) for name in ("env_step", "agent_step", "update")}
    of = {"format": FORMAT, "world_size": world, "score": kind.score, "files": files, "replay": replay}
    runfolder.write_manifest(temporary, {**clocks, **of})
    commit_folder(temporary, final)
    _prune(Path(loop.run_dir), kind, final)


def _prune(run_dir: Path, kind: Kind, new: Path) -> None:
    """Delete the checkpoints that are no longer kept, and the replay files that none of the kept ones needs.

    One that is ahead of the new one was damaged, and passed over by a resume: it must not push out a whole one.
    """
    if kind.score is not None:
        for other in (run_dir / CHECKPOINTS).glob(BEST + "*"):
            if other != new:
                remove_folder(other)
        return
    found = runfolder.checkpoints(run_dir)
    kept = [folder for folder in found if folder.name <= new.name][-kind.keep :]
    for folder in found:
        if folder not in kept:
            remove_folder(folder)
    needed = [Path(name) for folder in kept for name in _replay_of(folder)]
    for shard in (run_dir / REPLAY).glob("rank-*"):
        replay_files.prune(shard, [path.name for path in needed if path.parent.name == shard.name])


def _replay_of(folder: Path) -> dict[str, Any]:
    try:
        return runfolder.read_manifest(folder).get("replay", {})
    except (OSError, ValueError):
        return {}


def finite(module: torch.nn.Module) -> bool:
    """Whether all weights are finite."""
    weights = [p.detach() for p in module.parameters()]
    return bool(torch.stack(torch._foreach_norm(weights)).isfinite().all())


def rank_state(loop: Any) -> dict[str, Any]:
    """What each rank saves for itself: the loop's own part of it, and every callback's state."""
    return {
        "loop": loop.rank_state_dict(),
        "callbacks": {name: cb.state_dict() for name, cb in _keys(loop.callbacks)},
    }


def _keys(callbacks: list[Any]) -> list[tuple[str, Any]]:
    """Callbacks that have a state, under their class name, numbered if a class comes twice."""
    named: dict[str, Any] = {}
    for callback in callbacks:
        if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
            name = key = type(callback).__name__
            count = 1
            while key in named:
                count += 1
                key = f"{name}-{count}"
            named[key] = callback
    return list(named.items())


# ---- reading -------------------------------------------------------------------------------------------------------


def restore(loop: Any, folder: Path, replay: ReplayFiles) -> tuple[dict[str, Any], list[str]]:
    """Put a checkpoint back into the loop, its replay and its callbacks; call it before ``on_fit_start``.

    With another number of ranks than it was saved with, the replay shards are dealt round-robin and each rank's own
    state (random states, environments) starts afresh.

    Args:
        loop: a freshly built loop.
        folder: a checkpoint found by ``runfolder.latest_complete``.
        replay: the files of the loop's replay.

    Returns:
        The manifest, and for the user a line for everything that could not go on as it was.
    """
    manifest, said = runfolder.read_manifest(folder), []
    rank, world, saved_world = loop.fabric.global_rank, loop.fabric.world_size, manifest["world_size"]
    state = load_tensors(folder / MODEL)
    loop.load_state_dict(state["loop"])
    if manifest["replay"]:
        replay.load(saved_replay(folder), rank, world)
        for name, count in loop.replay.clamp(loop.specs).items():
            said += [f"replay: {count} values of {name!r} lay outside their classes, each is now the nearest class"]
    if not loop.agreed(len(loop.replay) > 0, all):  # it fills up again first
        loop.ratio.wait()
    if world != saved_world:
        said += [f"saved by {saved_world} processes, going on with {world}: random states and environments begin anew"]
    own = folder / f"rank-{rank if rank < saved_world else 0}.pt"
    if own.exists():
        part = load_tensors(own)
        if world == saved_world:
            saved_on, here = part["loop"].get("random", {}).get("device"), loop.fabric.device.type
            if saved_on not in (None, here):
                said += [f"saved on {saved_on}, going on on {here}: random draws begin anew"]
            if anew := loop.load_rank_state_dict(part["loop"]):
                which = ", ".join(map(str, anew))
                said += [f"environments {which} begin new episodes: their state is not saved; the old ones are cut"]
        for name, callback in _keys(loop.callbacks):
            if name in part["callbacks"]:
                callback.load_state_dict(part["callbacks"][name])
    loop.fabric.call("on_load_checkpoint", loop=loop, state=state)
    return manifest, said


def saved_replay(checkpoint: Path) -> list[Shard]:
    """The saved replay of each rank that a checkpoint refers to."""
    manifest, shards = runfolder.read_manifest(checkpoint), []
    for rank in range(manifest["world_size"]):
        folder = checkpoint.parent.parent / REPLAY / f"rank-{rank}"
        files = {Path(n).name: entry for n, entry in manifest["replay"].items() if Path(n).parent.name == folder.name}
        states = [name for name in files if name.endswith(".json")]
        if states:
            state = replay_files.state_of_format_1(folder / states[0])
        else:
            state = load_tensors(checkpoint / f"rank-{rank}.pt")["replay"]
        shards.append(Shard(folder, files, state))
    return shards

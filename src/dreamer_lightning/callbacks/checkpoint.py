"""Checkpoints that are whole or absent: written aside, synced, checksummed, renamed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch

from dreamer_lightning.callbacks.base import Callback, say, warn
from dreamer_lightning.data import archive
from dreamer_lightning.data import restore as replay_files
from dreamer_lightning.explain import nearest
from dreamer_lightning.schedule import Every
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.store.runfolder import BEST, CHECKPOINTS, MODEL, REPLAY


class Checkpoint(Callback):
    """Saves the run every so many env steps or updates, keeps the last few and the best by evaluation.

    Args:
        every_env_steps: env steps between two checkpoints, 0 for none by env steps.
        every_updates: updates between two checkpoints, 0 for none by updates.
        keep: number of newest checkpoints to keep.
        keep_best: also keep the weights with the best evaluation (``checkpoints/best-*``).
        monitor: the evaluation metric that decides, larger is better.
        replay: save the replay too; without it a resumed run starts with an empty one.
    """

    def __init__(
        self,
        every_env_steps: int = 10_000,
        every_updates: int = 0,
        keep: int = 2,
        keep_best: bool = True,
        monitor: str = "eval/greedy_score",
        replay: bool = True,
    ):
        self.every_env_steps, self.every_updates, self.keep = every_env_steps, every_updates, max(1, keep)
        self.keep_best, self.monitor, self.replay = keep_best, monitor, replay
        self.best: float | None = None
        self.warned = False
        self.saved: tuple[int, int] = (0, 0)  # env_step and update of the last attempt
        self._hashes: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}

    # hooks

    def on_iteration_end(self, loop) -> None:
        if self.due(loop.clocks):
            self.save(loop)

    def on_validation_end(self, loop, metrics: dict[str, Any]) -> None:
        if not metrics or not self.keep_best or not loop.fabric.is_global_zero:
            return
        score = metrics.get(self.monitor)
        if score is None:
            self._warn(list(metrics))
            return
        score = float(score)
        if not math.isnan(score) and (self.best is None or score > self.best):  # nothing is larger than NaN
            self.best = score
            self.save(loop, best=True)

    def _warn(self, names: list[str]) -> None:
        """Say once that no evaluation decides which weights are best."""
        if self.warned:
            return
        self.warned = True
        hint = nearest(self.monitor, names)
        warn(f"--checkpoint.monitor: evaluations give no '{self.monitor}'{hint}; no best checkpoint is kept")

    def on_train_end(self, loop) -> None:
        if self.saved != (loop.clocks.env_step, loop.clocks.update) or not runfolder.checkpoints(loop.run_dir):
            self.save(loop)

    # saving

    def due(self, clocks) -> bool:
        """Whether a multiple of either cadence lies between the last checkpoint and now."""
        env_step, update = self.saved
        by_env_steps, by_updates = Every(self.every_env_steps, env_step), Every(self.every_updates, update)
        return by_env_steps.due(clocks.env_step) or by_updates.due(clocks.update)

    def save(self, loop, best: bool = False) -> Path | None:
        """Write a checkpoint on all ranks; a disk that refuses is reported in one line and training goes on.

        Args:
            loop: the training loop.
            best: weights for evaluation only, without replay and random states.

        Returns:
            The checkpoint's folder (rank 0, when it was written), else None.
        """
        if best and not loop.fabric.is_global_zero:
            return None
        clocks = loop.clocks
        name = runfolder.checkpoint_name(clocks.env_step, clocks.update)
        final = Path(loop.run_dir) / CHECKPOINTS / (f"{BEST}{name}" if best else name)
        temporary = final.with_name(f".tmp-{final.name}")
        if not best:
            self.saved = (int(clocks.env_step), int(clocks.update))
        error = None
        for step in (self._prepare, self._write_rank, self._commit):
            try:
                if error is None and (step == self._write_rank or loop.fabric.is_global_zero):
                    step(loop, temporary, final, best)
            except (OSError, RuntimeError, ValueError) as problem:  # torch tells of a full disk by RuntimeError
                error = problem
            if not best:
                loop.fabric.barrier()
        if error is not None:
            warn(f"checkpoint at env step {clocks.env_step} not written ({_reason(error)}); training goes on")
            shutil.rmtree(temporary, ignore_errors=True)
        return final if loop.fabric.is_global_zero and error is None else None

    def _prepare(self, loop, temporary: Path, final: Path, best: bool) -> None:
        """Make the temporary folder, and remove what a killed process left behind."""
        for pattern in (".tmp-*", ".old-*"):
            for leftover in final.parent.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)

    def _write_rank(self, loop, folder: Path, final: Path, best: bool) -> None:
        rank = loop.fabric.global_rank
        files: dict[str, Any] = {}
        replay: dict[str, Any] = {}
        if rank == 0:
            if not finite(loop.dreamer):
                raise ValueError("the weights are not finite")
            state = {"loop": loop.state_dict()}  # before the replay, which it may still complete
            loop.fabric.call("on_save_checkpoint", loop=loop, state=state)
        if not best:
            if self.replay:
                replay = self._save_replay(loop, f"rank-{rank}")
            files[f"rank-{rank}.pt"] = atomic.save_tensors(folder / f"rank-{rank}.pt", rank_state(loop))
        if rank == 0:
            files[MODEL] = atomic.save_tensors(folder / MODEL, state)
        atomic.write_atomic(folder / f"rank-{rank}.json", json.dumps({"files": files, "replay": replay}))

    def _save_replay(self, loop, shard: str) -> dict[str, Any]:
        folder = Path(loop.run_dir) / REPLAY / shard
        folder.mkdir(parents=True, exist_ok=True)
        return {f"{shard}/{name}": self._hash(folder / name, f"{shard}/{name}") for name in loop.replay.save(folder)}

    def _hash(self, path: Path, key: str) -> dict[str, Any]:
        """Checksum of a replay file, read again only if the file has changed."""
        stat = path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        known = self._hashes.get(key)
        if known is None or known[0] != stamp:
            self._hashes[key] = known = (stamp, atomic.fingerprint(path))
        return known[1]

    def _commit(self, loop, temporary: Path, final: Path, best: bool) -> None:
        files: dict[str, Any] = {}
        replay: dict[str, Any] = {}
        world = 1 if best else loop.fabric.world_size
        for rank in range(world):
            part = temporary / f"rank-{rank}.json"
            if not part.exists():
                raise OSError(f"rank {rank} could not write its part")
            written = json.loads(part.read_text())
            files |= written["files"]
            replay |= written["replay"]
            part.unlink()
        runfolder.write_manifest(
            temporary,
            {
                "format": 1,
                "env_step": int(loop.clocks.env_step),
                "agent_step": int(loop.clocks.agent_step),
                "update": int(loop.clocks.update),
                "world_size": world,
                "score": self.best if best else None,
                "files": files,
                "replay": replay,
            },
        )
        atomic.commit_folder(temporary, final)
        self._prune(Path(loop.run_dir), final, best)

    def _prune(self, run_dir: Path, new: Path, best: bool) -> None:
        """Delete the checkpoints that are no longer kept, and the replay files that none of the kept ones needs.

        One that is ahead of the new one was damaged, and passed over by a resume: it must not push out a whole one.
        """
        if best:
            for other in (run_dir / CHECKPOINTS).glob(BEST + "*"):
                if other != new:
                    atomic.remove_folder(other)
            return
        found = runfolder.checkpoints(run_dir)
        kept = [folder for folder in found if folder.name <= new.name][-self.keep :]
        for folder in found:
            if folder not in kept:
                atomic.remove_folder(folder)
        needed = {name for folder in kept for name in _replay_files(folder)}
        for shard in (run_dir / REPLAY).glob("rank-*"):
            archive.prune(shard, [Path(name).name for name in needed if Path(name).parent.name == shard.name])
        self._hashes = {name: known for name, known in self._hashes.items() if name in needed}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "saved": list(self.saved)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.saved = state["best"], tuple(state["saved"])


def finite(module: torch.nn.Module) -> bool:
    """Whether all weights are finite."""
    weights = [p.detach() for p in module.parameters()]
    return bool(torch.stack(torch._foreach_norm(weights)).isfinite().all())


def _replay_files(folder: Path) -> dict[str, Any]:
    try:
        return runfolder.read_manifest(folder).get("replay", {})
    except (OSError, ValueError):
        return {}


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


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


def rank_state(loop) -> dict[str, Any]:
    """What each rank saves for itself: the loop's own part of it, and every callback's state."""
    return {
        "loop": loop.rank_state_dict() if hasattr(loop, "rank_state_dict") else {},
        "callbacks": {name: cb.state_dict() for name, cb in _keys(loop.callbacks)},
    }


def restore(loop, folder: Path) -> dict[str, Any]:
    """Put a checkpoint back into the loop, its replay and its callbacks; call it before ``on_fit_start``.

    With another number of ranks than it was saved with, the replay shards are dealt round-robin and each rank's own
    state (random states, environments) starts afresh.

    Args:
        loop: a freshly built loop.
        folder: a checkpoint found by ``runfolder.latest_complete``.

    Returns:
        The manifest.
    """
    folder = Path(folder)
    manifest = runfolder.read_manifest(folder)
    rank, world, saved_world = loop.fabric.global_rank, loop.fabric.world_size, manifest["world_size"]
    state = atomic.load_tensors(folder / MODEL)
    loop.load_state_dict(state["loop"])
    if manifest["replay"]:
        names: dict[str, list[str]] = {}
        for name in manifest["replay"]:
            names.setdefault(Path(name).parent.name, []).append(Path(name).name)
        shards = [(folder.parent.parent / REPLAY / f"rank-{r}", names[f"rank-{r}"]) for r in range(saved_world)]
        replay_files.load(loop.replay, shards, rank, world)
    if not loop.agreed(len(loop.replay) > 0, all):  # it fills up again first
        loop.ratio.wait()
    if world != saved_world:
        say(loop, f"saved by {saved_world} processes, going on with {world}: random states and environments begin anew")
    own = folder / f"rank-{rank if rank < saved_world else 0}.pt"
    if own.exists():
        part = atomic.load_tensors(own)
        if world == saved_world and hasattr(loop, "load_rank_state_dict"):
            saved_on = part["loop"].get("random", {}).get("device", loop.fabric.device.type)
            if saved_on != loop.fabric.device.type:
                say(loop, f"saved on {saved_on}, going on on {loop.fabric.device.type}: random draws begin anew")
            anew = loop.load_rank_state_dict(part["loop"])
            if anew:
                which = ", ".join(map(str, anew))
                say(loop, f"environments {which} begin new episodes: their state is not saved; the old ones are cut")
        for name, callback in _keys(loop.callbacks):
            if name in part["callbacks"]:
                callback.load_state_dict(part["callbacks"][name])
    loop.fabric.call("on_load_checkpoint", loop=loop, state=state)
    return manifest

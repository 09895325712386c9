"""Two run folders must be equal: rows of metrics.csv and the last checkpoint, replay and random states included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.store.checkpoint import saved_replay
from dreamer_lightning.store.replay_files import ReplayFiles

CLOCK_TIME = ("seconds", "fps/")  # the only columns that say how long things took


def rows(run_dir: Path) -> pd.DataFrame:
    frame = pd.read_csv(run_dir / runfolder.METRICS, dtype=str)  # repr of floats: equal text is equal bits
    return frame[[name for name in frame.columns if not name.startswith(CLOCK_TIME)]]


def leaves(tree: Any, name: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, item in tree.items() for k, v in leaves(item, f"{name}/{key}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for i, item in enumerate(tree) for k, v in leaves(item, f"{name}/{i}").items()}
    return {name: tree}


def same_state(one: Any, two: Any, skip: tuple[str, ...] = ()) -> int:
    """Compares two trees of plain values bit for bit; returns how many values were compared."""
    one, two = leaves(one), leaves(two)
    assert one.keys() == two.keys()
    names = [name for name in one if not any(part in name for part in skip)]
    for name in names:
        equal = torch.equal(one[name], two[name]) if isinstance(one[name], torch.Tensor) else one[name] == two[name]
        assert equal, f"{name}: {one[name]} and {two[name]}"
    return len(names)


def loaded(checkpoint: Path, rank: int = 0) -> Replay:
    """The replay that a checkpoint of one rank refers to."""
    shard = saved_replay(checkpoint)[rank]
    state = shard.state
    replay = Replay(state["slots"] * state["streams"], batch_size=2, length=3, num_streams=state["streams"])
    ReplayFiles(replay, shard.folder).load([shard])
    return replay


def same_runs(one: Path, two: Path) -> None:
    pd.testing.assert_frame_equal(rows(one), rows(two), check_exact=True)
    last = [runfolder.latest_complete(run) for run in (one, two)]
    assert last[0].name == last[1].name
    for file, skip in (("model.pt", ("/timers/", "/seconds", "/callbacks/")), ("rank-0.pt", ("seconds", "Video"))):
        states = [atomic.load_tensors(path / file) for path in last]
        assert same_state(*states, skip=skip) > 20
    a, b = (loaded(path) for path in last)
    assert a.total == b.total
    assert a.queue == b.queue
    held = torch.tensor(
        [s * a.slots + n % a.slots for s, total in enumerate(a.total) for n in range(a.first(s), total)]
    )
    assert len(held) == a.steps > 100
    for key, value in a.storage.arrays.items():
        assert torch.equal(value[held], b.storage.arrays[key][held]), key

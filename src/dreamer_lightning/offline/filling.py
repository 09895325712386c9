"""Recorded episodes into the replay."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from dreamer_lightning.data.records import STREAM
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.data.storage import flatten, nested
from dreamer_lightning.offline.sets import open_set
from dreamer_lightning.types import LATENT, REWARD, Specs, UserError


def fill(replay: Replay, source: str, specs: Specs, example: dict[str, Any], rank: int = 0, world: int = 1) -> str:
    """Put recorded episodes into a replay, each into the stream that holds fewest; their latents are zeros.

    They are drawn like records of old: what the online queue would train on at once is not queued.

    Args:
        replay: takes them; its rings are reserved.
        source: see ``open_set``.
        specs: the spaces that they must have.
        example: one record [1], for the latents.
        rank: of this process; each takes its share of the episodes.
        world: number of processes.

    Returns:
        What was read, in a line.

    Raises:
        UserError: nothing is there, or it is of another task.
    """
    latents = {key: value for key, value in flatten(example).items() if key[0] == LATENT}
    episodes, score, steps = 0, 0.0, 0
    for rows in islice(open_set(source).tables(specs), rank, None, world):
        count, stream = len(rows[REWARD]), min(range(replay.num_streams), key=lambda stream: replay.total[stream])
        zeros: dict[Any, Tensor] = {key: value.expand(count, *value.shape[1:]) for key, value in latents.items()}
        replay.extend(nested({**rows, **zeros, STREAM: torch.full((count,), stream)}, (count,)))
        episodes, steps, score = episodes + 1, steps + count - 1, score + float(rows[REWARD].sum())
    replay.queue.clear()
    if not episodes:
        raise UserError(f"--data: {source} holds no episode" + (f" for each of {world} processes" * (world > 1)))
    kept = f"; the replay keeps {replay.steps} records of them" if replay.steps < steps + episodes else ""
    return f"data: {episodes} episodes of {source}, {steps} agent steps, mean return {score / episodes:.1f}{kept}"

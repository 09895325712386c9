"""Times of what surrounds the update: replay, environments, the collector, and the shares of a running loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase

from dreamer_lightning.data.records import STREAM, initial_carry, to_records
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.envs.base import EnvFactory, specs_of, step
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.types import IS_FIRST, IS_LAST
from dreamer_lightning.workshop.bench.timing import Measures, median_ms, rate

CPU = torch.device("cpu")


def fill(replay: Replay, records: TensorDictBase, steps: int) -> None:
    """Write random records [streams, n], an episode of each, over and over until ``steps`` are held."""
    streams, n = records.batch_size
    records = records.clone()
    for flag, when in ((IS_FIRST, 0), (IS_LAST, n - 1)):
        records[flag] = (torch.arange(n) == when).expand(streams, n).clone()
    rows = records.reshape(-1).set(STREAM, torch.arange(streams).repeat_interleave(n))
    replay.extend(rows)
    while replay.steps < steps:
        replay.extend(rows)
    replay.extend(rows)  # the episode before is whole
    replay.queue.clear()  # samples are uniform, as in a long run


def time_replay(replay: Replay, records: TensorDictBase, latents: dict[str, torch.Tensor], repeats: int) -> Measures:
    """Sampling a batch, adding a step of every environment, and writing latents back.

    Args:
        replay: filled.
        records: one record of each stream [streams, 1].
        latents: packed latents [b, t, .] as an update gives them.
        repeats: times 5 samples are taken.
    """
    streams = records.batch_size[0]
    rows = records.reshape(-1).set(STREAM, torch.arange(streams))
    index = replay.sample()["index"]
    times = max(20, 5 * repeats)
    device = replay.storage.device
    sample_ms = median_ms(replay.sample, device, times)
    add_ms = median_ms(lambda: replay.extend(rows), device, times)
    write_ms = median_ms(lambda: replay.write_latents(index, latents), device, times)
    return {
        "replay_sample_ms": sample_ms,
        "replay_add_us": 1e3 * add_ms / streams,
        "replay_write_ms": write_ms,
        "replay_steps": replay.steps,
        "replay_bytes_per_step": replay.bytes_per_step,
    }


def time_envs(factory: EnvFactory, num_envs: int, backend: Any, seconds: float) -> Measures:
    """Env steps (simulator frames) a second under random actions, without policy and collector."""
    env = make_batched(factory, num_envs, 0, backend)
    actions, generator = specs_of(env).actions, torch.Generator().manual_seed(0)
    state = [env.reset()]

    def decide() -> int:
        state[0], _ = step(env, state[0], actions.random((num_envs,), generator))
        return num_envs * factory.repeat

    try:
        return {"env_steps_per_s": rate(decide, CPU, seconds)}
    finally:
        env.close()


def time_collector(collector: Any, repeat: int, seconds: float) -> Measures:
    """Env steps a second of the collector with the acting policy, turned into records."""
    wires: Iterator[TensorDictBase] = iter(collector)
    carry = [initial_carry(next(wires).shape[0])]

    def collect() -> int:
        wire = next(wires)
        _, carry[0] = to_records(wire, carry[0])
        return wire.numel() * repeat

    try:
        return {"collector_env_steps_per_s": rate(collect, CPU, seconds)}
    finally:
        collector.shutdown()


class LoopWatch:
    """A callback that records clocks and timers at every update, and computes rates and shares from them.

    Args:
        warm_up: updates before the first one that counts.
    """

    def __init__(self, warm_up: int = 3):
        self.warm_up = warm_up
        self.seen: list[tuple[float, int, dict[str, float]]] = []

    def on_train_batch_end(self, loop: Any) -> None:
        self.seen.append((time.perf_counter(), loop.clocks.env_step, dict(loop.timers)))

    def row(self) -> Measures:
        """Rates and shares from the first counted update to the last; both are the last before more is collected."""
        rounds = [a for a, b in zip(self.seen, self.seen[1:], strict=False) if a[1] != b[1]]
        if len(rounds) < 2:
            return {}
        first, last = rounds[min(self.warm_up, len(rounds) - 2)], rounds[-1]
        seconds = last[0] - first[0]
        shares = {name: (last[2][name] - first[2][name]) / seconds for name in last[2]}
        return {
            "loop_env_steps_per_s": (last[1] - first[1]) / seconds,
            "update_share": shares["train"],
            **{f"{name}_share": value for name, value in shares.items() if name not in ("train", "evaluate")},
        }

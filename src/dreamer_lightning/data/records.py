"""The time door: the only place that knows both the collector's wire and the buffer's records.

What one episode of three actions looks like, for observations x0..x3 (x3 is the last frame) and the next episode's y0::

    wire step        0            1            2            3
    root obs         x0           x1           x2           y0
    is_init          True         False        False        True
    root latent      0            l0           l1           0      (before the step: what the policy consumed)
    root prev_action 0            a0           a1           0
    action           a0           a1           a2           b0
    next obs         x1           x2           x3           y1     (x3 exists nowhere else)
    next latent      l0           l1           l2           m0     (the policy's posterior of the ROOT obs)
    next reward      r1           r2           r3           ...
    next done        False        False        True         ...

    record           0            1            2            3 (extra)     4
    obs              x0           x1           x2           x3            y0
    prev_action      0            a0           a1           a2            0
    reward           0            r1           r2           r3            0
    is_first         True         False        False        False         True
    is_last          False        False        False        True          False
    is_terminal      False        False        False        terminated    False
    latent           l0           l1           l2           0             m0

A record holds what was seen together: an observation, the reward that arrived with it, the action that led to it and
the latent that the policy computed from it. The reward of wire step t belongs to record t+1, which may lie in the
collector's next batch: the last reward of each stream is carried from call to call.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreamer_lightning.types import (
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    LATENT,
    LOG_PREFIX,
    OBS,
    PREV_ACTION,
    REWARD,
    WIRE,
)

STREAM = "stream"  # which environment a record came from; the buffer consumes it


Rows = dict[str | tuple[str, str], Tensor]
Carry = dict[str, Tensor]  # what survives between two batches: "reward" [num_envs], the last of each stream


def initial_carry(num_envs: int) -> Carry:
    """The carry before the first batch, and for streams that begin anew.

    Args:
        num_envs: number of streams, the first batch dimension of the wire.
    """
    return {"reward": torch.zeros(num_envs)}


def observation_keys(wire: TensorDictBase) -> list[str]:
    """Names of the wire's observations: every other entry at the root that also arrives under ``next``."""
    shared = set(wire.keys()) & set(wire.get("next").keys())
    return sorted(key for key in shared - set(WIRE) if not key.startswith((LOG_PREFIX, "_")))


def to_records(wire: TensorDictBase, carry: Carry | None = None) -> tuple[TensorDict, Carry]:
    """Turn one batch of the collector into records.

    Args:
        wire: [num_envs, time] in TorchRL's keys; see the diagram above. It is not modified.
        carry: what the previous call returned; ``None`` at the very beginning.

    Returns:
        records [m] with an int64 entry ``"stream"`` [m], sorted by stream and in order of time within each;
        m = num_envs * time + number of episodes that ended. And the carry for the next call.
    """
    envs, steps = wire.batch_size
    carry = carry or initial_carry(envs)
    after = wire.get("next")
    names = observation_keys(wire)
    is_first = wire.get("is_init").reshape(envs, steps)
    arrived = after.get("reward").reshape(envs, steps)
    reward = torch.cat([carry["reward"][:, None], arrived[:, :-1]], 1).masked_fill_(is_first, 0.0)
    never = torch.zeros(envs, steps, dtype=torch.bool)
    latent = after.get(LATENT)
    latents = {name: latent.get(name) for name in sorted(latent.keys())}
    rows: Rows = {
        **{(OBS, name): wire.get(name) for name in names},
        PREV_ACTION: wire.get(PREV_ACTION),
        REWARD: reward,
        IS_FIRST: is_first,
        IS_LAST: never,
        IS_TERMINAL: never,
        **{(LATENT, name): value for name, value in latents.items()},
        STREAM: torch.arange(envs)[:, None].expand(envs, steps),
    }
    rows = {key: value.reshape(envs * steps, *value.shape[2:]) for key, value in rows.items()}
    done = after.get("done").reshape(envs * steps)
    if done.any():
        rows = _insert_last_frames(rows, after, done.nonzero()[:, 0], names)
    return _nested(rows), {"reward": arrived[:, -1].clone()}


def _insert_last_frames(rows: Rows, after: TensorDictBase, ended: Tensor, names: list[str]) -> Rows:
    """Append one record per ended episode and sort it behind the wire step (flat index ``ended``) that it followed."""

    def at_end(value: Tensor) -> Tensor:
        return value.reshape(-1, *value.shape[2:])[ended]

    count = len(ended)
    yes = torch.ones(count, dtype=torch.bool)
    extra: Rows = {
        **{(OBS, name): at_end(after.get(name)) for name in names},
        PREV_ACTION: at_end(after.get(PREV_ACTION)),
        REWARD: at_end(after.get("reward")).reshape(count),
        IS_FIRST: ~yes,
        IS_LAST: yes,
        IS_TERMINAL: at_end(after.get("terminated")).reshape(count),
        STREAM: rows[STREAM][ended],
    }
    for key, value in rows.items():
        if key[0] == LATENT:
            extra[key] = value.new_zeros(count, *value.shape[1:])
    time = torch.cat([2 * torch.arange(len(rows[STREAM])), 2 * ended + 1])
    order = time.argsort()
    return {key: torch.cat([value, extra[key].to(value.dtype)])[order] for key, value in rows.items()}


def _nested(rows: Rows) -> TensorDict:
    """Flat rows with tuple keys to one TensorDict of records."""
    nested: dict = {OBS: {}, LATENT: {}}
    for key, value in rows.items():
        if isinstance(key, tuple):
            nested[key[0]][key[1]] = value
        else:
            nested[key] = value
    size = (len(rows[STREAM]),)
    nested[OBS] = TensorDict(nested[OBS], size)
    nested[LATENT] = TensorDict(nested[LATENT], size)
    return TensorDict(nested, size)

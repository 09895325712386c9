"""Episodes as tables of records, and as the arrays that other people's data sets hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dreamer_lightning.data.arrays import stacked, to_native, to_tensors
from dreamer_lightning.envs.actions import described, listener
from dreamer_lightning.types import (
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    OBS,
    PREV_ACTION,
    REWARD,
    Space,
    Specs,
    UserError,
)

Table = dict[Any, Tensor]  # records [m] of one episode by entry, as ``data.Replay`` keeps them, without latents


def table(obs: Mapping[str, Tensor], prev_action: Tensor, reward: Tensor, terminal: bool) -> Table:
    """An episode of ``t`` actions as records [t + 1], the last of which is its end.

    Args:
        obs: by name, [t + 1, ...].
        prev_action: flat, [t + 1, a]; that of the first record is 0.
        reward: [t + 1]; that of the first record is 0.
        terminal: the episode ended in a terminal state, and was not cut.
    """
    place = torch.arange(len(reward))
    last = place == len(reward) - 1
    flags = {IS_FIRST: place == 0, IS_LAST: last, IS_TERMINAL: last & terminal}
    return {**{(OBS, name): value for name, value in obs.items()}, PREV_ACTION: prev_action, REWARD: reward, **flags}


def read_episode(specs: Specs, space: spaces.Space, episode: Any) -> Table:
    """The records of an episode that has observations [t + 1], actions, rewards and terminations [t], as Minari has.

    Args:
        specs: the spaces that it must have.
        space: its action space.
        episode: ``minari.EpisodeData``.

    Raises:
        UserError: it has other observations or actions.
    """
    count = len(episode.rewards)
    obs, _ = to_tensors(specs, episode.observations, count + 1, torch.device("cpu"))
    prev_action = torch.zeros(count + 1, specs.action_dim)
    kept = np.asarray(episode.infos.get("prev_action", 0)) if episode.infos else np.zeros(0)
    if kept.shape == tuple(prev_action.shape):  # ``write_episode`` keeps it: scaling and back may lose a last bit
        prev_action = torch.as_tensor(kept, dtype=torch.float32)
    else:
        prev_action[1:] = flat_actions(specs, space, episode.actions)
    reward = torch.zeros(count + 1)
    reward[1:] = torch.as_tensor(np.asarray(episode.rewards, np.float32))
    return table(obs, prev_action, reward, bool(np.any(episode.terminations)))


def flat_actions(specs: Specs, space: spaces.Space, actions: Any) -> Tensor:
    """A space's own actions, arrays [t, ...] in its nesting, as flat vectors [t, a].

    Raises:
        UserError: the policy acts otherwise.
    """
    numbers = {name: torch.as_tensor(value) for name, value in listener(space)(actions).items()}
    layout = specs.actions
    there = {name: tuple(value.shape[1:]) for name, value in numbers.items()}
    if there != {name: one.shape for name, one in layout.items()}:
        raise UserError(f"actions are {space} there, here {', '.join(f'{n} {s.words}' for n, s in layout.items())}")
    return layout.one_hot(numbers)


def write_episode(specs: Specs, rows: Table) -> dict[str, Any]:
    """What ``minari.EpisodeBuffer`` takes of an episode: the inverse of ``read_episode``."""
    obs: dict[str, Any] = {}
    for name, space in specs.obs.items():
        value = rows[OBS, name].numpy()
        *path, last = name.split("/")
        place = obs
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value + np.asarray(space.start) if space.discrete else value
    count = len(rows[REWARD]) - 1
    ends, terminal = np.arange(count) == count - 1, bool(rows[IS_TERMINAL][-1])
    action = rows[PREV_ACTION]
    return {
        "observations": obs,
        "actions": stacked(to_native(specs, action[1:])) if specs.native else action[1:].numpy(),
        "rewards": rows[REWARD][1:].numpy(),
        "terminations": ends & terminal,
        "truncations": ends & (not terminal),
        "infos": {"prev_action": action.numpy()},
    }


def spaces_of(specs: Specs) -> tuple[spaces.Dict, spaces.Space]:
    """The spaces of what ``write_episode`` writes: observations by name, the environment's own actions."""
    tree: dict[str, Any] = {}
    for name, one in specs.obs.items():
        *path, last = name.split("/")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = _space(one)
    flat = spaces.Box(-1.0, 1.0, (specs.action_dim,), np.float32)
    return _dict(tree), described(specs.native) if specs.native else flat


def _dict(tree: dict[str, Any]) -> spaces.Dict:
    return spaces.Dict({name: _dict(part) if isinstance(part, dict) else part for name, part in tree.items()})


def _space(one: Space) -> spaces.Space:
    if one.discrete and not one.shape:
        return spaces.Discrete(one.classes, start=int(np.asarray(one.start)))
    if one.discrete:
        start = np.broadcast_to(np.asarray(one.start, np.int64), one.shape)
        return spaces.MultiDiscrete(np.full(one.shape, one.classes), start=start)
    if one.dtype == "bool":
        return spaces.MultiBinary(one.shape)
    if one.dtype == "float32":
        return spaces.Box(-np.inf, np.inf, one.shape, np.float32)
    kind = np.iinfo(one.dtype)
    return spaces.Box(kind.min, kind.max, one.shape, np.dtype(one.dtype).type)

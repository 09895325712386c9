"""Between other people's numpy arrays and the tensors of acting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.envs.actions import described, speaker
from dreamer_lightning.envs.pictures import joined, resize, to_bytes
from dreamer_lightning.types import Space, Specs, UserError

Arrays = dict[str, np.ndarray]


def to_tensors(specs: Specs, obs: Arrays | np.ndarray, n: int, device: torch.device) -> tuple[dict[str, Tensor], bool]:
    """Observations [n, ...] on the device, and whether they came from one environment without the ``n``.

    Args:
        specs: what the agent was trained on.
        obs: by name, nested or not; a lone observation needs no name. What the agent does not see is left out. Images
            are of any size, with channels last, first, or none, in the environment's own numbers.
        n: environments.
        device: where they go.

    Raises:
        UserError: one is missing, or has another shape.
    """
    obs = flat(obs) if isinstance(obs, Mapping | tuple) else {next(iter(specs.obs)): obs}
    missing = [name for name in specs.obs if name not in obs]
    if missing:
        raise UserError(f"obs: {', '.join(missing)} missing; the agent was trained on {', '.join(specs.obs)}")
    tensors, single = {}, False
    for name, space in specs.obs.items():
        array = np.asarray(obs[name])
        if space.discrete:  # in the environment's own numbers
            array = array - np.asarray(space.start)
            if array.size and not (array.min() >= 0 and array.max() < space.classes):
                raise UserError(
                    f"obs: {name} holds {np.asarray(obs[name]).tolist()}; the space is {space.source or space}"
                )
        if space.image and space.scale is not None:
            array = to_bytes(array, *space.scale)
        array = array.astype(space.dtype)
        if space.image:
            array = picture(array, space)
        single = n == 1 and array.shape != (1, *space.shape) and array.size == space.size // max(1, space.classes)
        if not single and (array.shape[:1] != (n,) or array.size * max(1, space.classes) != n * space.size):
            raise UserError(f"obs: {name} has shape {array.shape}, expected {(n, *space.shape)} or {space.shape}")
        tensors[name] = torch.from_numpy(array.reshape(n, *space.shape).copy()).to(device)
    return tensors, single


def flat(obs: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts and tuples of observations by names such as ``arm/angle``."""
    if not isinstance(obs, Mapping | tuple):
        return {name: obs}
    found: dict[str, Any] = {}
    for key, part in obs.items() if isinstance(obs, Mapping) else enumerate(obs):
        found |= flat(part, f"{name}/{key}" if name else str(key))
    return found


def picture(array: np.ndarray, space: Space) -> np.ndarray:
    """A uint8 picture, or several, in the size that the agent sees: [height, width, channels]."""
    height, width, channels = space.shape
    if array.shape[-3:] == space.shape or array.ndim < 2 or height != width:
        return array
    if array.shape[-1] != channels:
        first = array.ndim >= 3 and array.shape[-3] == channels
        array = np.moveaxis(array, -3, -1) if first else array[..., None] if channels == 1 else array
    if array.ndim > 3 and array.shape[-1] != channels == array.shape[-1] * array.shape[-4]:
        array = joined(array)
    if array.ndim > 3:
        return np.stack([picture(each, space) for each in array])
    return resize(array, height) if array.ndim == 3 else array


def to_native(specs: Specs, action: Tensor) -> list[Any]:
    """Flat wire actions [n, a] as the environment itself takes them, scaled to its bounds; one for each row."""
    numbers = {name: value.cpu().numpy() for name, value in specs.actions.numbers(action.float()).items()}
    write = speaker(described(specs.native))
    return [write({name: value[row] for name, value in numbers.items()}) for row in range(len(action))]


def stacked(rows: list[Any]) -> Any:
    """Actions of several environments as gymnasium's vector environments take them: one array for each entry."""
    if isinstance(rows[0], dict):
        return {key: stacked([row[key] for row in rows]) for key in rows[0]}
    if isinstance(rows[0], tuple):
        return tuple(stacked(list(parts)) for parts in zip(*rows, strict=True))
    return np.stack(rows)


def to_action(specs: Specs, action: Tensor) -> np.ndarray:
    """Flat wire actions [*b, a] as environments take them.

    Returns:
        Continuous: float32 in [-1, 1] [*b, a]; discrete: class numbers [*b]; MultiDiscrete: a vector of them.
    """
    layout = specs.actions
    numbers = layout.numbers(layout.clip(action.float()))
    if not next(iter(layout.values())).discrete:
        return layout.join(numbers).cpu().numpy()
    classes = [number.cpu() + space.start for number, space in zip(numbers.values(), layout.values(), strict=True)]
    return (classes[0] if len(classes) == 1 else torch.stack(classes, -1)).numpy()


def flat_actions(specs: Specs, actions: np.ndarray, samples: int) -> Tensor:
    """The inverse of ``to_action`` for sequences: the flat vectors [samples, length, a].

    Args:
        specs: of the environment.
        actions: [length, ...] for all samples, or [samples, length, ...].
        samples: how many sequences.

    Raises:
        UserError: another shape.
    """
    layout, given = specs.actions, torch.as_tensor(actions)
    lone = len(layout) == 1 and next(iter(layout.values())).discrete and not next(iter(layout.values())).shape
    found = given.unsqueeze(-1) if lone else given
    found = found.expand(samples, *found.shape) if found.ndim == 2 else found
    whole = all(space.discrete for space in layout.values())
    width = len(layout) if whole else layout.size
    if found.ndim != 3 or len(found) != samples or found.shape[-1] != width or not found.shape[1]:
        shape = ("length",) if lone else ("length", width)
        raise UserError(
            f"actions: shape {tuple(given.shape)}; expected ({', '.join(map(str, shape))}), or {samples} of these"
        )
    if not whole:
        return layout.clip(found.float())
    starts = [space.start for space in layout.values()]
    columns = zip(layout, found.long().unbind(-1), starts, strict=True)
    return layout.one_hot({name: column - start for name, column, start in columns})

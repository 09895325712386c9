"""The actions of gymnasium's spaces as one space that TorchRL knows, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from dreamer_lightning.types import Layout, Space, UserError

CHOICES = 64  # whole numbers of an action that are chosen among; more are rounded


class Action(NamedTuple):
    """How an environment's actions are spoken.

    Args:
        space: the space that TorchRL sees.
        write: turns its actions into the environment's own.
        starts: the number that each discrete action begins with.
        entries: the actions by name, where ``space`` is one vector of several: numbers in [-1, 1], one-hot classes.
    """

    space: spaces.Space
    write: Callable[[Any], Any]
    starts: list[int]
    entries: Layout | None = None


def action(space: spaces.Space) -> Action:
    """How actions of a space are spoken.

    Raises:
        UserError: nobody knows.
    """
    if isinstance(space, spaces.Discrete):
        return Action(spaces.Discrete(int(space.n)), lambda a: int(a) + int(space.start), [int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        start = space.start
        write = lambda a: (np.asarray(a).reshape(space.shape) + start).astype(space.dtype)  # noqa: E731
        return Action(_classes(space.nvec.reshape(-1)), write, start.reshape(-1).tolist())
    if isinstance(space, spaces.MultiBinary):
        flat = _classes(np.full(int(np.prod(space.shape)), 2))
        return Action(flat, lambda a: np.asarray(a).reshape(space.shape).astype(space.dtype), [])
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Action(space, lambda a: np.array(a, space.dtype).reshape(space.shape), [])
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
        sizes = high - low + 1
        if sizes.max() <= CHOICES:
            write = lambda a: (np.asarray(a).reshape(space.shape) + space.low).astype(space.dtype)  # noqa: E731
            return Action(_classes(sizes.astype(np.int64).reshape(-1)), write, space.low.reshape(-1).tolist())
        wire = spaces.Box(low.astype(np.float32), high.astype(np.float32), space.shape, np.float32)
        return Action(wire, lambda a: np.clip(np.rint(a), low, high).astype(space.dtype).reshape(space.shape), [])
    if isinstance(space, spaces.Dict | spaces.Tuple) and len(space.spaces):
        return _several(space)
    known = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these"
    raise UserError(f"env: actions of {space} are not supported; {known} are")


def describe(space: spaces.Space) -> dict[str, Any]:
    """An action space as plain data, which a file of JSON holds; empty for a kind that ``action`` does not know."""
    kind = {"kind": type(space).__name__}
    if isinstance(space, spaces.Discrete):
        return kind | {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return kind | {"nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return kind | {"shape": list(space.shape)}
    if isinstance(space, spaces.Box):
        return kind | {"low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Dict):
        return kind | {"spaces": {name: describe(part) for name, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return kind | {"spaces": [describe(part) for part in space.spaces]}
    return {}


def described(plain: dict[str, Any]) -> spaces.Space:
    """The inverse of ``describe``."""
    if plain["kind"] == "Discrete":
        return spaces.Discrete(plain["n"], start=plain["start"])
    if plain["kind"] == "MultiDiscrete":
        return spaces.MultiDiscrete(plain["nvec"], plain["dtype"], start=plain["start"])
    if plain["kind"] == "MultiBinary":
        return spaces.MultiBinary(plain["shape"])
    if plain["kind"] == "Box":
        low, high = (np.array(plain[side], plain["dtype"]) for side in ("low", "high"))
        return spaces.Box(low, high, low.shape, low.dtype.type)
    if plain["kind"] == "Dict":
        return spaces.Dict({name: described(part) for name, part in plain["spaces"].items()})
    return spaces.Tuple([described(part) for part in plain["spaces"]])


def speaker(space: spaces.Space) -> Callable[[dict[str, np.ndarray]], Any]:
    """What turns numbers in [-1, 1] and classes from 0, by the names of ``Specs.action``, into a space's action."""
    nested = isinstance(space, spaces.Dict | spaces.Tuple)
    return _writer(space, "" if nested else "action", {})


def listener(space: spaces.Space) -> Callable[[Any], dict[str, np.ndarray]]:
    """The inverse of ``speaker`` for rows of actions: arrays [t, ...] in the space's nesting as numbers in [-1, 1] and
    classes from 0, [t, ...] by the names of ``Specs.action``."""
    return _reader(space, "" if isinstance(space, spaces.Dict | spaces.Tuple) else "action")


def _reader(space: spaces.Space, name: str) -> Callable[[Any], dict[str, np.ndarray]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        readers = {key: _reader(part, f"{name}{'/' * bool(name)}{key}") for key, part in parts}
        return lambda rows: {k: v for key, read in readers.items() for k, v in read(rows[key]).items()}
    one = action(space)
    entries: dict[str, Space] = {}
    _writer(space, name, entries)
    if isinstance(one.space, spaces.Box):
        low, high = reach(one.space.low, one.space.high)
        middle, half = (high + low) / 2, np.where(high > low, (high - low) / 2, 1.0)
        scaled = lambda rows: (np.reshape(rows, (-1, *low.shape)).astype(np.float64) - middle) / half  # noqa: E731
        return lambda rows: {name: np.clip(scaled(rows), -1.0, 1.0).astype(np.float32)}
    starts = np.array(one.starts or 0)
    columns = lambda rows: (np.reshape(rows, (len(rows), -1)).astype(np.int64) - starts).T  # noqa: E731
    return lambda rows: dict(zip(entries, columns(rows), strict=True))


def _several(space: spaces.Dict | spaces.Tuple) -> Action:
    """The actions of a Dict or Tuple, nested or not, side by side in one vector: ``arm/grip`` is one of its names."""
    entries: dict[str, Space] = {}
    write = _writer(space, "", entries)
    layout = Layout(sorted(entries.items()))

    def spoken(flat: Any) -> Any:
        numbers = layout.numbers(torch.as_tensor(np.asarray(flat, np.float32)))
        return write({name: value.numpy() for name, value in numbers.items()})

    return Action(spaces.Box(-1.0, 1.0, (layout.size,), np.float32), spoken, [], layout)


def _writer(space: spaces.Space, name: str, entries: dict[str, Space]) -> Callable[[dict[str, np.ndarray]], Any]:
    """Adds the entries of a space to ``entries``, and returns what makes the space's own action of their numbers."""
    if isinstance(space, spaces.Dict):
        parts = {key: _writer(part, f"{name}{'/' * bool(name)}{key}", entries) for key, part in space.spaces.items()}
        return lambda numbers: {key: write(numbers) for key, write in parts.items()}
    if isinstance(space, spaces.Tuple):
        rows = [_writer(part, f"{name}{'/' * bool(name)}{i}", entries) for i, part in enumerate(space.spaces)]
        return lambda numbers: tuple(write(numbers) for write in rows)
    one = action(space)
    if isinstance(one.space, spaces.Box):
        entries[name] = Space(tuple(one.space.shape), "float32")
        low, high = reach(one.space.low, one.space.high)
        middle, half = (high + low) / 2, (high - low) / 2
        flat = lambda numbers: np.clip(np.reshape(numbers[name], low.shape), -1.0, 1.0)  # noqa: E731
        return lambda numbers: one.write(np.clip(middle + half * flat(numbers), low, high))
    if isinstance(one.space, spaces.Discrete):
        entries[name] = Space((), "int32", int(one.space.n), one.starts[0] if one.starts else 0)
        return lambda numbers: one.write(numbers[name])
    assert isinstance(one.space, spaces.MultiDiscrete)
    sizes = [int(n) for n in one.space.nvec]
    names = [f"{name}_{i:0{max(2, len(str(len(sizes) - 1)))}d}" for i in range(len(sizes))]
    entries |= {each: Space((), "int32", n) for each, n in zip(names, sizes, strict=True)}
    return lambda numbers: one.write(np.array([numbers[each] for each in names]))


def reach(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest action; an infinite bound counts as 2 from the other one, two as -1 and 1."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    below, above = np.isfinite(low), np.isfinite(high)
    least = np.where(below, low, np.where(above, high - 2, -1.0))
    return least, np.where(above, high, np.where(below, low + 2, 1.0))


def _classes(sizes: np.ndarray) -> spaces.Space:
    """Classes of several entries; of a lone one TorchRL makes a plain number, which MultiDiscrete does not take."""
    return spaces.Discrete(int(sizes[0])) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)

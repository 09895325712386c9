"""A gymnasium environment held to its word: what its spaces do not say is refused, with its name and step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from math import prod
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_lightning.envs.actions import action
from dreamer_lightning.envs.pictures import Channels, picture_of
from dreamer_lightning.envs.transforms import hidden
from dreamer_lightning.types import LOG_PREFIX, UserError

PREFIX = "obs:"  # TorchRL renames an observation called "state"; with a prefix nothing is renamed
TABLE = 8192  # entries of a one-hot table; larger ones stay numbers
_READ = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)  # kinds of observations
_RESET = "gymnasium's API wants reset(self, *, seed=None, options=None), which returns (observation, info)"
_STEP = "gymnasium's API wants step(self, action), which returns (observation, reward, terminated, truncated, info)"


class Reader(NamedTuple):
    """One observation: its space on the wire, the function that brings it there, what ``types.Space`` says besides."""

    space: spaces.Space
    read: Callable[[np.ndarray], np.ndarray]
    facts: dict[str, Any]
    low: Any = None  # bounds that values are held to, None: any
    high: Any = None


class Strict(gymnasium.Wrapper):
    """Flat names, wire types and checked values; ``info`` entries as ``log/<name>``; actions from 0 upwards.

    Attributes:
        facts: what ``types.Space`` says of each observation besides shape and type.
        starts: the number that each discrete action begins with.
        notes: lines for the user, which whoever reads them takes out.

    Args:
        env: any gymnasium environment with Box, Discrete, MultiDiscrete or MultiBinary leaves.
        log_info: names of info entries; an entry that is missing at a step counts as 0.
        image_size: height and width to which images are resized; 0 keeps them.
        hide: names or patterns of observations that may be of any kind: what cannot be read is left out.
        channels: where pictures have them.
        kinds: what observations are taken for by the user's word: ``image``, ``numbers`` or a number of classes.

    Raises:
        UserError: a space is not supported; at run time, what the spaces or gymnasium's API do not allow, such as an
            observation of another shape or outside its bounds (key and step named).
    """

    def __init__(
        self,
        env: gymnasium.Env,
        log_info: Sequence[str] = (),
        image_size: int = 0,
        hide: Sequence[str] = (),
        channels: Channels = "auto",
        kinds: Mapping[str, Any] | None = None,
    ):
        super().__init__(env)
        self.log_info, self.steps = list(log_info), 0
        self.first: Any = None  # what the last reset returned
        self.notes: list[str] = []
        self.missing: set[str] | None = set(self.log_info)  # never seen yet; None once that is told
        space = env.observation_space
        kinds, self.root = dict(kinds or {}), "observation"
        if isinstance(space, spaces.Box):  # a lone one has no name of its own
            lone = kinds.pop("image", kinds.pop("observation", None))
            self.root = "image" if _picture(space, channels, lone) is not None else "observation"
            kinds |= {} if lone is None else {self.root: lone}
        self.leaves = {name: leaf for name, leaf, _ in flatten(space, None, self.root)}
        unknown = kinds.keys() - self.leaves.keys()
        if unknown:
            raise UserError(f"env.kinds: no observation {min(unknown)!r}; there are: {', '.join(self.leaves)}")
        self.readers = {
            name: reader(name, leaf, image_size, channels, kinds.get(name))
            for name, leaf in self.leaves.items()
            if isinstance(leaf, _READ) or not hidden(name, hide)
        }
        self.facts = {name: one.facts for name, one in self.readers.items()}
        flat = {PREFIX + name: one.space for name, one in self.readers.items()}
        flat |= {PREFIX + LOG_PREFIX + name: spaces.Box(-np.inf, np.inf, (1,), np.float32) for name in self.log_info}
        self.observation_space = spaces.Dict(flat)
        self.action_space, self.write, self.starts, self.actions = action(env.action_space)

    @property
    def unwrapped(self) -> gymnasium.Env:
        """The environment itself, unless it has a ``num_envs``, by which TorchRL would take it for several."""
        inner = self.env.unwrapped
        return self if hasattr(inner, "num_envs") else inner

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        try:
            both = self.env.reset(seed=seed, options=options)
        except Exception as error:
            if isinstance(error, TypeError) and re.search("unexpected keyword argument '(seed|options)'", str(error)):
                raise UserError(f"env: {line(error)}; {_RESET}") from error
            if self.steps or self.first is None or seed is not None:
                raise
            both = self.first  # it refuses before the end of its episode, of which nothing was played yet
        self.steps, self.first = 0, both
        if not (isinstance(both, tuple | list) and len(both) == 2 and isinstance(both[1], Mapping | None)):
            raise UserError(f"env: reset returns no pair of an observation and an info dict; {_RESET}")
        return self._read(*both), {}

    def step(self, action):
        self.steps += 1
        try:
            obs, reward, terminated, truncated, info = self.env.step(self.write(action))
        except ValueError as error:
            if "to unpack (expected 5" not in str(error):  # a wrapper of gymnasium's own may have said it
                raise
            raise UserError(f"env: step does not return five values; {_STEP}") from error
        try:
            [number] = np.asarray(reward, np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise UserError(f"env: the reward at step {self.steps} is {reward!r}; it must be one number") from error
        out = self._read(obs, info)
        if terminated or truncated:
            self._note_missing(info)
        return out, float(number), bool(terminated), bool(truncated), {}

    def _read(self, obs, info) -> dict[str, np.ndarray]:
        out = {}
        for name, space, value in self._flat(obs):
            if name not in self.readers:
                continue
            out[PREFIX + name] = self.read(name, space, np.asarray(value))
        for name in self.log_info:
            out[PREFIX + LOG_PREFIX + name] = self._logged(info, name)
        return out

    def read(self, name: str, space: spaces.Space, value: np.ndarray, lead: tuple[int, ...] = ()) -> np.ndarray:
        """An observation, or several of shape ``lead``, as on the wire: checked, a fresh copy."""
        one = self.readers[name]
        if value.shape != (*lead, *(space.shape or ())):
            self._refuse(name, f"has shape {value.shape}", (*lead, *(space.shape or ())))
        if np.issubdtype(space.dtype, np.integer) and value.dtype.kind == "f" and (value != np.rint(value)).any():
            self._refuse(name, f"holds fractions ({value.dtype})", space.dtype)
        if one.low is not None and ((value < one.low) | (value > one.high)).any():
            bad = value[(value < one.low) | (value > one.high)].flat[0]
            self._refuse(name, f"holds {bad}", space)
        return np.stack([one.read(x) for x in value]) if lead and one.facts.get("image") else one.read(value)

    def _flat(self, obs: Any) -> list[tuple[str, spaces.Space, Any]]:
        try:
            return list(flatten(self.env.observation_space, obs, self.root))
        except (KeyError, IndexError, TypeError) as error:
            found = ", ".join(map(str, obs)) if isinstance(obs, Mapping) else type(obs).__name__
            raise UserError(
                f"env: at step {self.steps} the observations are {found}; "
                f"observation_space says {', '.join(self.leaves)}"
            ) from error

    def _refuse(self, name: str, what: str, said: Any) -> None:
        raise UserError(f"env: observation {name!r} {what} at step {self.steps}; observation_space says {said}")

    def _logged(self, info: Any, name: str) -> np.ndarray:
        """One number of ``info``, float32 [1]; 0 where the entry is missing, None or empty."""
        found, entry = _entry(info, name)
        if found and self.missing:
            self.missing.discard(name)
        try:
            numbers = np.asarray(0.0 if entry is None else entry, np.float32).reshape(-1)
        except (TypeError, ValueError) as error:
            kind = type(entry).__name__
            step = self.steps
            raise UserError(f"env.log_info: entry {name!r} is a {kind} at step {step}; it must be a number") from error
        return numbers[:1] if numbers.size else np.zeros(1, np.float32)

    def _note_missing(self, info: Any) -> None:
        """After the first episode, name the entries of ``log_info`` that it never had."""
        for name in sorted(self.missing or ()):
            near = get_close_matches(name, map(str, info or {}), 3)
            hint = f"; did you mean {', '.join(near)}?" if near else f"; info has {', '.join(map(str, info or {}))}"
            self.notes.append(f"env.log_info: no entry {name!r} in its first episode, it is logged as 0{hint}")
        self.missing = None


def flatten(space: spaces.Space, value: Any, root: str, name: str = "") -> Iterator[tuple[str, spaces.Space, Any]]:
    """(name, space, value) of the leaves of nested Dict and Tuple spaces; a leaf that lies in nothing is ``root``.

    Args:
        space: says what is nested.
        value: what the environment returned; None for the spaces alone.
        root: the name of a leaf that lies in nothing.
        name: where ``value`` lies.
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        if isinstance(value, Mapping) and isinstance(space, _READ):
            raise KeyError(name)
        yield name or root, space, value
        return
    for key, part in space.items() if isinstance(space, spaces.Dict) else enumerate(space):
        inside = None if value is None else value[key]
        yield from flatten(part, inside, root, f"{name}/{key}" if name else str(key))


def _picture(space: spaces.Box, channels: Channels, kind: Any = None):
    low, high = float(np.min(space.low)), float(np.max(space.high))
    alike = kind == "image" or (space.low == low).all() and (space.high == high).all()
    whole = np.issubdtype(space.dtype, np.integer)
    usual = kind in (None, "image") and alike and space.dtype != bool
    return picture_of(space.shape, low, high, whole, channels, kind == "image") if usual else None


def reader(name: str, space: spaces.Space, image_size: int, channels: Channels = "auto", kind: Any = None) -> Reader:
    """How one observation is read; each value that it returns is a fresh copy."""
    if isinstance(space, spaces.Discrete):
        classes, start = int(space.n), int(space.start)
        facts = {"classes": classes, "start": start, "source": str(space)}
        last = start + classes - 1
        return Reader(spaces.Discrete(classes), lambda x: np.asarray(x - start, np.int64), facts, start, last)
    if isinstance(space, spaces.MultiDiscrete):
        classes, first = int(np.max(space.nvec)), space.start
        facts = {"classes": classes, "start": first.tolist() if first.any() else 0, "source": str(space)}
        wire: spaces.Space = spaces.MultiDiscrete(np.full(space.shape, classes))
        return Reader(wire, lambda x: np.asarray(x - first, np.int64), facts, first, first + space.nvec - 1)
    if isinstance(space, spaces.MultiBinary):
        wire = spaces.MultiDiscrete(np.full(space.shape, 2))
        return Reader(wire, lambda x: np.array(x, np.int64), {"source": str(space)}, 0, 1)
    if not isinstance(space, spaces.Box):
        raise UserError(
            f"env: observation {name!r} is a {type(space).__name__}; Box, Discrete, MultiDiscrete, Dict work "
            "(env.hide leaves it out)"
        )
    low, high = np.min(space.low), np.max(space.high)
    source = f"{space.dtype} {space.shape} from {low:g} to {high:g}"
    picture = _picture(space, channels, kind)
    if picture is not None:
        source += ", channels first" if picture.first else ""
        wire = spaces.Box(0, 255, picture.wire_shape(image_size), np.uint8)
        plain = space.dtype == np.uint8 and (low, high) == (0, 255)
        facts = {"image": True, "source": source, "scale": None if plain else [float(low), float(high)]}
        held = (None, None) if space.dtype == np.uint8 else (low, high)
        return Reader(wire, lambda x: picture.wire(x, image_size), facts, *held)
    if kind == "image":
        raise UserError(f"env.kinds: {name!r} cannot be an image: shape {space.shape}, from {low:g} to {high:g}")
    whole = np.issubdtype(space.dtype, np.integer)
    classes = kind if isinstance(kind, int) else int(high - float(low)) + 1 if whole and np.isfinite(high) else 0
    shape = space.shape if 1 <= len(space.shape) <= 2 else (prod(space.shape),)  # networks take two dimensions at most
    shaped = lambda x: x.reshape(*x.shape[: x.ndim - len(space.shape)], *shape)  # noqa: E731
    small = whole and len(space.shape) > 1 and 0 < prod(space.shape) * classes <= TABLE
    if isinstance(kind, int) or kind is None and small:
        start = int(low)
        facts = {"classes": classes, "start": start, "source": source}
        wire = spaces.Box(0, classes - 1, shape, np.int64)
        return Reader(wire, lambda x: shaped(np.asarray(x, np.int64)) - start, facts, start, start + classes - 1)
    wire = spaces.Box(-np.inf, np.inf, shape, np.float32)
    return Reader(wire, lambda x: shaped(np.array(x, np.float32)), {"source": source})


def _entry(info: Any, name: str) -> tuple[bool, Any]:
    """Whether ``info[name]`` is there, and what it is; else ``a/b`` is ``info["a"]["b"]``."""
    if not isinstance(info, Mapping):
        return False, None
    head, slash, rest = name.partition("/")
    return (True, info[name]) if name in info else _entry(info.get(head), rest) if slash else (False, None)


def line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())

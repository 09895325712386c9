"""Any gymnasium environment, by its id."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from torchrl.envs import EnvBase, GymWrapper, TransformedEnv

from dreamer_lightning.envs.base import Suite, listed
from dreamer_lightning.envs.rendering import probe_gl
from dreamer_lightning.envs.transforms import Wire, hidden
from dreamer_lightning.envs.values import flatten, logged, resize
from dreamer_lightning.types import LOG_PREFIX, UserError

_PREFIX = "obs:"  # TorchRL renames an observation called "state"; with a prefix nothing is renamed
_READ = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)  # kinds of observations
_RESET = "gymnasium's API wants reset(self, *, seed=None, options=None), which returns (observation, info)"
_STEP = "gymnasium's API wants step(self, action), which returns (observation, reward, terminated, truncated, info)"


class GymSuite(Suite):
    """A suite of gymnasium environments.

    Args:
        log_info: names of ``info`` entries that are logged as ``episode/<name>``; ``a/b`` reads ``info["a/b"]`` or
            ``info["a"]["b"]``.
    """

    def __init__(self, log_info: Sequence[str] = (), **options: Any):
        super().__init__(**options)
        self.log_info = listed(log_info)

    def wire(self, env: gymnasium.Env, seed: int, repeat: int = 1) -> EnvBase:
        """A gymnasium environment on the wire: checked and flattened, TorchRL's wrapper, our one transform."""
        strict = Strict(env, self.log_info, self.image_size, self.hidden)
        strict.reset(seed=seed)
        wrapped = GymWrapper(strict, frame_skip=repeat, categorical_action_encoding=True)
        camera = (lambda: resize(_rendered(env), self.image_size)) if self.pixels else None
        shape = camera().shape if camera else ()
        return TransformedEnv(wrapped, Wire(wrapped, self.hidden, prefix=_PREFIX, camera=camera, picture=shape))

    def _frame(self, env: EnvBase) -> np.ndarray | None:
        inner = getattr(env.base_env, "_env", None)
        if getattr(inner, "render_mode", None) != "rgb_array":
            return None
        try:
            return np.asarray(inner.render())
        except Exception:  # a video is never worth a run: no package, no display, no texture
            return None


class Gym(GymSuite):
    """A gymnasium environment by id, such as ``CartPole-v1`` (``module:Id-v0`` imports the module first).

    Args:
        task: the id.
        kwargs: arguments for ``gymnasium.make``.
    """

    def __init__(self, task: str = "CartPole-v1", kwargs: Mapping[str, Any] | None = None, **options: Any):
        super().__init__(**options)
        self.task, self.kwargs = task, dict(kwargs or {})
        self.name = task.rpartition(":")[2].replace("/", "_")

    def make(self, seed: int, pixels_for_video: bool = False) -> EnvBase:
        return self.wire(self._load(self.pixels or pixels_for_video), seed, self.repeat)

    def _load(self, draw: bool) -> gymnasium.Env:
        kwargs = dict(self.kwargs)
        if self.time_limit is not None:
            kwargs["max_episode_steps"] = self.time_limit
        module, _, name = self.task.rpartition(":")
        try:
            if module:  # it registers its environments; gymnasium.spec takes the id alone
                importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"env.task: {self.task}: cannot import {module}: {_line(error)}") from error
        try:
            spec = gymnasium.spec(name)
            if draw and "mujoco" in str(spec.entry_point):
                probe_gl()
            if draw:
                kwargs.setdefault("render_mode", "rgb_array")
            return gymnasium.make(spec, disable_env_checker=True, **kwargs)
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"env.task: {self.task} needs a package that is not installed: {_line(error)}") from error
        except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error, ModuleNotFoundError) as error:
            if name in gymnasium.registry:  # it is there, what it is made of is not
                raise UserError(f"env.task: {self.task} cannot be made: {_line(error)}") from error
            near = get_close_matches(name, list(gymnasium.registry), 3, 0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else f" ({_line(error)})"
            raise UserError(f"env.task: no gymnasium environment {self.task!r}{hint}") from error
        except (TypeError, ValueError) as error:
            if draw and not self.pixels and "render_mode" not in self.kwargs:  # it plays without pictures
                return self._load(False)
            raise UserError(f"env.kwargs: {self.task} does not take {self.kwargs}: {_line(error)}") from error


class Strict(gymnasium.Wrapper):
    """Flat names, wire types and checked shapes; ``info`` entries as ``log/<name>``; actions from 0 upwards.

    Args:
        env: any gymnasium environment with Box, Discrete, MultiDiscrete or MultiBinary leaves.
        log_info: names of info entries; an entry that is missing at a step counts as 0.
        image_size: height and width to which images are resized; 0 keeps them.
        hide: names or patterns of observations that may be of any kind: what cannot be read is left out.

    Raises:
        UserError: a space is not supported; at run time, what gymnasium's API does not allow, such as an observation of
            another shape (key and step named).
    """

    def __init__(self, env: gymnasium.Env, log_info: Sequence[str] = (), image_size: int = 0, hide: Sequence[str] = ()):
        super().__init__(env)
        self.log_info, self.steps = list(log_info), 0
        self.root = "image" if _picture(env.observation_space) else "observation"
        self.leaves = dict(flatten(env.observation_space, self.root))
        self.readers = {
            name: _reader(name, space, image_size)
            for name, space in self.leaves.items()
            if isinstance(space, _READ) or not hidden(name, hide)
        }
        lone = not isinstance(env.observation_space, spaces.Dict | spaces.Tuple)
        self.unread = {"" if lone else name for name in self.leaves.keys() - self.readers.keys()}
        flat = {_PREFIX + name: reader[0] for name, reader in self.readers.items()}
        flat |= {_PREFIX + LOG_PREFIX + name: spaces.Box(-np.inf, np.inf, (1,), np.float32) for name in self.log_info}
        self.observation_space = spaces.Dict(flat)
        self.action_space, self.write = _action(env.action_space)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self.steps = 0
        try:
            both = self.env.reset(seed=seed, options=options)
        except TypeError as error:
            if not re.search("unexpected keyword argument '(seed|options)'", str(error)):
                raise
            raise UserError(f"env: {_line(error)}; {_RESET}") from error
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
            reward = float(reward)
        except (TypeError, ValueError) as error:
            raise UserError(f"env: the reward at step {self.steps} is {reward!r}; it must be one number") from error
        return self._read(obs, info), reward, bool(terminated), bool(truncated), {}

    def _read(self, obs, info) -> dict[str, np.ndarray]:
        flat = dict(flatten(obs, self.root, self.unread))
        if flat.keys() != self.leaves.keys():
            raise UserError(
                f"env: at step {self.steps} the observations are {', '.join(flat)}; "
                f"observation_space says {', '.join(self.leaves)}"
            )
        out = {}
        for name, (_, read) in self.readers.items():
            value, shape = np.asarray(flat[name]), self.leaves[name].shape
            if value.shape != shape:
                raise UserError(
                    f"env: observation {name!r} has shape {value.shape} at step {self.steps}; "
                    f"observation_space says {shape}"
                )
            out[_PREFIX + name] = read(value)
        for name in self.log_info:
            out[_PREFIX + LOG_PREFIX + name] = logged(info, name, self.steps)
        return out


def _picture(space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return min(space.shape[:2]) > 4  # smaller ones are tables of bytes


def _reader(name: str, space: spaces.Space, image_size: int) -> tuple[spaces.Space, Callable[[np.ndarray], np.ndarray]]:
    """The wire's space of one observation and the function that brings it there; each value is a fresh copy."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), lambda x: np.asarray(x - space.start, np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        classes, start = int(np.max(space.nvec)), space.start
        return spaces.MultiDiscrete(np.full(space.shape, classes)), lambda x: np.asarray(x - start, np.int64)
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiDiscrete(np.full(space.shape, 2)), lambda x: np.array(x, np.int64)
    if not isinstance(space, spaces.Box):
        raise UserError(
            f"env: observation {name!r} is a {type(space).__name__}; Box, Discrete, MultiDiscrete, Dict work "
            "(env.hide leaves it out)"
        )
    if _picture(space):
        picture = resize(np.zeros(space.shape, np.uint8), image_size)
        return spaces.Box(0, 255, picture.shape, np.uint8), lambda x: resize(x, image_size)
    shape = space.shape or (1,)
    return spaces.Box(-np.inf, np.inf, shape, np.float32), lambda x: np.array(x, np.float32).reshape(shape)


def _action(space: spaces.Space) -> tuple[spaces.Space, Callable[[Any], Any]]:
    """The action space that TorchRL sees and the function that turns its actions into the environment's own."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), lambda a: int(a) + int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        flat = _classes(space.nvec.reshape(-1))
        return flat, lambda a: (np.asarray(a).reshape(space.shape) + space.start).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        flat = _classes(np.full(int(np.prod(space.shape)), 2))
        return flat, lambda a: np.asarray(a).reshape(space.shape).astype(space.dtype)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return space, lambda a: np.array(a, space.dtype).reshape(space.shape)
    raise UserError(
        f"env: actions of {space} are not supported; Box of floats, Discrete, MultiDiscrete, MultiBinary are"
    )


def _classes(sizes: np.ndarray) -> spaces.Space:
    """Classes of several entries; of a lone one TorchRL makes a plain number, which MultiDiscrete does not take."""
    return spaces.Discrete(int(sizes[0])) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)


def _rendered(env: gymnasium.Env) -> np.ndarray:
    try:
        picture = env.render()
    except Exception as error:
        raise UserError(f"env.pixels: the environment cannot render here: {_line(error)}") from error
    if not isinstance(picture, np.ndarray):
        raise UserError("env.pixels: the environment renders no rgb_array; set pixels to false")
    return picture


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())

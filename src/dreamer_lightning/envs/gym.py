"""Any gymnasium environment, by its id."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Literal

import gymnasium
import numpy as np
from torchrl.envs import EnvBase, GymWrapper, TransformedEnv

from dreamer_lightning.envs.actions import describe
from dreamer_lightning.envs.base import Suite, listed
from dreamer_lightning.envs.pictures import Channels, resize
from dreamer_lightning.envs.rendering import probe_gl
from dreamer_lightning.envs.strict import PREFIX, Strict, line
from dreamer_lightning.envs.transforms import Wire
from dreamer_lightning.types import UserError


class GymSuite(Suite):
    """A suite of gymnasium environments.

    Args:
        log_info: names of ``info`` entries that are logged as ``episode/<name>``; ``a/b`` reads ``info["a/b"]`` or
            ``info["a"]["b"]``.
        channels: where images have their channels: last (64, 64, 3), first (3, 64, 64), or as their shape says (auto).
        kinds: what observations are taken for by name, where their shape and bounds say it wrongly: ``image``,
            ``numbers``, or the number of classes of each entry.
        wrappers: gymnasium wrappers by class_path and init_args (or functions of an environment), the innermost first;
            they see every step of the simulator. Give yours ``get_state`` and ``set_state`` if a run shall resume
            within an episode.
    """

    def __init__(
        self,
        log_info: Sequence[str] = (),
        channels: Channels = "auto",
        kinds: Mapping[str, Literal["image", "numbers"] | int] | None = None,
        wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]] = (),
        **options: Any,
    ):
        super().__init__(**options)
        self.log_info, self.channels, self.kinds = listed(log_info), channels, dict(kinds or {})
        self.wrappers = list(wrappers)

    def wire(self, env: gymnasium.Env, seed: int, repeat: int = 1) -> EnvBase:
        """A gymnasium environment on the wire: checked and flattened, TorchRL's wrapper, our one transform."""
        for wrap in self.wrappers:
            env = _wrapped(wrap, env)
        strict = Strict(env, self.log_info, self.image_size, self.hidden, self.channels, self.kinds)
        strict.reset(seed=seed)
        wrapped = GymWrapper(strict, frame_skip=repeat, categorical_action_encoding=True)
        camera = (lambda: resize(_rendered(env), self.image_size)) if self.pixels else None
        shape = camera().shape if camera else ()
        wire = Wire(wrapped, self.hidden, PREFIX, camera, shape, strict.facts, strict.starts, strict.notes)
        wire.actions, wire.native = strict.actions, describe(env.action_space)
        return TransformedEnv(wrapped, wire)

    def prepare(self) -> None:
        if find_spec("mujoco") is not None:  # whatever draws by it may end the process where no backend works
            probe_gl()

    def _frame(self, env: EnvBase) -> np.ndarray | None:
        inner: Any = getattr(env.base_env, "_env", None)
        if getattr(inner, "render_mode", None) != "rgb_array":
            return None
        try:
            return inner.render()
        except Exception as error:  # the run goes on without videos: no package, no display, no texture
            self.no_picture = line(error) or type(error).__name__
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
            raise UserError(f"env.task: {self.task}: cannot import {module}: {line(error)}") from error
        try:
            spec = gymnasium.spec(name)
            if draw:
                kwargs.setdefault("render_mode", "rgb_array")
            return gymnasium.make(spec, disable_env_checker=True, **kwargs)
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"env.task: {self.task} needs a package that is not installed: {line(error)}") from error
        except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error, ModuleNotFoundError) as error:
            if name in gymnasium.registry:  # it is there, what it is made of is not
                raise UserError(f"env.task: {self.task} cannot be made: {line(error)}") from error
            near = get_close_matches(name, list(gymnasium.registry), 3, 0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else f" ({line(error)})"
            raise UserError(f"env.task: no gymnasium environment {self.task!r}{hint}") from error
        except (TypeError, ValueError) as error:
            if draw and not self.pixels and "render_mode" not in self.kwargs:  # it plays without pictures
                return self._load(False)
            if "unexpected keyword" in str(error):
                raise UserError(f"env.kwargs: {self.task} does not take {self.kwargs}: {line(error)}") from error
            raise UserError(f"env.task: {self.task} cannot be made: {type(error).__name__}: {line(error)}") from error


def _wrapped(wrap: Callable[[gymnasium.Env], gymnasium.Env], env: gymnasium.Env) -> gymnasium.Env:
    kinds = [part for part in getattr(wrap, "args", ()) if isinstance(part, type)]  # what a config names is a partial
    name = getattr([*kinds, wrap][0], "__name__", type(wrap).__name__)
    try:
        wrapped = wrap(env)
    except Exception as error:
        why = line(error) or type(error).__name__
        raise UserError(f"env.wrappers: {name} does not fit {type(env.unwrapped).__name__}: {why}") from error
    if not isinstance(wrapped, gymnasium.Env):
        raise UserError(f"env.wrappers: {name} makes a {type(wrapped).__name__}; it must be a gymnasium.Env")
    return wrapped


def _rendered(env: gymnasium.Env) -> np.ndarray:
    try:
        picture = env.render()
    except Exception as error:
        raise UserError(f"env.pixels: the environment cannot render here: {line(error)}") from error
    if not isinstance(picture, np.ndarray):
        raise UserError("env.pixels: the environment renders no rgb_array; set pixels to false")
    return picture

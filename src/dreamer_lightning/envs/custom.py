"""The user's own environment, by dotted path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import gymnasium
import torch
from torchrl.envs import Compose, EnvBase, TransformedEnv

from dreamer_lightning.envs.gym import GymSuite
from dreamer_lightning.envs.transforms import Pace, Wire
from dreamer_lightning.types import UserError


class Custom(GymSuite):
    """A class (or function) of your own that makes a gymnasium or a TorchRL environment.

    Args:
        path: ``module:Class``; the module lies in a folder on the import path, such as the config's.
        kwargs: arguments for the class.
    """

    def __init__(self, path: str, kwargs: Mapping[str, Any] | None = None, **options: Any):
        super().__init__(**options)
        self.path, self.kwargs, self.name = path, dict(kwargs or {}), path.rpartition(":")[2].lower()

    def make(self, seed: int, pixels_for_video: bool = False) -> EnvBase:
        maker, kwargs = load_object(self.path), dict(self.kwargs)
        if not callable(maker):
            raise UserError(f"env.path: {self.path} is a {type(maker).__name__}; it must be a class or a function")
        if (self.pixels or pixels_for_video) and "render_mode" in _parameters(maker):
            kwargs.setdefault("render_mode", "rgb_array")
        try:
            inspect.signature(maker).bind(**kwargs)
        except TypeError as error:
            raise UserError(f"env.kwargs: {self.path} does not take them: {error}") from error
        except ValueError:  # a builtin without a signature
            pass
        env: Any = maker(**kwargs)
        if isinstance(env, EnvBase):
            return self._wire_torchrl(env, seed)
        if not isinstance(env, gymnasium.Env):
            if isinstance(env, gymnasium.vector.VectorEnv):
                use = f"write --env dreamer_lightning.envs.Vector --env.task {self.path}"
                raise UserError(f"env.path: {self.path} makes a VectorEnv; {use}")
            old = hasattr(env, "reset") and hasattr(env, "step")
            raise UserError(
                f"env.path: {self.path} makes a {type(env).__name__}; it must be a gymnasium.Env or a TorchRL EnvBase"
                + ("; shimmy.GymV21CompatibilityV0(env=...) makes one of the old Gym API" if old else "")
            )
        if self.time_limit is not None:
            env = gymnasium.wrappers.TimeLimit(env, self.time_limit)
        return self.wire(env, seed, self.repeat)

    def _wire_torchrl(self, env: EnvBase, seed: int) -> EnvBase:
        if env.batch_size:
            raise UserError(f"env.path: {self.path} has batch size {list(env.batch_size)}; it must be one environment")
        if self.pixels or self.log_info:
            raise UserError(
                f"env: pixels and log_info are for gymnasium; let {self.path} return image and log/* itself"
            )
        with torch.random.fork_rng(devices=[]):  # TorchRL seeds the global generator as well
            env.set_seed(seed)
        wire = Wire(env, self.hidden, image_size=self.image_size, channels=self.channels)
        if self.repeat == 1 and self.time_limit is None:
            return TransformedEnv(env, wire)
        return TransformedEnv(env, Compose(Pace(self.repeat, self.time_limit), wire))


def load_object(path: str, option: str = "env.path") -> Any:
    """The object at ``module:name``; UserError says which half is wrong."""
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise UserError(f"{option}: {path!r} must look like module:Class")
    if module_name.endswith(".py"):
        found = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise UserError(f"{option}: {path!r} names a file; did you mean {found}:{name}?")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise UserError(
                f"{option}: no module {module_name!r}; put {module_name.replace('.', '/')}.py beside the config or in "
                "the current folder, or install it"
            ) from error
        raise UserError(f"{option}: {module_name} imports {error.name!r}, which is not installed") from error
    if not hasattr(module, name):
        near = get_close_matches(name, dir(module), 3)
        raise UserError(
            f"{option}: {module_name} has no {name!r}" + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    return getattr(module, name)


def _parameters(maker) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(maker).parameters
    except ValueError:
        return {}

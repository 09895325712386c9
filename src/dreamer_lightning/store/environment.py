"""The state of one environment as plain numbers and bytes: what its next steps depend on, and nothing else.

An environment that offers ``get_state()`` and ``set_state(state)`` itself is asked; dm_control and gymnasium's classic
control are known. Everything else has no state that could be saved: it begins a new episode after a resume.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from torchrl.envs import EnvBase, TransformedEnv

State = dict[str, Any]

# What gymnasium's own wrappers carry from step to step; other wrappers carry nobody knows what.
_CARRIED = {
    "TimeLimit": ("_elapsed_steps",),
    "OrderEnforcing": ("_has_reset",),
    "Strict": ("steps",),
    "FrameStackObservation": ("obs_queue", "padding_value"),
    **dict.fromkeys(
        (
            "PassiveEnvChecker",
            "ClipAction",
            "ClipReward",
            "DtypeObservation",
            "FilterObservation",
            "FlattenObservation",
        ),
        (),
    ),
    **dict.fromkeys(("GrayscaleObservation", "RescaleAction", "RescaleObservation", "ResizeObservation"), ()),
}


class NoState(Exception):
    """An environment whose state cannot be saved, and why."""


def get_state(env: EnvBase) -> State | None:
    """What the environment's next steps depend on, as numbers, strings and bytes; None if that cannot be known.

    Args:
        env: one environment, as a factory makes it.
    """
    try:
        return _get(env)
    except NoState:
        return None


def set_state(env: EnvBase, state: State) -> None:
    """Go on from what ``get_state`` gave, in an environment of the same factory.

    Raises:
        Exception: the state belongs to another environment.
    """
    if isinstance(env, TransformedEnv):
        steps, buffers = state["steps"], unpacked(state["buffers"])
        found = transforms(env)
        if len(steps) != len(found):
            raise ValueError(f"{len(steps)} transforms in the saved state, {len(found)} here")
        for transform, count in zip(found, steps, strict=True):
            if count is not None:
                transform.steps = count
        if buffers:
            env.transform.load_state_dict(buffers)
        set_state(env.base_env, state["base"])
    elif _offers(env):
        env.set_state(unpacked(state["own"]))
    elif "physics" in state:
        _set_dm_control(env._env, state)
    else:
        _set_gym(env._env, state)


def _get(env: EnvBase) -> State:
    if isinstance(env, TransformedEnv):
        return {
            "steps": [getattr(transform, "steps", None) for transform in transforms(env)],
            "buffers": packed(dict(env.transform.state_dict())),
            "base": _get(env.base_env),
        }
    if _offers(env):
        return {"own": packed(env.get_state())}
    inner = vars(env).get("_env")
    if isinstance(inner, gymnasium.Env):
        return _get_gym(inner)
    if hasattr(inner, "physics") and hasattr(inner, "_step_count"):
        return _get_dm_control(inner, vars(env).get("pristine", {}))
    raise NoState(f"{type(env).__name__} has no get_state and set_state")


def transforms(env: TransformedEnv) -> list[Any]:
    """All transforms around an environment, the innermost first."""
    return list(getattr(env.transform, "transforms", [env.transform]))


def _offers(env: Any) -> bool:
    """Whether the class itself has both methods; TorchRL's wrappers would pass the question on."""
    return all(callable(getattr(type(env), name, None)) for name in ("get_state", "set_state"))


# ---- plain values --------------------------------------------------------------------------------------------------


def packed(value: Any) -> Any:
    """Numpy arrays and scalars as bytes with their type, in nested lists, tuples, queues and dicts.

    Raises:
        NoState: something else than numbers, strings, arrays and tensors is in it.
    """
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor) and type(value) is not np.float64:
        return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array = np.array(value)
        data = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8) if array.size else torch.zeros(0)
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {"numpy": kind, "dtype": array.dtype.str, "shape": list(array.shape), "data": data}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(packed(item) for item in value)
    if isinstance(value, deque):
        return {"deque": packed(list(value)), "maxlen": value.maxlen}
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {key: packed(item) for key, item in value.items()}
    raise NoState(f"{type(value).__name__} is no plain value")


def unpacked(value: Any) -> Any:
    """What ``packed`` was given."""
    if isinstance(value, Mapping):
        if "numpy" in value:
            data = value["data"].numpy().tobytes() if 0 not in value["shape"] else b""
            array = np.frombuffer(data, value["dtype"]).reshape(value["shape"]).copy()
            return array if value["numpy"] == "array" else array[()]
        if set(value) == {"deque", "maxlen"}:
            return deque(unpacked(value["deque"]), value["maxlen"])
        return {key: unpacked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(unpacked(item) for item in value)
    return value


def _plain_attributes(thing: Any, skip: tuple[str, ...] = ()) -> State:
    """The attributes that are plain values."""
    found = {}
    for name, value in vars(thing).items():
        if name not in skip:
            try:
                found[name] = packed(value)
            except NoState:
                continue
    return found


# ---- gymnasium -----------------------------------------------------------------------------------------------------


def _get_gym(env: gymnasium.Env) -> State:
    layers: list[Any] = []
    while isinstance(env, gymnasium.Wrapper) and not _offers(env):
        names = _CARRIED.get(type(env).__name__)
        if names is None or not type(env).__module__.startswith(("gymnasium.", "dreamer_lightning.")):
            raise NoState(f"the wrapper {type(env).__name__} has no get_state and set_state")
        layers.append({name: packed(vars(env).get(name)) for name in names})
        env = env.env
    generator = getattr(env.unwrapped, "_np_random", None)
    state: State = {"layers": layers, "random": packed(generator.bit_generator.state) if generator else None}
    if _offers(env):
        return state | {"own": packed(env.get_state())}  # type: ignore[attr-defined]
    if type(env).__module__.startswith("gymnasium.envs.classic_control."):
        return state | {"attributes": _plain_attributes(env, ("_np_random",))}
    raise NoState(f"{type(env).__name__} has no get_state and set_state")


def _set_gym(env: gymnasium.Env, state: State) -> None:
    for layer in state["layers"]:
        for name, value in layer.items():
            setattr(env, name, unpacked(value))
        env = env.env  # type: ignore[attr-defined]
    if state["random"] is not None:
        env.unwrapped.np_random.bit_generator.state = unpacked(state["random"])
    if "own" in state:
        env.set_state(unpacked(state["own"]))  # type: ignore[attr-defined]
    for name, value in state.get("attributes", {}).items():
        setattr(env, name, unpacked(value))


# ---- dm_control ----------------------------------------------------------------------------------------------------


def fingerprints(model: Any) -> dict[str, bytes]:
    """A hash of every array of a MuJoCo model: tasks move some of them (a target's place, a terrain's heights)."""
    arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {
        name: hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).digest()
        for name, value in arrays.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.flags.writeable
    }


def _get_dm_control(env: Any, pristine: Mapping[str, bytes]) -> State:
    import mujoco

    model, data, what = env.physics.model.ptr, env.physics.data.ptr, mujoco.mjtState.mjSTATE_INTEGRATION
    numbers = np.empty(mujoco.mj_stateSize(model, what))
    mujoco.mj_getState(model, data, numbers, what)
    moved = [name for name, print_ in fingerprints(model).items() if pristine.get(name) != print_]
    return {
        "physics": packed(numbers),
        "model": {name: packed(getattr(model, name)) for name in moved},
        "task": _plain_attributes(env.task),
        "random": packed(env.task.random.get_state(legacy=False)),
        "steps": int(env._step_count),
        "reset_next": bool(env._reset_next_step),
    }


def _set_dm_control(env: Any, state: State) -> None:
    import mujoco

    model, data, what = env.physics.model.ptr, env.physics.data.ptr, mujoco.mjtState.mjSTATE_INTEGRATION
    for name, value in state["model"].items():
        getattr(model, name)[...] = unpacked(value)
    mujoco.mj_setState(model, data, unpacked(state["physics"]), what)
    mujoco.mj_step1(model, data)  # where dm_control leaves off: everything that follows from positions and velocities
    for name, value in state["task"].items():
        setattr(env.task, name, unpacked(value))
    env.task.random.set_state(unpacked(state["random"]))
    env._step_count, env._reset_next_step = state["steps"], state["reset_next"]

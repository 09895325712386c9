"""From whatever a TorchRL environment speaks to the wire: flat float32, int32 or uint8 observations, one flat action.

One transform instead of a chain of six: each TorchRL transform costs about 0.1 ms a decision on a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.functional import one_hot
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    NonTensor,
    OneHot,
    TensorSpec,
    Unbounded,
)
from torchrl.envs import EnvBase, Transform
from torchrl.envs.utils import step_mdp

from dreamer_lightning.envs.actions import reach
from dreamer_lightning.envs.pictures import Channels, picture_of
from dreamer_lightning.types import LOG_PREFIX, WIRE, Layout, UserError

_ENDS = ("terminated", "truncated", "done")
_HUGE = 1e30  # TorchRL writes "no bound" as the largest number of the type
Camera = Callable[[], np.ndarray]
Repair = Callable[[str, int], None]  # told the name and the step of numbers that were replaced by 0


def hidden(name: str, patterns: Sequence[str]) -> bool:
    """Whether an observation is among the names or patterns (``re.fullmatch``) to leave out."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


class Wire(Transform):
    """Renames, casts and checks what an environment returns; scales and clips what it is given.

    - observations: nested names joined by ``/``, floats as float32, integers and one-hot as int32, images uint8;
    - reward: float32 [1]; terminated, truncated, done: bool [1];
    - action: one float32 vector ``action`` [a]; bounds are mapped to [-1, 1], samples outside are clipped (an infinite
      bound counts as 2 from the other one, two as -1 and 1), discrete entries are one-hot;
    - ``log/*``: float32, also NaN and infinite, because they do not reach the model.

    Args:
        env: the environment that it will transform; no batch dimension.
        hide: names or patterns (``re.fullmatch``) of observations to leave out.
        prefix: start of observation names that is dropped.
        camera: takes the picture that is observed as ``image``, uint8 [height, width, channels].
        picture: its shape.
        facts: what ``types.Space`` says of an observation besides shape and type, by name.
        starts: the number that each discrete action begins with.
        notes: lines for the user, which whoever reads them takes out.
        image_size: height and width to which images are resized; 0 keeps them.
        channels: where images have their channels.

    Raises:
        UserError: the environment has no observation left, or an action that is not supported; at run time, an
            observation or reward that is NaN or infinite (key and step named).
    """

    def __init__(
        self,
        env: EnvBase,
        hide: Sequence[str] = (),
        prefix: str = "",
        camera: Camera | None = None,
        picture: tuple[int, ...] = (),
        facts: Mapping[str, Mapping[str, Any]] | None = None,
        starts: Sequence[int] = (),
        notes: list[str] | None = None,
        image_size: int = 0,
        channels: Channels = "auto",
    ):
        super().__init__()
        self.facts = {name: dict(each) for name, each in (facts or {}).items()}
        self.starts, self.notes = list(starts), [] if notes is None else notes
        self.actions: Layout | None = None  # of a flat action that holds several, by name
        self.reads: list[tuple[str | tuple[str, ...], str, Callable[[Tensor], Tensor]]] = []
        specs: dict[str, TensorSpec] = {}
        for key, spec in env.observation_spec.items(True, True):
            name = (key if isinstance(key, str) else "/".join(key)).removeprefix(prefix)
            if hidden(name, hide) or isinstance(spec, NonTensor) or spec.shape.numel() == 0:
                continue
            source = f"{str(spec.dtype).removeprefix('torch.')} {tuple(spec.shape)}"
            known = self.facts.setdefault(name, {"source": source})
            specs[name], read = _observation(spec, known, image_size, channels)
            self.reads.append((key, name, read))
        self.camera = camera
        if camera is not None:
            if "image" in specs:
                raise UserError(
                    "env: pixels is on and the environment observes an image of its own; hide it (env.hide) "
                    "or set pixels to false"
                )
            specs["image"] = Bounded(0, 255, shape=picture, dtype=torch.uint8)
        if all(name.startswith(LOG_PREFIX) for name in specs):
            raise UserError("env: no observation is left for the model; check hide, pixels and vectors")
        taken = sorted(name for name in specs if name in WIRE or name.startswith("_"))
        if taken:
            raise UserError(f"env: an observation cannot be called {taken[0]!r}; rename it, or hide it (env.hide)")
        self.observation = Composite(specs)
        self.classes = {name: spec.space.n for name, spec in specs.items() if isinstance(spec, Categorical)}
        for kind, keys in (("action", env.action_keys), ("reward", env.reward_keys)):
            if len(keys) > 1:
                names = ", ".join(map(str, keys))
                raise UserError(f"env: it has several {kind}s ({names}); environments of one agent and one reward work")
        self.action_key, self.reward_key = env.action_key, env.reward_key
        self.ends = {name: key for key in env.done_keys if (name := key if isinstance(key, str) else key[-1]) in _ENDS}
        self.state_keys = list(env.state_spec.keys(True, True)) if env.state_spec is not None else []
        self.state: dict[Any, Tensor] = {}  # what an environment that keeps nothing itself wants to be told again
        self.action, self.write = _action(env.action_spec)
        self.native = _native(env.action_spec)  # the action space itself, see ``envs.actions.describe``
        self.steps = 0
        self.repair: Repair | None = None

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        self.steps += 1
        return self._read(next_tensordict)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        self.steps = 0
        return self._read(tensordict_reset)

    def _read(self, source: TensorDictBase) -> TensorDictBase:
        out = {}
        for key, name, read in self.reads:
            out[name] = value = read(source.get(key))
            if value.dtype == torch.int32 and self.classes.get(name):
                inside(name, value, self.classes[name], self.steps)
            if value.dtype == torch.float32 and not name.startswith(LOG_PREFIX):
                out[name] = finite(name, value, self.steps, self.repair)
        if self.camera is not None:
            out["image"] = torch.from_numpy(np.array(self.camera()))
        reward = source.get(self.reward_key, None)
        if reward is not None:
            out["reward"] = finite("reward", reward.to(torch.float32).reshape(1), self.steps, self.repair)
        for key in self.state_keys:
            self.state[key] = source.get(key, self.state.get(key))
        done = source.get(self.ends["done"]).reshape(1)
        for name in _ENDS:
            flag = source.get(self.ends.get(name, name), None)
            out[name] = torch.zeros_like(done) if flag is None else flag.reshape(1)
        return TensorDict._new_unsafe(out, source.batch_size)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get("action", None)
        if action is not None:
            tensordict.set(self.action_key, self.write(action))
            for key, value in self.state.items():
                tensordict.set(key, value)
        return tensordict

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        return self.observation.clone()

    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        return Composite(reward=Unbounded(shape=(1,), dtype=torch.float32))

    def transform_done_spec(self, done_spec: Composite) -> Composite:
        return Composite({key: Categorical(2, shape=(1,), dtype=torch.bool) for key in _ENDS})

    def transform_input_spec(self, input_spec: Composite) -> Composite:
        input_spec["full_action_spec"] = Composite(action=self.action.clone())
        return input_spec


def finite(name: str, value: Tensor, step: int, repair: Repair | None) -> Tensor:
    """The value, with 0 in the place of NaN and infinity if there is somebody to tell.

    Raises:
        UserError: there is one, and nobody to tell.
    """
    total = float(value.sum())  # NaN and infinity both survive a sum: exact only where it looks bad
    if total - total == 0.0 or bool(value.isfinite().all()):
        return value
    if repair is None:
        raise UserError(f"env: {name} is NaN or infinite at step {step} of an episode; it must be finite")
    repair(name, step)
    return value.nan_to_num(0.0, 0.0, 0.0)


def inside(name: str, value: Tensor, classes: int, step: int) -> None:
    """Raises UserError for a class that the observation's space does not have."""
    if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < classes:
        raise UserError(f"env: {name} holds {value.tolist()} at step {step}; its classes are 0 to {classes - 1}")


class Pace(Transform):
    """Repeats actions and limits the time of a TorchRL environment (the wrappers of simulators do both themselves).

    TorchRL's own ``FrameSkipTransform`` steps on through the end of an episode.

    Args:
        repeat: simulator steps for each decision; rewards are summed, and the repeat stops where the episode ends.
        limit: simulator steps after which an episode is truncated.
    """

    def __init__(self, repeat: int, limit: int | None):
        super().__init__()
        self.repeat, self.limit, self.steps = repeat, limit, 0

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        self.steps = 0
        return tensordict_reset

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        env = self.parent.base_env
        reward = next_tensordict.get(env.reward_key)
        self._count(next_tensordict)
        for _ in range(self.repeat - 1):
            if next_tensordict.get("done").any():
                break
            state = step_mdp(tensordict.copy().set("next", next_tensordict), exclude_action=False)
            next_tensordict = env._step(state)
            env._complete_done(env.full_done_spec, next_tensordict)
            self._count(next_tensordict)
            reward = reward + next_tensordict.get(env.reward_key)
        return next_tensordict.set(env.reward_key, reward)

    def _count(self, tensordict: TensorDictBase) -> None:
        self.steps += 1
        if self.limit is not None and self.steps >= self.limit:
            late = torch.ones_like(tensordict.get("done"))
            tensordict.set("truncated", late).set("done", late)


def _observation(
    spec: TensorSpec, known: dict[str, Any], image_size: int, channels: Channels
) -> tuple[TensorSpec, Callable[[Tensor], Tensor]]:
    """The wire's spec of one observation and the function that brings it there."""
    shape = spec.shape
    if known.get("image"):
        return Bounded(0, 255, shape=shape, dtype=torch.uint8), lambda x: x
    if "classes" in known and not isinstance(spec, Categorical | MultiCategorical | OneHot | MultiOneHot):
        return Categorical(known["classes"], shape=shape, dtype=torch.int32), lambda x: x.to(torch.int32)
    if isinstance(spec, MultiOneHot):
        sizes = [box.n for box in spec.space]
        wire = Categorical(max(sizes), shape=(*shape[:-1], len(sizes)), dtype=torch.int32)
        return wire, lambda x: torch.stack([part.int().argmax(-1) for part in x.split(sizes, -1)], -1).to(torch.int32)
    if isinstance(spec, OneHot):
        wire = Categorical(spec.space.n, shape=shape[:-1], dtype=torch.int32)
        return wire, lambda x: x.int().argmax(-1).to(torch.int32)
    if isinstance(spec, Binary):
        return Categorical(2, shape=shape, dtype=torch.int32), lambda x: x.to(torch.int32)
    if isinstance(spec, Categorical | MultiCategorical):
        classes = max(box.n for box in spec.space) if isinstance(spec, MultiCategorical) else spec.space.n
        return Categorical(classes, shape=shape, dtype=torch.int32), lambda x: x.to(torch.int32)
    if isinstance(spec, Bounded) and len(shape) == 3:
        low, high = float(spec.space.low.min()), float(spec.space.high.max())
        whole = not spec.dtype.is_floating_point
        picture = picture_of(tuple(shape), low, high, whole, channels, spec.dtype == torch.uint8)
        if picture is not None and high < _HUGE:
            known["source"] += ", channels first" if picture.first else ""
            known["scale"] = None if spec.dtype == torch.uint8 and (low, high) == (0, 255) else [low, high]
            wire = Bounded(0, 255, shape=picture.wire_shape(image_size), dtype=torch.uint8)
            return wire, lambda x: torch.from_numpy(picture.wire(x.numpy(), image_size))
    shape = shape if 1 <= len(shape) <= 2 else torch.Size([shape.numel()])
    return Unbounded(shape=shape, dtype=torch.float32), lambda x: x.to(torch.float32).reshape(shape)


def _action(spec: TensorSpec) -> tuple[TensorSpec, Callable[[Tensor], Tensor]]:
    """The wire's spec of the flat action and the function that turns it into the environment's own."""
    shape, dtype = spec.shape, spec.dtype
    listed = isinstance(spec, MultiOneHot | MultiCategorical)  # the latter is a Categorical, too
    if listed or isinstance(spec, Binary) or (isinstance(spec, Categorical) and shape.numel() > 1):
        sizes = [box.n for box in spec.space] if listed else [_classes(spec)] * shape.numel()
        wire = MultiOneHot(sizes, dtype=torch.float32)
        if isinstance(spec, MultiOneHot):
            return wire, lambda a: torch.cat([_hot(part) for part in a.split(sizes, -1)], -1).to(dtype)
        return wire, lambda a: torch.stack([p.argmax(-1) for p in a.split(sizes, -1)], -1).to(dtype).reshape(shape)
    if isinstance(spec, OneHot | Categorical):
        wire = OneHot(spec.space.n, dtype=torch.float32)
        if isinstance(spec, OneHot):
            return wire, lambda a: _hot(a).to(dtype)
        return wire, lambda a: a.argmax(-1).to(dtype).reshape(shape)
    if not dtype.is_floating_point:
        raise UserError(
            f"env: an action of type {type(spec).__name__}, {dtype} is not supported; use floats or classes"
        )
    wire = Bounded(-1.0, 1.0, shape=(shape.numel(),), dtype=torch.float32)
    low, high = (torch.from_numpy(bound).to(dtype) for bound in reach(*_bounds(spec)))
    middle, half = (high + low) / 2, (high - low) / 2
    # The last clip is for rounding: -3.3 may become -3.3000002, which the environment's own check refuses.
    return wire, lambda a: torch.addcmul(middle, a.clamp(-1.0, 1.0).to(dtype).reshape(shape), half).clamp(low, high)


def _bounds(spec: TensorSpec) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of a continuous action, infinite where TorchRL's spec has none."""
    if not isinstance(spec, Bounded):
        return np.full(spec.shape, -np.inf), np.full(spec.shape, np.inf)
    ends = (bound.expand(spec.shape).double() for bound in (spec.space.low, spec.space.high))
    low, high = (torch.where(x.abs() < _HUGE, x, x.sign() * torch.inf).numpy() for x in ends)
    return low, high


def _native(spec: TensorSpec) -> dict[str, Any]:
    """What ``envs.actions.describe`` says of the space that TorchRL's spec stands for; empty where it is another."""
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
        low, high = (bound.tolist() for bound in _bounds(spec))
        return {"kind": "Box", "low": low, "high": high, "dtype": str(spec.dtype).removeprefix("torch.")}
    one = isinstance(spec, Categorical) and not isinstance(spec, MultiCategorical) and spec.shape.numel() == 1
    return {"kind": "Discrete", "n": int(spec.space.n), "start": 0} if one else {}


def _classes(spec: TensorSpec) -> int:
    return 2 if isinstance(spec, Binary) else spec.space.n


def _hot(scores: Tensor) -> Tensor:
    return one_hot(scores.argmax(-1), scores.shape[-1])

"""What an environment offers the rest of the package: a factory of wired TorchRL environments, and its spaces."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torchrl.data import Categorical, Composite, MultiOneHot, OneHot, TensorSpec
from torchrl.envs import EnvBase, TransformedEnv

from dreamer_lightning.envs.pictures import drawn
from dreamer_lightning.envs.transforms import Wire
from dreamer_lightning.store import environment
from dreamer_lightning.types import LATENT, LOG_PREFIX, PREV_ACTION, Space, Specs, UserError


class EnvFactory(ABC):
    """Makes environments of one task. A factory is plain data: cheap to build, easy to pickle for worker processes.

    Attributes:
        name: the task in run names, such as ``walker_walk``; the class's own name where none is given.
        repeat: simulator steps for each decision of the agent (``env_step = agent_step * repeat``).
    """

    name: str
    repeat: int = 1
    no_picture: str = ""  # why ``frame`` failed once; it is not tried again

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__dict__.get("name", cls.__name__)

    @abstractmethod
    def make(self, seed: int, pixels_for_video: bool = False) -> EnvBase:
        """One wired environment on the CPU, without batch dimension.

        Args:
            seed: two environments of one seed give the same trajectory under the same actions.
            pixels_for_video: also prepare for ``frame``.

        Raises:
            UserError: the task does not exist, or cannot be made on this machine.
        """

    def make_many(self, num_envs: int, seed: int) -> EnvBase | None:
        """That many environments as one, batch size [num_envs], that resets its rows one by one; None: they are made
        one by one."""
        return None

    def frame(self, env: EnvBase) -> np.ndarray | None:
        """A picture of the current state, uint8 [height, width, 3], or None where nothing draws.

        Args:
            env: what ``make`` or ``make_batched`` returned (of several environments the first; None for workers).
        """
        base = env
        while isinstance(base, TransformedEnv):
            base = base.base_env
        seats = vars(base).get("seats")  # of several
        env = getattr(seats[0], "inner", None) if seats else env
        picture = None if env is None or self.no_picture else self._frame(env)
        try:
            return None if picture is None else drawn(picture)
        except ValueError as error:
            self.no_picture = str(error)
            return None

    def _frame(self, env: EnvBase) -> np.ndarray | None:
        return None

    def blind(self) -> EnvFactory:
        """The same task without pictures where that is cheaper; for scores of policies that do not look."""
        return self

    def get_state(self, env: EnvBase) -> environment.State | None:
        """What the next steps of an environment that ``make`` returned depend on, as plain numbers, strings and bytes.

        Returns:
            None where that cannot be saved; a resumed run then begins a new episode.
        """
        return environment.get_state(env)

    def set_state(self, env: EnvBase, state: environment.State) -> None:
        """Go on from what ``get_state`` gave."""
        environment.set_state(env, state)

    def prepare(self) -> None:  # noqa: B027 (most simulators need nothing)
        """What must happen in the main process before a simulator is imported here or in a worker."""


class Suite(EnvFactory):
    """A factory with the options that every suite of environments has.

    Args:
        repeat: simulator steps for each decision; their rewards are summed, and the repeat stops where an episode ends.
        pixels: observe the rendered picture, as ``image`` (uint8 [image_size, image_size, 3]).
        vectors: observe what the environment itself returns, which may also be an image.
        image_size: height and width to which images are resized, in pixels; 0 keeps them.
        time_limit: steps of the simulator (not decisions) after which an episode is truncated; default: the task's own.
        hide: names or patterns of observations that the model does not get.
    """

    def __init__(
        self,
        repeat: int = 1,
        pixels: bool = False,
        vectors: bool = True,
        image_size: int = 64,
        time_limit: int | None = None,
        hide: Sequence[str] = (),
    ):
        if not (pixels or vectors):
            raise UserError("env: pixels and vectors are both off; switch one of them on")
        at_least(1, repeat=repeat, time_limit=time_limit)
        at_least(0, image_size=image_size)
        self.repeat, self.pixels, self.vectors, self.image_size = repeat, pixels, vectors, image_size
        self.time_limit, self.hide = time_limit, patterns(hide)

    @property
    def hidden(self) -> list[str]:
        """Patterns of what the model does not get of the environment's own observations."""
        return self.hide if self.vectors else [*self.hide, f"(?!{LOG_PREFIX}).*"]


def at_least(least: int, **options: float | None) -> None:
    """Raises UserError for an option of an environment that is below ``least``; None is no limit."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise UserError(f"env.{name}: {value} must be at least {least}")


def listed(names: Sequence[str]) -> list[str]:
    """The names; a plain string is one of them."""
    return [names] if isinstance(names, str) else list(names)


def patterns(hide: Sequence[str]) -> list[str]:
    """The names or patterns of ``env.hide``, checked."""
    for pattern in listed(hide):
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"env.hide: {pattern!r} is no regular expression ({error.msg}); .* stands for anything"
            ) from error
    return listed(hide)


def specs_of(env: EnvBase) -> Specs:
    """The spaces of a wired environment, batched or not, in its own order; ``log/*`` and carried state left out."""
    lead = len(env.batch_size)
    carried = {"is_init", LATENT, PREV_ACTION}
    obs = {
        name: _space(spec, lead)
        for name, spec in env.observation_spec.items()
        if name not in carried and not isinstance(spec, Composite) and not name.startswith(LOG_PREFIX)
    }
    known = told(env)
    for name in obs.keys() & known["facts"].keys():
        facts = {key: value for key, value in known["facts"][name].items() if key in ("start", "source", "scale")}
        obs[name] = replace(obs[name], **facts)
    if known["actions"]:
        return Specs(obs, dict(known["actions"]), known["native"])
    actions = _action_spaces(env.full_action_spec["action"], lead)
    starts = zip(sorted(actions), known["starts"], strict=False)
    return Specs(obs, actions | {name: replace(actions[name], start=start) for name, start in starts}, known["native"])


def told(env: EnvBase) -> dict[str, Any]:
    """What an environment's own spaces say beside TorchRL's: ``facts`` of observations by name, ``starts`` of discrete
    actions, ``actions`` by name where one flat vector holds several, and ``native``, the action space itself."""
    wire = wire_of(env)
    if wire is None:
        while isinstance(env, TransformedEnv):
            env = env.base_env
        seats = vars(env).get("seats")
        found = seats[0].ask("told") if seats and hasattr(seats[0], "ask") else None
        return found or {"facts": {}, "starts": [], "actions": None, "native": {}}
    return {"facts": wire.facts, "starts": wire.starts, "actions": wire.actions, "native": wire.native}


def wire_of(env: EnvBase) -> Wire | None:
    """The transform that brings an environment to the wire, of several environments the first one's."""
    while isinstance(env, TransformedEnv):
        found = [transform for transform in environment.transforms(env) if isinstance(transform, Wire)]
        if found:
            return found[0]
        env = env.base_env
    seats = vars(env).get("seats")
    return wire_of(seats[0].inner) if seats and hasattr(seats[0], "inner") else None


def _space(spec: TensorSpec, lead: int) -> Space:
    classes = spec.space.n if isinstance(spec, Categorical) and spec.dtype != torch.bool else 0
    return Space(tuple(spec.shape[lead:]), str(spec.dtype).removeprefix("torch."), int(classes))


def _action_spaces(spec: TensorSpec, lead: int) -> dict[str, Space]:
    if isinstance(spec, MultiOneHot):
        width = max(2, len(str(len(spec.space) - 1)))  # the flat vector is in sorted order of names
        return {f"action_{i:0{width}d}": Space((), "int32", box.n) for i, box in enumerate(spec.space)}
    if isinstance(spec, OneHot):
        return {"action": Space((), "int32", spec.space.n)}
    return {"action": Space(tuple(spec.shape[lead:]), "float32")}


def random_score(
    factory: EnvFactory,
    seed: int,
    episodes: int = 3,
    max_steps: int = 10_000,
    make: Callable[[EnvFactory], EnvBase] | None = None,
) -> tuple[float, float]:
    """Return and length (agent steps) of the uniformly random policy: means over a few episodes.

    Args:
        factory: the task; pictures are not drawn where the task can do without.
        seed: of the environment and of the policy.
        episodes: how many to play.
        max_steps: decisions after which playing stops; an episode cut here counts only if it is the first.
        make: makes the environment in the factory's place.
    """
    factory = factory.blind()
    factory.prepare()
    env, generator = make(factory) if make else factory.make(seed), torch.Generator().manual_seed(seed)
    actions = specs_of(env).actions
    played, score, length = [], 0.0, 0
    state = env.reset()
    for _ in range(max_steps):
        state, after = step(env, state, actions.random(env.batch_size, generator))
        score, length = score + float(after["reward"]), length + 1
        if after["done"]:
            played.append((score, length))
            score, length = 0.0, 0
            if len(played) == episodes:
                break
    env.close()
    scores, lengths = zip(*(played or [(score, length)]), strict=True)
    return sum(scores) / len(scores), sum(lengths) / len(lengths)


def step(env: EnvBase, state, action: torch.Tensor):
    """One decision: (the state to go on from, reset where an episode ended; what the decision led to)."""
    stepped, state = env.step_and_maybe_reset(state.set("action", action))
    return state, stepped["next"]

"""A dream as an environment: step in the world model as one would in the real task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from dreamer_lightning.data.arrays import Arrays
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.evaluation.gap import going_on
from dreamer_lightning.evaluation.rollout import own_randomness, rollout
from dreamer_lightning.types import Carried, Layout, Space, UserError

Observe = Literal["decoded", "latent"]


@contextmanager
def in_float32() -> Iterator[None]:
    """Draws and states are float32, whatever default the caller has set for torch."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Dreams:
    """Dreams side by side, each from a start of its own, which go on under actions that are given.

    Args:
        dreamer: the agent whose world model dreams.
        starts: packed latents [m, .] where dreams begin, each with the same chance.
        num_envs: dreams at once.
        observe: ``decoded``, what the decoder sees in the latents; ``latent``, their ``feat`` itself.
        ends: a dream ends by chance, as the continue head says; else it never ends by itself.
        seed: of all draws.
    """

    @in_float32()
    def __init__(
        self,
        dreamer: Dreamer,
        starts: dict[str, Tensor],
        num_envs: int,
        observe: Observe = "decoded",
        ends: bool = True,
        seed: int = 0,
    ):
        if num_envs < 1:
            raise UserError(f"dream_env: num_envs={num_envs} dreams nothing; give 1 or more")
        if observe not in ("decoded", "latent"):
            raise UserError(f"dream_env: observe={observe!r} is neither 'decoded' nor 'latent'")
        self.dreamer, self.num_envs, self.observe, self.ends = dreamer, num_envs, observe, ends
        self.starts = {name: value.to(dreamer.device) for name, value in starts.items()}
        self.generator = torch.Generator(dreamer.device).manual_seed(seed)
        self.latent = self.begin(num_envs)
        self.obs: dict[str, Space] = (
            dict(dreamer.specs.obs) if observe == "decoded" else {"latent": Space((dreamer.world_model.feat_dim,))}
        )
        if observe == "decoded":
            seen = self.look()
            self.obs = {name: space for name, space in self.obs.items() if name in seen}
        if not self.obs:
            raise UserError("dream_env: the decoder decodes no observation; take observe='latent'")

    @property
    def actions(self) -> Layout:
        return self.dreamer.specs.actions

    def begin(self, n: int) -> Carried:
        """The latents of ``n`` starts."""
        count = len(next(iter(self.starts.values())))
        rows = torch.randint(count, (n,), generator=self.generator, device=self.dreamer.device)
        return self.dreamer.world_model.rssm.unpack({name: value[rows] for name, value in self.starts.items()})

    @in_float32()
    def reset(self, which: Tensor | None = None) -> None:
        """Begin anew: all dreams, or those of a mask [n]."""
        fresh = self.begin(self.num_envs)
        if which is not None:
            mask = which.to(self.dreamer.device)[:, None]
            fresh = type(fresh)(*(torch.where(mask, new, old) for new, old in zip(fresh, self.latent, strict=True)))
        self.latent = fresh

    @in_float32()
    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """One step under flat actions [n, a]: the rewards [n], with gradients if the actions have them, and what ended.

        The latents keep their graph as long as the actions do.
        """
        model, actions = self.dreamer.world_model, self.actions
        if any(space.discrete for space in actions.values()):  # a learner may give scores: the largest one counts
            action = actions.one_hot(actions.numbers(action))
        noise = model.rssm.noise(self.num_envs, generator=self.generator)
        self.latent, _ = model.rssm.imagine_step(self.latent, action.to(self.dreamer.device), noise)
        reward, cont = model.predict(self.latent.feat)
        luck = torch.rand(self.num_envs, generator=self.generator, device=reward.device)
        ended = luck >= going_on(model, cont.detach()) if self.ends else torch.zeros_like(luck, dtype=torch.bool)
        return reward, ended

    @in_float32()
    def look(self) -> dict[str, Tensor]:
        """What is observed now [n, ...]; pictures are floats in [0, 1]."""
        if self.observe == "latent":
            return {"latent": self.latent.feat}
        return self.dreamer.world_model.reconstruct(self.latent)

    def arrays(self) -> Arrays:
        """The same in the environment's own numbers; pictures are uint8."""
        found = {}
        for name, value in self.look().items():
            space, array = self.obs[name], value.detach().float().cpu().numpy()
            if space.image:
                array = (array.clip(0, 1) * 255).round().astype(np.uint8)
            elif space.discrete:
                array = array.round().astype(np.int64) + np.asarray(space.start)
            found[name] = array.reshape(self.num_envs, *space.shape)
        return found


def observation_space(obs: dict[str, Space]) -> spaces.Space:
    """The gymnasium space of observations; a lone one stands by itself."""
    found: dict[str, spaces.Space] = {}
    for name, space in obs.items():
        if space.image:
            found[name] = spaces.Box(0, 255, space.shape, np.uint8)
        elif space.discrete and not space.shape:
            found[name] = spaces.Discrete(space.classes, start=int(np.asarray(space.start)))
        elif space.discrete:
            start = np.broadcast_to(np.asarray(space.start), space.shape)
            found[name] = spaces.MultiDiscrete(np.full(space.shape, space.classes), start=start)
        else:
            found[name] = spaces.Box(-np.inf, np.inf, space.shape, np.float32)
    return next(iter(found.values())) if len(found) == 1 else spaces.Dict(found)


def action_space(actions: Layout) -> tuple[spaces.Space, Any]:
    """The gymnasium space of actions, numbers in [-1, 1], and what makes flat actions [n, a] of a batch of them.

    Raises:
        UserError: numbers and classes are mixed.
    """
    kinds = {space.discrete for space in actions.values()}
    if kinds == {True}:
        sizes = [space.classes for space in actions.values()]

        def one_hot(action: np.ndarray) -> Tensor:
            columns = np.asarray(action).reshape(len(action), len(sizes)).T
            parts = zip(actions, columns, strict=True)
            return actions.one_hot({name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in parts})

        return spaces.Discrete(sizes[0]) if len(sizes) == 1 else spaces.MultiDiscrete(sizes), one_hot
    if kinds == {False}:
        box = spaces.Box(-1.0, 1.0, (actions.size,), np.float32)
        return box, lambda action: torch.from_numpy(np.asarray(action, np.float32)).clamp(-1, 1)
    raise UserError("dream_env: an action of numbers and classes has no gymnasium space that learners take")


class DreamEnv(gymnasium.Env):
    """One dream as a ``gymnasium.Env``.

    Args:
        dreamer: the agent whose world model dreams.
        starts: packed latents [m, .] where dreams begin.
        length: steps after which a dream is truncated.
        options: of ``Dreams``.
    """

    metadata = {"render_modes": []}

    def __init__(self, dreamer: Dreamer, starts: dict[str, Tensor], length: int = 1000, **options: Any):
        self.dreams, self.length, self.time = Dreams(dreamer, starts, 1, **options), length, 0
        self.observation_space = observation_space(self.dreams.obs)
        self.action_space, self._flat = action_space(self.dreams.actions)

    def _look(self) -> Any:
        found = {name: value[0] for name, value in self.dreams.arrays().items()}
        return found if isinstance(self.observation_space, spaces.Dict) else next(iter(found.values()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.dreams.generator.manual_seed(seed)
        self.dreams.reset()
        self.time = 0
        return self._look(), {}

    @torch.no_grad()
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        reward, ended = self.dreams.step(self._flat(np.asarray(action)[None]))
        self.time += 1
        return self._look(), float(reward), bool(ended), self.time >= self.length, {}


class DreamVectorEnv(VectorEnv):
    """Dreams side by side as a ``gymnasium.vector.VectorEnv``; one that ended begins anew at the next step.

    Args:
        dreamer: the agent whose world model dreams.
        starts: packed latents [m, .] where dreams begin.
        num_envs: dreams at once.
        length: steps after which a dream is truncated.
        options: of ``Dreams``.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}

    def __init__(self, dreamer: Dreamer, starts: dict[str, Tensor], num_envs: int, length: int = 1000, **options: Any):
        self.dreams, self.length, self.num_envs = Dreams(dreamer, starts, num_envs, **options), length, num_envs
        self.single_observation_space = observation_space(self.dreams.obs)
        self.single_action_space, self._flat = action_space(self.dreams.actions)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.time, self.over = np.zeros(num_envs, np.int64), np.zeros(num_envs, bool)

    def _look(self) -> Any:
        found = self.dreams.arrays()
        alone = not isinstance(self.single_observation_space, spaces.Dict)
        return next(iter(found.values())) if alone else found

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        if seed is not None:
            self.dreams.generator.manual_seed(int(seed))
        self.dreams.reset()
        self.time[:], self.over[:] = 0, False
        return self._look(), {}

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        reward, ended = self.dreams.step(self._flat(np.asarray(actions)))
        fresh = self.over.copy()
        if fresh.any():
            self.dreams.reset(torch.from_numpy(fresh))
        self.time = np.where(fresh, 0, self.time + 1)
        rewards = np.where(fresh, 0.0, reward.double().cpu().numpy())
        terminated = ended.cpu().numpy() & ~fresh
        truncated = (self.time >= self.length) & ~fresh
        self.over = terminated | truncated
        return self._look(), rewards, terminated, truncated, {}


class DreamTorchEnv(EnvBase):
    """Dreams side by side as a TorchRL environment; rewards have gradients to the actions where these want some.

    An action is flat: a number in [-1, 1] for each entry, and for a class one score each, of which the largest counts.

    Args:
        dreamer: the agent whose world model dreams.
        starts: packed latents [m, .] where dreams begin.
        num_envs: dreams at once, its batch size.
        length: steps after which a dream is truncated.
        options: of ``Dreams``.
    """

    batch_locked = True

    def __init__(self, dreamer: Dreamer, starts: dict[str, Tensor], num_envs: int, length: int = 1000, **options: Any):
        super().__init__(device=dreamer.device, batch_size=[num_envs])
        self.dreams, self.length = Dreams(dreamer, starts, num_envs, **options), length
        self.time = torch.zeros(num_envs, dtype=torch.int64, device=dreamer.device)
        look = self.dreams.look()
        obs = {
            name: Unbounded(shape=value.shape, dtype=value.dtype, device=self.device) for name, value in look.items()
        }
        self.observation_spec = Composite(obs, shape=[num_envs], device=self.device)
        self.action_spec = Bounded(
            -1.0, 1.0, shape=(num_envs, self.dreams.actions.size), dtype=torch.float32, device=self.device
        )
        self.reward_spec = Unbounded(shape=(num_envs, 1), device=self.device)
        flag = Binary(1, shape=(num_envs, 1), dtype=torch.bool, device=self.device)
        ends = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.done_spec = Composite(ends, shape=[num_envs], device=self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        which = None if mask is None else mask.reshape(-1)
        self.dreams.reset(which)
        self.time = torch.zeros_like(self.time) if which is None else torch.where(which, 0, self.time)
        ends = {name: torch.zeros(self.batch_size[0], 1, dtype=torch.bool) for name in self.done_spec}
        return TensorDict({**self.dreams.look(), **ends}, self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        reward, ended = self.dreams.step(tensordict.get("action"))
        self.time = self.time + 1
        cut = (self.time >= self.length)[:, None]
        ends = {"terminated": ended[:, None], "truncated": cut, "done": ended[:, None] | cut}
        return TensorDict({**self.dreams.look(), "reward": reward[:, None], **ends}, self.batch_size, self.device)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.dreams.generator.manual_seed(seed)


@in_float32()
def dream_env(
    agent: Any,
    num_envs: int | None = None,
    api: Literal["gymnasium", "torchrl"] = "gymnasium",
    starts: dict[str, Tensor] | None = None,
    **options: Any,
) -> DreamEnv | DreamVectorEnv | DreamTorchEnv:
    """An agent's world model as an environment.

    Args:
        agent: a trained ``Agent``.
        num_envs: dreams at once; None: one ``gymnasium.Env``.
        api: ``gymnasium`` or ``torchrl``.
        starts: packed latents [m, .] where dreams begin; None: those of one episode that the agent plays in its task.
        options: ``length``, ``observe``, ``ends`` and ``seed``, see ``Dreams``.

    Raises:
        UserError: no such api, or no task to play for want of starts.
    """
    if api not in ("gymnasium", "torchrl"):
        raise UserError(f"dream_env: api={api!r} is neither 'gymnasium' nor 'torchrl'")
    starts = played(agent) if starts is None else starts
    if api == "torchrl":
        return DreamTorchEnv(agent.dreamer, starts, num_envs or 1, **options)
    if num_envs is None:
        return DreamEnv(agent.dreamer, starts, **options)
    return DreamVectorEnv(agent.dreamer, starts, num_envs, **options)


def played(agent: Any) -> dict[str, Tensor]:
    """The packed latents of an episode that the agent plays in its own task."""
    factory = agent.env_factory
    if factory is None:
        raise UserError("dream_env: the agent has no run folder, so no task to begin in; give starts")
    factory.prepare()
    with own_randomness():
        env = factory.make(0)
        try:
            (episode,) = rollout(agent.dreamer, env, 1, False, torch.Generator(agent.dreamer.device).manual_seed(0))
        finally:
            env.close()
    return episode.latent

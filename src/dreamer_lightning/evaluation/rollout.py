"""Play whole episodes in an evaluation environment, and keep what a dream is compared with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass
class Episode:
    """One real episode: ``reward[t]`` and ``latent[t]`` belong to ``obs[t]``, ``action[t]`` follows it.

    Args:
        obs: by name, the first ``kept`` observations, [kept, ...] in environment units (images uint8).
        action: flat wire actions [length, a].
        reward: [length + 1], with ``reward[0] = 0``.
        terminated: the episode ended in a terminal state (else it was cut by a time limit).
        latent: packed posterior latents of the kept observations, on the CPU.
        last: packed posterior latent of the final observation.
        greedy: actions were the policy's mode, not samples.
        frames: pictures for a video, uint8 [height, width, 3] each, if asked for.
        cut: the limit of steps ended it, not the environment.
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    latent: dict[str, Tensor]
    last: dict[str, Tensor]
    greedy: bool = False
    frames: list[np.ndarray] = field(default_factory=list)
    cut: bool = False

    @property
    def score(self) -> float:
        """Undiscounted return."""
        return float(self.reward.sum())

    @property
    def length(self) -> int:
        """Decisions taken (agent steps)."""
        return len(self.action)

    @property
    def kept(self) -> int:
        return len(next(iter(self.latent.values())))

    def state(self, time: int) -> dict[str, Tensor]:
        """What the policy carried right after ``obs[time]``: packed latent, and the action that led there."""
        previous = torch.from_numpy(self.action[time - 1]) if time > 0 else torch.zeros(self.action.shape[1])
        return {**{key: value[time] for key, value in self.latent.items()}, "prev_action": previous}


@contextmanager
def own_randomness() -> Iterator[None]:
    """Leaves the global random states of Python, numpy and torch (CPU) as they were: evaluation disturbs nothing."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (saved, not used)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def device_of(dreamer) -> torch.device:
    return next(iter(dreamer.initial(1).values())).device


@torch.no_grad()
def rollout(
    dreamer,
    env,
    episodes: int,
    greedy: bool,
    generator: torch.Generator | None = None,
    keep: int = 1000,
    max_length: int = 30_000,
    frame: Callable[[object], np.ndarray | None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Episode]:
    """Plays ``episodes`` whole episodes, as many at once as the environment is wide.

    Each parallel environment plays its fixed share, so that short episodes are not preferred.

    Args:
        dreamer: anything with ``specs``, ``initial`` and ``act``.
        env: a TorchRL environment of batch size [] or [num_envs], as the environment factories make.
        episodes: how many.
        greedy: the policy's mode instead of samples.
        generator: draws latents and actions, on the dreamer's device.
        keep: observations and latents are kept for so many steps of each episode (rewards and actions for all).
        max_length: agent steps after which an endless episode is cut; that environment then plays no more.
        frame: draws a picture of the environment after each step (single environments only).
        stopped: asked before each step; on True only the episodes that have ended by then are returned.
    """
    envs = _Envs(env, list(dreamer.specs.obs), device_of(dreamer))
    share = [episodes // envs.count + (i < episodes % envs.count) for i in range(envs.count)]
    tracks = [_Track(keep) for _ in range(envs.count)]
    finished: list[tuple[int, Episode]] = []
    td, state = env.reset(), dreamer.initial(envs.count)
    is_first = torch.ones(envs.count, dtype=torch.bool, device=envs.device)
    while any(share) and not stopped():
        obs = envs.look(td)
        action, state = dreamer.act(obs, state, is_first, generator, greedy)
        seen, packed, acted = _host(obs), _host(_latent(state)), action.cpu()
        picture = frame(env) if frame is not None and envs.single else None
        td.set("action", acted[0] if envs.single else acted)
        td, root = env.step_and_maybe_reset(td)
        following = td.get("next")
        reward, terminated, done = (envs.flat(following, key) for key in ("reward", "terminated", "done"))
        for i in range(envs.count):
            if share[i]:
                tracks[i].add(i, seen, packed, acted, reward, picture)
        cut = [share[i] > 0 and (bool(done[i]) or len(tracks[i].action) >= max_length) for i in range(envs.count)]
        if any(cut):
            last = envs.look(following)
            _, final = dreamer.act(last, state, torch.zeros_like(is_first), generator, greedy)
            last, final = _host(last), _host(_latent(final))
            for i in (i for i in range(envs.count) if cut[i]):
                finished.append((i, tracks[i].close(i, last, final, bool(terminated[i]), greedy)))
                finished[-1][1].cut = not bool(done[i])
                tracks[i] = _Track(keep)
                share[i] = share[i] - 1 if bool(done[i]) else 0
        is_first, td = done.to(envs.device), root
    return [episode for _, episode in sorted(finished, key=lambda pair: pair[0])]


class _Envs:
    """How a batch of environments is read, or one that has no batch."""

    def __init__(self, env, names: list[str], device: torch.device):
        self.names, self.device, self.single = names, device, len(env.batch_size) == 0
        self.count = 1 if self.single else env.batch_size[0]

    def look(self, td) -> dict[str, Tensor]:
        """Observations [count, ...]."""
        obs = {name: td.get(name) for name in self.names}
        return {name: (value[None] if self.single else value).to(self.device) for name, value in obs.items()}

    def flat(self, td, key: str) -> Tensor:
        """A number of each [count]."""
        return td.get(key).reshape(self.count).cpu()


class _Track:
    """The episode that one environment is playing."""

    def __init__(self, keep: int):
        self.keep = keep
        self.obs: list[dict[str, Tensor]] = []
        self.latent: list[dict[str, Tensor]] = []
        self.action: list[np.ndarray] = []
        self.reward: list[float] = [0.0]
        self.frames: list[np.ndarray] = []

    def add(self, i: int, obs, latent, action: Tensor, reward: Tensor, picture) -> None:
        self._see(i, obs, latent)
        self.action.append(action[i].numpy().copy())
        self.reward.append(float(reward[i]))
        if picture is not None:
            self.frames.append(np.asarray(picture))

    def close(self, i: int, obs, latent, terminated: bool, greedy: bool) -> Episode:
        self._see(i, obs, latent)
        return Episode(
            obs={name: torch.stack([step[name] for step in self.obs]).numpy() for name in self.obs[0]},
            action=np.stack(self.action).astype(np.float32),
            reward=np.asarray(self.reward, np.float32),
            terminated=terminated,
            latent={key: torch.stack([step[key] for step in self.latent]) for key in self.latent[0]},
            last={key: value[i].clone() for key, value in latent.items()},
            greedy=greedy,
            frames=self.frames,
        )

    def _see(self, i: int, obs, latent) -> None:
        if len(self.obs) < self.keep:
            self.obs.append({name: value[i].clone() for name, value in obs.items()})
            self.latent.append({key: value[i].clone() for key, value in latent.items()})


def _latent(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != "prev_action"}


def _host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in tensors.items()}

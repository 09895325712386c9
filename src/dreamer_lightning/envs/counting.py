"""An environment whose every number says where it came from: to prove that nothing slips in time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from dreamer_lightning.envs.base import EnvFactory


class CountingEnv(EnvBase):
    """Observes its own step index, rewards it, and echoes the action.

    Observations: ``count`` [3] = (step index in the episode, episode number, seed), ``echo`` [action_dim] = the action
    that led here (zeros after a reset), and with ``image_size`` an ``image`` whose every pixel is the index modulo 256.

    Args:
        lengths: decisions in each episode, cycled through.
        truncate: episodes end by truncation, else by termination; or one bool for each entry of ``lengths``.
        action_dim: entries of the continuous action.
        image_size: edge of the image, 0 for none.
        seed: told by the observation.
    """

    batch_locked = False

    def __init__(
        self,
        lengths: Sequence[int] = (5,),
        truncate: bool | Sequence[bool] = False,
        action_dim: int = 2,
        image_size: int = 0,
        seed: int = 0,
    ):
        super().__init__(batch_size=())
        self.lengths = tuple(lengths)
        self.truncate = (truncate,) * len(self.lengths) if isinstance(truncate, bool) else tuple(truncate)
        self.seed_number, self.image_size = seed, image_size
        self.index, self.episode = 0, -1
        spec = {"count": Unbounded(shape=(3,)), "echo": Unbounded(shape=(action_dim,))}
        if image_size:
            spec["image"] = Bounded(0, 255, shape=(image_size, image_size, 3), dtype=torch.uint8)
        self.observation_spec = Composite(spec)
        self.action_spec = Bounded(-1, 1, shape=(action_dim,), dtype=torch.float32)
        self.reward_spec = Unbounded(shape=(1,))
        flag = {key: Binary(1, shape=(1,), dtype=torch.bool) for key in ("done", "terminated", "truncated")}
        self.full_done_spec = Composite(flag)

    def _observe(self, echo: torch.Tensor) -> dict[str, torch.Tensor]:
        obs = {"count": torch.tensor([self.index, self.episode, self.seed_number], dtype=torch.float32), "echo": echo}
        if self.image_size:
            obs["image"] = torch.full((self.image_size, self.image_size, 3), self.index % 256, dtype=torch.uint8)
        return obs

    def _reset(self, tensordict: TensorDictBase | None = None) -> TensorDict:
        self.index, self.episode = 0, self.episode + 1
        return TensorDict(self._observe(torch.zeros(self.action_spec.shape)), ())

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.index += 1
        turn = self.episode % len(self.lengths)
        over, cut = self.index >= self.lengths[turn], self.truncate[turn]
        after = self._observe(tensordict["action"].clone())
        after["reward"] = torch.tensor([float(self.index)])
        after["terminated"] = torch.tensor([over and not cut])
        after["truncated"] = torch.tensor([over and cut])
        after["done"] = torch.tensor([over])
        return TensorDict(after, ())

    def _set_seed(self, seed: int | None) -> None:
        self.seed_number = seed or 0

    def get_state(self) -> dict[str, int]:
        """All that the next steps depend on."""
        return {"index": self.index, "episode": self.episode, "seed": self.seed_number}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on from what ``get_state`` gave."""
        self.index, self.episode, self.seed_number = state["index"], state["episode"], state["seed"]


class Counting(EnvFactory):
    """Makes counting environments.

    Args:
        lengths: decisions in each episode, cycled through.
        truncate: episodes end by truncation, else by termination; or one bool for each entry of ``lengths``.
        action_dim: entries of the continuous action.
        image_size: edge of the image, 0 for none.
    """

    name = "counting"
    repeat = 1

    def __init__(
        self,
        lengths: Sequence[int] = (5,),
        truncate: bool | Sequence[bool] = False,
        action_dim: int = 2,
        image_size: int = 0,
    ):
        self.lengths, self.truncate, self.action_dim, self.image_size = lengths, truncate, action_dim, image_size

    def make(self, seed: int, pixels_for_video: bool = False) -> CountingEnv:
        return CountingEnv(self.lengths, self.truncate, self.action_dim, self.image_size, seed)

"""One episode as pictures."""

from __future__ import annotations

import numpy as np
import torch

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.evaluation.rollout import Episode, device_of, own_randomness, rollout
from dreamer_lightning.types import Specs


def film(dreamer, factory: EnvFactory, seed: int, steps: int = 1000) -> Episode | None:
    """A greedy episode with ``frames``, or None where pictures cannot be drawn.

    Args:
        dreamer: the agent.
        factory: the task.
        seed: of the environment and of the draws.
        steps: agent steps after which it is cut.
    """
    with own_randomness():
        factory.prepare()
        env = factory.make(seed, pixels_for_video=True)
        try:
            env.reset()
            if factory.frame(env) is None:
                return None
            generator = torch.Generator(device_of(dreamer)).manual_seed(seed)
            return rollout(dreamer, env, 1, True, generator, keep=1, max_length=steps, frame=factory.frame)[0]
        finally:
            env.close()


def observed_frames(specs: Specs, episode: Episode) -> list[np.ndarray]:
    """What the agent saw, as pictures: the kept images of its first RGB observation; empty without one."""
    for key, space in specs.obs.items():
        if space.image and space.shape[-1] in (1, 3):
            return list(episode.obs[key].repeat(3 // space.shape[-1], -1))
    return []

"""Several environments of one task as one TorchRL environment, with the policy's state carried in time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

import torch
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, EnvBase, InitTracker, SerialEnv, TensorDictPrimer, TransformedEnv

from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.guarded import Failures, Guard
from dreamer_lightning.envs.workers import Workers

Primers = Mapping[str | tuple[str, ...], tuple[tuple[int, ...], torch.dtype]]


def make_batched(
    factory: EnvFactory,
    num_envs: int,
    seed: int,
    backend: Literal["serial", "process"] = "serial",
    primers: Primers | None = None,
    pixels_for_video: bool = False,
    failures: Failures | None = None,
) -> EnvBase:
    """``num_envs`` environments with batch size [num_envs], also for one.

    Args:
        factory: the task.
        num_envs: how many; environment ``i`` is seeded from ``seed`` and ``i``.
        seed: of the whole batch.
        backend: ``serial`` steps them in this process, ``process`` gives each a worker process.
        primers: what the policy carries from step to step, by key: (event shape, dtype). Zero after each reset;
            the policy writes the new value below ``next``.
        pixels_for_video: ``factory.frame`` will be asked for pictures (of the first one; not from workers).
        failures: where failures of environments are told and how many may follow one another; None: each one raises.

    Returns:
        The environment; it marks the first step of episodes by ``is_init`` [num_envs, 1].

    Raises:
        UserError: what the factory raises, also from within a worker.
        EnvFailure: an environment failed too often in a row.
    """
    factory.prepare()
    kwargs = [{"seed": env_seed(seed, i), "pixels_for_video": pixels_for_video} for i in range(num_envs)]
    if backend == "process":
        env = Workers(num_envs, factory, kwargs, failures)
    else:
        makers = [functools.partial(Guard, factory, kwargs[i], i, failures) for i in range(num_envs)]
        env = SerialEnv(num_envs, makers)
    transforms = [InitTracker(init_key="is_init")]
    if primers:
        carried = Composite(shape=(num_envs,))
        for key, (shape, dtype) in primers.items():
            carried[key] = Unbounded(shape=(num_envs, *shape), dtype=dtype)
        transforms.append(TensorDictPrimer(carried))
    return TransformedEnv(env, Compose(*transforms))


def env_seed(seed: int, index: int) -> int:
    """A seed for environment ``index`` that no neighbouring ``seed`` shares, below 2**31."""
    return (seed * 1_000_003 + index * 7919 + 1) % (2**31 - 1)

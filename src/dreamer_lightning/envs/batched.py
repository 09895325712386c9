"""Several environments of one task as one TorchRL environment, with the policy's state carried in time."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal

import torch
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, EnvBase, InitTracker, ParallelEnv, SerialEnv, TensorDictPrimer, TransformedEnv

from dreamer_lightning.envs.base import EnvFactory

Primers = Mapping[str | tuple[str, ...], tuple[tuple[int, ...], torch.dtype]]


def make_batched(
    factory: EnvFactory,
    num_envs: int,
    seed: int,
    backend: Literal["serial", "process"] = "serial",
    primers: Primers | None = None,
) -> EnvBase:
    """``num_envs`` environments with batch size [num_envs], also for one.

    Args:
        factory: the task.
        num_envs: how many; environment ``i`` is seeded from ``seed`` and ``i``.
        seed: of the whole batch.
        backend: ``serial`` steps them in this process, ``process`` gives each a worker process.
        primers: what the policy carries from step to step, by key: (event shape, dtype). Zero after each reset;
            the policy writes the new value below ``next``.

    Returns:
        The environment; it marks the first step of episodes by ``is_init`` [num_envs, 1].
    """
    factory.prepare()
    kwargs = [{"seed": env_seed(seed, i)} for i in range(num_envs)]
    if backend == "process":
        env = ParallelEnv(num_envs, _Worker(factory, list(sys.path)), create_env_kwargs=kwargs, daemon=True)
    else:
        env = SerialEnv(num_envs, factory.make, create_env_kwargs=kwargs)
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


class _Worker:
    """Makes one environment in a worker process, which starts with neither our import path nor our thread count."""

    def __init__(self, factory: EnvFactory, path: list[str]):
        self.factory, self.path = factory, path

    def __call__(self, seed: int) -> EnvBase:
        sys.path.extend(folder for folder in self.path if folder not in sys.path)
        torch.set_num_threads(1)
        return self.factory.make(seed)

"""The recorded arrays of the official DreamerV3 (tests/data), and the comparison their README asks for."""

import functools
import json
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "data"


class Golden:
    """Arrays of one file; a prefix narrows the view."""

    def __init__(self, arrays, prefix=""):
        self.arrays, self.prefix = arrays, prefix

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[self.prefix + key]

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self.arrays

    def at(self, prefix: str) -> "Golden":
        return Golden(self.arrays, f"{self.prefix}{prefix}/")

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self[key]))

    def json(self, key: str):
        return json.loads(str(self[key]))

    def names(self, prefix: str) -> list[str]:
        start = f"{self.prefix}{prefix}/"
        return [key[len(start) :] for key in self.arrays if key.startswith(start)]

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name: self.tensor(f"{prefix}/{name}") for name in self.names(prefix)}


@functools.cache
def golden(name: str) -> Golden:
    with np.load(DATA / f"{name}.npz") as archive:
        return Golden({key: archive[key] for key in archive.files})


def assert_close(got, want, limit=1e-5):
    """rtol ``limit`` and atol ``limit`` times the mean magnitude of the wanted array."""
    got, want = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64) for x in (got, want))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=limit, atol=limit * max(np.abs(want).mean(), 1e-30))


def assert_grad(got, want, limit=1e-4):
    """Relative L2 error of one tensor."""
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= limit * np.linalg.norm(want) + 1e-12

"""The recorded arrays of the official DreamerV3 (tests/data), and the comparison their README asks for."""

import functools
from pathlib import Path

from dreamer_lightning.workshop.parity.record import GRADIENT, LAYER, Vectors, norm_error, relative_error

DATA = Path(__file__).parent / "data"


@functools.cache
def golden(name: str) -> Vectors:
    """The arrays of one file."""
    return Vectors.load(DATA / f"{name}.npz")


def assert_close(got, want, limit=LAYER):
    """Every element, within ``limit`` of its size and of the mean magnitude of the wanted array."""
    assert relative_error(got, want) <= limit


def assert_grad(got, want, limit=GRADIENT):
    """Relative L2 error of one tensor."""
    assert norm_error(got, want) <= limit

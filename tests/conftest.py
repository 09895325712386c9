"""One thread for every test and what it starts, and shapes that are checked: the model's annotations hold at each call.

Tests are small, and several processes share two cores.
"""

import os

import jaxtyping
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKED = ("ops", "nets", "optim", "versions", "world_model", "actor_critic", "dreamer", "data.explore")
KERNELS = ("fused", "recurrence", "twins")  # tracers, whose sizes are no ints, ask the others


def pytest_configure(config):
    """Check shapes, except where ``-m compile`` picks the tests of torch.compile, whose graphs a check would break."""
    if config.option.markexpr.startswith("compile") or jaxtyping.config.jaxtyping_disable:
        return
    names = [*CHECKED, *(f"kernels.{name}" for name in KERNELS)]
    jaxtyping.install_import_hook([f"dreamer_lightning.{name}" for name in names], "shapes.check")


@pytest.fixture
def unchecked():
    """No shapes are checked, as outside the tests: what is wrong reaches the functions themselves."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)

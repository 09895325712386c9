"""Packages whose names are loaded when they are first used."""

import subprocess
import sys

import pytest

import dreamer_lightning
from dreamer_lightning import data, envs


@pytest.mark.parametrize("package", [dreamer_lightning, data, envs])
def test_every_public_name_is_there(package):
    assert set(package.__all__) - {"__version__"} == set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_nothing_heavy_is_loaded_before_it_is_used():
    code = "import sys, dreamer_lightning, dreamer_lightning.envs; print({'torch', 'torchrl'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"

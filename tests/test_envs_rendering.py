"""Rendering is probed once, never against the user's wish, and its absence is told in one line."""

from __future__ import annotations

import os
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamer_lightning.envs import DMC, probe_gl, rendering, require_gl, specs_of, working_gl
from dreamer_lightning.kernels import native
from dreamer_lightning.types import UserError


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine of which nothing is known; returns the backends that were tried, and lets one of them work."""
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(rendering, "_found", {})
    for name in [name for name in sys.modules if name.split(".")[0] == "dm_control"]:
        monkeypatch.delitem(sys.modules, name)
    machine = SimpleNamespace(tried=[], works=None)

    def draws(backend):
        machine.tried.append(backend)
        return backend == machine.works

    monkeypatch.setattr(rendering, "_draws", draws)
    return machine


def test_the_first_backend_that_draws_is_taken_and_remembered(fresh, monkeypatch):
    fresh.works = "osmesa"
    assert probe_gl() == "osmesa" == os.environ["MUJOCO_GL"] == working_gl()
    assert fresh.tried == ["egl", "osmesa"]
    monkeypatch.delenv("MUJOCO_GL")
    rendering._found.clear()
    assert probe_gl() == "osmesa"  # another process
    assert fresh.tried == ["egl", "osmesa"]


def test_glfw_is_tried_where_there_is_a_screen(fresh, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    fresh.works = "glfw"
    assert probe_gl() == "glfw"
    assert fresh.tried == ["egl", "osmesa", "glfw"]


def test_without_a_backend_rendering_is_off_and_pixels_name_the_package(fresh):
    assert probe_gl() is None
    assert os.environ["MUJOCO_GL"] == "disabled"
    with pytest.raises(UserError, match="walker_walk with pixels needs OpenGL.*apt-get install libegl1.*libosmesa6"):
        DMC("walker_walk", pixels=True).prepare()
    DMC("walker_walk").prepare()


def test_a_backend_that_was_installed_since_is_found(fresh, monkeypatch):
    probe_gl()
    monkeypatch.delenv("MUJOCO_GL")
    rendering._found.clear()
    fresh.works = "egl"
    require_gl("a picture")
    assert working_gl() == "egl"


@pytest.mark.parametrize("value", ["osmesa", "disabled", "off"])
def test_what_the_user_set_is_kept(fresh, monkeypatch, value):
    monkeypatch.setenv("MUJOCO_GL", value)
    fresh.works = "egl"
    assert probe_gl() == probe_gl(force=True) == (value if value == "osmesa" else None)
    assert os.environ["MUJOCO_GL"] == value
    assert fresh.tried == []
    if value != "osmesa":
        with pytest.raises(UserError, match="MUJOCO_GL switches it off"):
            require_gl("a picture")


def test_a_cache_that_cannot_be_read_or_written_is_no_error(fresh, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert probe_gl() is None


def test_a_user_without_a_home_has_caches_among_the_temporary_files(fresh, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and without an entry in passwd
    assert rendering._cache_file().is_relative_to(tempfile.gettempdir())
    assert [folder.is_relative_to(tempfile.gettempdir()) for folder in native.folders()] == [True]


@pytest.fixture
def drawing():
    if probe_gl() is None:
        pytest.skip("no OpenGL backend draws on this machine")


@pytest.mark.usefixtures("drawing")
def test_dm_control_pictures():
    both = DMC("cartpole_balance", pixels=True, image_size=32).make(0)
    assert [name for name in specs_of(both).obs if specs_of(both).obs[name].image] == ["image"]
    assert list(specs_of(DMC("cartpole_balance", pixels=True, vectors=False).make(0)).obs) == ["image"]
    state, plain = both.reset(), DMC("cartpole_balance").make(0).reset()
    assert state["image"].shape == (32, 32, 3)
    assert state["image"].float().std() > 5
    assert (state["position"] == plain["position"]).all()  # pictures do not change the trajectory
    stepped = both.step(state.set("action", torch.ones(1)))
    assert (stepped["next", "image"] != state["image"]).any()
    cheap = DMC("cartpole_balance", pixels=True, image_size=32, cheap_pixels=True).make(0).reset()
    assert (cheap["image"] != state["image"]).any()
    assert DMC("quadruped_walk").camera == 2
    assert DMC("cup_catch", camera=1).camera == 1


@pytest.mark.usefixtures("drawing")
def test_dm_control_frames_of_a_vector_task():
    factory = DMC("cartpole_balance")
    env = factory.make(0, pixels_for_video=True)
    env.reset()
    frame = factory.frame(env)
    assert frame.shape == (240, 320, 3)
    assert frame.dtype == np.uint8


def test_without_dm_control_a_line_says_how_it_is_installed(monkeypatch):
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="dm_control is not installed; pip install --no-deps dm_control dm-env lxml scipy"
    ):
        rendering.import_suite()

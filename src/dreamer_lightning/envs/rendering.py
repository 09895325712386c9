"""Which OpenGL backend draws on this machine without a screen: found out once, before dm_control is imported."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from dreamer_lightning.types import UserError

_DRAW = """
try:
    from dm_control.mujoco import Physics
except ImportError:
    import mujoco
    mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 16, 16).render()
else:
    Physics.from_xml_string('<mujoco/>').render(16, 16)
"""
_OFF = ("disable", "disabled", "off", "false", "0")
_DAY = 86400.0
_found: dict[str, str] = {}  # what this process has set MUJOCO_GL to; empty while the user's value counts


def probe_gl(force: bool = False) -> str | None:
    """Sets ``MUJOCO_GL`` to the first of egl, osmesa and glfw that draws a frame, or to ``disabled``.

    A value that the user set is kept. The answer is remembered for a day in the user's cache folder, because a probe
    starts Python two or three times (1 to 3 seconds).

    Args:
        force: probe although an answer is remembered.

    Returns:
        The backend, or None where nothing draws.
    """
    if "MUJOCO_GL" in os.environ and not (force and _found):
        return working_gl()
    if "dm_control._render" in sys.modules:  # imported by someone else: it has chosen, and cannot be changed
        return sys.modules["dm_control._render"].BACKEND
    backend = None if force else _recall()
    if backend is None:
        backend = next((name for name in _candidates() if _draws(name)), "disabled")
        _remember(backend)
    os.environ["MUJOCO_GL"] = _found["backend"] = backend
    return working_gl()


def working_gl() -> str | None:
    """The backend that ``MUJOCO_GL`` names, None where it is switched off or not chosen yet."""
    value = os.environ.get("MUJOCO_GL", "").lower().strip()
    return None if value in ("", *_OFF) else value


def require_gl(what: str) -> None:
    """Raises UserError with the missing system package unless a backend draws; ``what`` needs it."""
    if probe_gl() is None and _found and "dm_control" not in sys.modules:
        probe_gl(force=True)  # remembered as missing; it may have been installed since
    if working_gl() is None:
        why = "none of egl, osmesa, glfw draws a frame on this machine" if _found else "MUJOCO_GL switches it off"
        raise UserError(
            f"{what} needs OpenGL, and {why}; install a backend "
            "(Debian, Ubuntu: apt-get install libegl1 libgl1 libgl1-mesa-dri, or libosmesa6) or use vectors"
        )


def import_suite():
    """dm_control's suite; where the backend cannot be imported after all, without rendering.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("dm_control") is None:  # Python 3.13 has no wheel of labmaze, which the suite does without
        raise UserError("dm_control is not installed; pip install --no-deps dm_control dm-env lxml scipy")
    probe_gl()
    try:
        from dm_control import suite
    except (ImportError, AttributeError, RuntimeError) as error:
        if not _found:
            value = os.environ.get("MUJOCO_GL")
            raise UserError(f"dm_control cannot be imported with MUJOCO_GL={value} ({error}); unset it") from error
        os.environ["MUJOCO_GL"] = _found["backend"] = "disabled"
        _remember("disabled")
        from dm_control import suite
    return suite


def _candidates() -> list[str]:
    screen = platform.system() != "Linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return ["egl", "osmesa", *(["glfw"] if screen else [])]


def _draws(backend: str) -> bool:
    command = [sys.executable, "-c", _DRAW]
    environ = {**os.environ, "MUJOCO_GL": backend}
    try:
        return subprocess.run(command, env=environ, capture_output=True, timeout=30).returncode == 0
    except (subprocess.TimeoutExpired, OSError):
        return False


def _cache_file() -> Path:
    home = os.path.expanduser("~")  # "~" itself for a user who has none
    cache = os.environ.get("XDG_CACHE_HOME") or (Path(home) / ".cache" if home != "~" else tempfile.gettempdir())
    return Path(cache) / "dreamer_lightning" / "gl.json"


def _machine() -> str:
    return "|".join(
        [platform.node(), sys.prefix, *(os.environ.get(k, "") for k in ("DISPLAY", "CUDA_VISIBLE_DEVICES"))]
    )


def _recall() -> str | None:
    try:
        entry = json.loads(_cache_file().read_text("utf-8"))[_machine()]
        return entry["backend"] if time.time() - entry["time"] < _DAY else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(backend: str) -> None:
    try:
        path = _cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            entries = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            entries = {}
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({**entries, _machine(): {"backend": backend, "time": time.time()}}), "utf-8")
        part.replace(path)
    except OSError:
        pass  # a read-only home only costs the next start a probe

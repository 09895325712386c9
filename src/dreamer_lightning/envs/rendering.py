"""Which OpenGL backend draws on this machine without a screen."""

from __future__ import annotations

import os


def probe_gl(force: bool = False) -> str | None:
    os.environ.setdefault("MUJOCO_GL", "disabled")
    return None


def can_render() -> bool:
    return False


def require_gl(what: str) -> None:
    pass

"""All that is there for speed alone; nothing that computes imports it, and without it everything computes the same.

``accelerate(module)`` puts fast twins in the place of the layers that it knows, ``restore(module)`` takes them away.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Report", "accelerate", "restore"]


def __getattr__(name: str) -> Any:  # `process` is needed before torch may be imported
    if name not in __all__:
        raise AttributeError(f"module 'dreamer_lightning.kernels' has no attribute '{name}'")
    return getattr(import_module("dreamer_lightning.kernels.seam"), name)

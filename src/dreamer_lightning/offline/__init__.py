"""Recorded data in place of an environment or beside one: Minari data sets and the replay of other runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamer_lightning import lazy

if TYPE_CHECKING:
    from dreamer_lightning.offline.recorded import Recorded

__all__ = ["Recorded"]

_HOMES = {"Recorded": "recorded"}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)

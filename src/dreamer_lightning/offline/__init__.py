"""Recorded data in place of an environment or beside one: Minari data sets and the replay of other runs."""

from __future__ import annotations

from dreamer_lightning import lazy

_HOMES = {"Recorded": "recorded"}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)

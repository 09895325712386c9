"""Optimisers: LaProp with adaptive gradient clipping (V3), and Adam in three parts (the versions before)."""

from dreamer_lightning.optim.adam import PartsAdam as PartsAdam
from dreamer_lightning.optim.laprop import LaProp as LaProp
from dreamer_lightning.optim.parts import Parts as Parts

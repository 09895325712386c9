"""Three training steps of a whole agent on one replayed batch."""

from __future__ import annotations

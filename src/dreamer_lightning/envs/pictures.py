"""What counts as a picture, and how it is brought to the wire: uint8 [height, width, channels] of one size."""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

import numpy as np

Channels = Literal["auto", "first", "last"]
SIDE = 16  # pixels: what has a shorter side is a table


class Picture(NamedTuple):
    """How pictures arrive: with channels first or last (or none), and the numbers that are black and white."""

    shape: tuple[int, ...]
    first: bool = False
    low: float = 0.0
    high: float = 255.0

    def wire(self, value: np.ndarray, size: int) -> np.ndarray:
        """A picture as uint8 [height, width, channels], resized to ``size`` unless that is 0; always a copy."""
        if value.dtype != np.uint8 or (self.low, self.high) != (0.0, 255.0):
            share = (np.clip(value, self.low, self.high).astype(np.float32) - self.low) / (self.high - self.low)
            value = np.rint(255.0 * share).astype(np.uint8)
        return resize(np.moveaxis(value, 0, -1) if self.first else value, size)

    def wire_shape(self, size: int) -> tuple[int, ...]:
        """Shape of what ``wire`` returns."""
        shape = (*self.shape[1:], self.shape[0]) if self.first else (*self.shape, 1)[:3]
        return (size, size, shape[2]) if size else shape


def picture_of(
    shape: tuple[int, ...], low: float, high: float, whole: bool, channels: Channels = "auto", asked: bool = False
) -> Picture | None:
    """What an array is as a picture; None where its sides, bounds or dimensions are none of a picture's.

    Args:
        shape: of the array.
        low: smallest number, the same for all entries.
        high: largest number.
        whole: its numbers are integers; those of a picture go from 0 to 255.
        channels: where they are; ``auto`` takes the first axis if it is shorter than both others.
        asked: it is one by the user's word, whatever its sides.
    """
    if len(shape) not in (2, 3) or not prod(shape) or not (np.isfinite(low) and np.isfinite(high) and low < high):
        return None
    first = len(shape) == 3 and (channels == "first" or channels == "auto" and shape[0] < min(shape[1:]))
    sides = shape[1:] if first else shape[:2]
    usual = (low, high) == (0, 255) if whole else len(shape) == 3
    return Picture(shape, first, float(low), float(high)) if asked or usual and min(sides) >= SIDE else None


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 picture [height, width(, channels)] as [size, size, channels], Pillow bilinear; 0 keeps the size."""
    image = np.ascontiguousarray(image)
    if size and image.shape[:2] != (size, size):
        from PIL import Image

        if image.ndim == 3 and image.shape[-1] not in (1, 3):  # Pillow takes the last of 2 or 4 for transparency
            return np.concatenate([resize(image[..., i], size) for i in range(image.shape[-1])], -1)
        planes = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
        image = np.array(Image.fromarray(planes).resize((size, size), Image.Resampling.BILINEAR))
    else:
        image = image.copy()
    return image if image.ndim == 3 else image[..., None]

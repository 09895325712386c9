"""What counts as a picture, and how it is brought to the wire: uint8 [height, width, channels] of one size."""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

import numpy as np

Channels = Literal["auto", "first", "last"]
SIDE = 16  # pixels: what has a shorter side is a table


class Picture(NamedTuple):
    """How pictures arrive: with channels first or last (or none), and the numbers that are black and white.

    Four dimensions are frames, the oldest first, whose channels lie behind one another on the wire.
    """

    shape: tuple[int, ...]
    first: bool = False
    low: float = 0.0
    high: float = 255.0

    def wire(self, value: np.ndarray, size: int) -> np.ndarray:
        """A picture as uint8 [height, width, channels], resized to ``size`` unless that is 0; always a copy."""
        if value.dtype != np.uint8 or (self.low, self.high) != (0.0, 255.0):
            value = to_bytes(value, self.low, self.high)
        value = np.moveaxis(value, -3, -1) if self.first else value
        if value.ndim == 4:
            value = joined(value)
        return resize(value, size)

    def wire_shape(self, size: int) -> tuple[int, ...]:
        """Shape of what ``wire`` returns."""
        frame = self.shape[-3:]
        height, width, channels = (*frame[1:], frame[0]) if self.first else (*frame, 1)[:3]
        channels *= self.shape[0] if len(self.shape) == 4 else 1
        return (size, size, channels) if size else (height, width, channels)


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
    if len(shape) not in (2, 3, 4) or not prod(shape) or not (np.isfinite(low) and np.isfinite(high) and low < high):
        return None
    frame = shape[-3:]
    first = len(frame) == 3 and (channels == "first" or channels == "auto" and frame[0] < min(frame[1:]))
    sides = frame[1:] if first else frame[:2]
    usual = (low, high) == (0, 255) if whole else len(frame) == 3
    usual = usual and (len(shape) < 4 or shape[0] < min(sides))  # a few frames; what is as deep as wide is no film
    return Picture(shape, first, float(low), float(high)) if asked or usual and min(sides) >= SIDE else None


def to_bytes(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers from black to white as uint8."""
    return np.rint(255.0 * (np.clip(value, low, high).astype(np.float32) - low) / (high - low)).astype(np.uint8)


def joined(frames: np.ndarray) -> np.ndarray:
    """Frames [*b, k, h, w, c] as one picture [*b, h, w, k*c], the first frame's channels first."""
    moved = np.moveaxis(frames, -4, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def drawn(value: object) -> np.ndarray:
    """What an environment draws, as uint8 [height, width, 3]; floats up to 1 count as shares of white.

    Raises:
        ValueError: it is no picture.
    """
    image = np.asarray(value)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or min(image.shape) < 1 or image.dtype.kind not in "uifb":
        raise ValueError(f"its picture is {type(value).__name__} {image.shape} of {image.dtype}")
    if image.dtype != np.uint8:
        image = to_bytes(np.nan_to_num(image), 0, 255 if image.dtype.kind in "ui" or (image > 1).any() else 1)
    return image.repeat(3, -1) if image.shape[-1] == 1 else image[..., :3]


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

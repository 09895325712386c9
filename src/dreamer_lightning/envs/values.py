"""What a gymnasium environment returns, taken apart: nested observations, pictures, entries of ``info``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer_lightning.types import UserError


def flatten(value: Any, root: str, whole: Collection[str] = (), name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, leaf) pairs of nested dicts and tuples, of values or of spaces; a nameless leaf is called ``root``.

    Args:
        value: what to take apart.
        root: the name of a leaf that lies in nothing.
        whole: names that are leaves whatever is in them: values of some spaces are dicts or tuples themselves.
        name: where ``value`` lies; empty at the top, also in ``whole``.
    """
    if name not in whole and isinstance(value, Mapping | spaces.Dict | tuple | spaces.Tuple):
        for key, item in value.items() if isinstance(value, Mapping | spaces.Dict) else enumerate(value):
            yield from flatten(item, root, whole, f"{name}/{key}" if name else str(key))
    else:
        yield name or root, value


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


def logged(info: Any, name: str, step: int) -> np.ndarray:
    """One number of ``info``, float32 [1]; 0 where the entry is missing, None or empty.

    Args:
        info: what the environment returned.
        name: the entry, see ``env.log_info``.
        step: of the episode, for the error.

    Raises:
        UserError: the entry is no number.
    """
    entry = _entry(info, name)
    try:
        numbers = np.asarray(0.0 if entry is None else entry, np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        kind = type(entry).__name__
        raise UserError(f"env.log_info: entry {name!r} is a {kind} at step {step}; it must be a number") from error
    return numbers[:1] if numbers.size else np.zeros(1, np.float32)


def _entry(info: Any, name: str) -> Any:
    """``info[name]``; else ``a/b`` is ``info["a"]["b"]``; None where there is nothing."""
    if not isinstance(info, Mapping):
        return None
    head, slash, rest = name.partition("/")
    return info[name] if name in info else _entry(info.get(head), rest) if slash else None

"""Reads arrays that were recorded from the official DreamerV3, and keeps what was compared with them.

Each module beside this one runs our code on the inputs of one file and hands every output to :class:`Vectors`, which
compares it with the recorded array.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dreamer_lightning.nets.blocks import BlockLinear

HUGE = 1e308  # stands for "infinitely wrong" (other shape, not a number): JSON has no infinity

# Limits of the float32 port, relative to the wanted values (the vectors' own README, section Tolerances).
LAYER = 1e-5  # single layers, distributions, returns
SEQUENCE = 1e-4  # observe, imagine and whole-agent losses
IMAGE = 5e-5  # image reconstruction loss: the reference adds its terms one by one in float32
GRADIENT = 1e-4  # relative L2 error of one tensor
AGENT_GRADIENT = 1e-3
TWOHOT_PRED = 1e-6  # of sum(|p * bins|)
UPDATE = 2e-4  # optimiser updates, relative; parameters in units of the learning rate
SIGMAS = 5  # statistics of random draws: off by more once in a million
LEARNED = 0.05  # trained parameters, in units of the learning rate


Job = tuple[str, Callable[[], None]]  # a group of arrays, and what checks it


class NotRunnable(Exception):
    """A check that cannot be run on these vectors: what is missing or not offered here."""


@dataclass(frozen=True)
class Check:
    """One compared array: its file and key, the error found and the largest error allowed."""

    file: str
    key: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    def as_json(self) -> str:
        row = {"file": self.file, "key": self.key, "error": self.error, "tolerance": self.tolerance, "ok": self.ok}
        return json.dumps(row)


@dataclass
class Vectors:
    """The arrays of one file, and the checks made against them.

    Args:
        name: file name, as reported.
        arrays: every array of the file by key.
        dtype: floating type of the tensors handed out, and so of the computation.
    """

    name: str
    arrays: dict[str, np.ndarray]
    dtype: torch.dtype = torch.float32
    checks: list[Check] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path, dtype: torch.dtype = torch.float32) -> Vectors:
        """Read one npz file; raises ``NotRunnable`` where it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(path.name, {key: archive[key] for key in archive.files}, dtype)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise NotRunnable(f"{path.name} cannot be read: {error}") from error

    # Reading -------------------------------------------------------------------------------------------------------

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.arrays:
            raise NotRunnable(f"{self.name} has no array {key}")
        self.touched.add(key)
        return self.arrays[key]

    def tensor(self, key: str) -> Tensor:
        """The array as a tensor: floats in ``dtype`` (in float64 images too), integers as int64, booleans kept."""
        array = self[key]
        tensor = torch.from_numpy(np.array(array))
        image = tensor.dtype == torch.uint8 and self.dtype == torch.float64
        if image or tensor.dtype in (torch.float32, torch.float64):
            return tensor.to(self.dtype)
        return tensor if tensor.dtype in (torch.bool, torch.uint8) else tensor.long()

    def json(self, key: str):
        return json.loads(str(self[key]))

    def at(self, prefix: str) -> Vectors:
        """The arrays below ``prefix/`` alone, by the rest of their keys; what is compared with them counts there."""
        return Vectors(self.name, {name: self[f"{prefix}/{name}"] for name in self.names(prefix)}, self.dtype)

    def number(self, key: str) -> float:
        return float(self[key])

    def names(self, prefix: str) -> list[str]:
        """Keys below ``prefix/``, without it, in the file's order."""
        start = prefix.rstrip("/") + "/"
        return [key[len(start) :] for key in self.arrays if key.startswith(start)]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below ``prefix/`` by the rest of their key."""
        return {name: self.tensor(f"{prefix}/{name}") for name in self.names(prefix)}

    def groups(self) -> list[str]:
        """First parts of the keys, in the file's order."""
        return list(dict.fromkeys(key.split("/")[0] for key in self.arrays))

    def ignore(self, *keys: str) -> None:
        """Mark arrays that describe or inform, and that nothing is to be compared with."""
        self.touched.update(key for key in keys if key in self.arrays)

    def untouched(self) -> list[str]:
        return [key for key in self.arrays if key not in self.touched]

    # Comparing -----------------------------------------------------------------------------------------------------

    def close(self, key: str, got, limit: float = LAYER, scale: float | np.ndarray | None = None) -> None:
        """Compare elements: ``|got - want| <= limit * (|want| + scale)``, scale = mean magnitude of what is wanted."""
        self._add(key, relative_error(got, self[key], scale), limit)

    def within(self, key: str, got, limit: float, unit: float | np.ndarray) -> None:
        """Compare elements in the given unit: ``|got - want| <= limit * unit``."""
        self._add(key, _largest(_float(got), _float(self[key]), unit), limit)

    def norm(self, key: str, got, limit: float = GRADIENT) -> None:
        """Compare a whole tensor: L2 norm of the difference over that of what is wanted."""
        self._add(key, norm_error(got, self[key]), limit)

    def exact(self, key: str, got) -> None:
        """Compare numbers, flags or class ids that must be equal: the error is the largest difference."""
        self._add(key, _largest(_float(got), _float(self[key]), 1.0), 0.0)

    def same(self, key: str, got) -> None:
        """Compare a JSON entry: 0 where equal, 1 where not."""
        self.judge(key, float(self.json(key) != json.loads(json.dumps(got))), 0.0)

    def judge(self, key: str, error: float, tolerance: float) -> None:
        """Record an error that was measured elsewhere."""
        _ = self[key]  # one that is recorded
        self._add(key, error, tolerance)

    def _add(self, key: str, error: float, tolerance: float) -> None:
        error = float(error) if np.isfinite(error) else HUGE
        self.checks.append(Check(self.name, key, min(error, HUGE), float(tolerance)))


@contextmanager
def watch(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """The outputs of layers by name, while code inside the context calls them."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    def keep_blocks(name: str, layer: BlockLinear) -> Callable:
        def blocked(*args: Tensor) -> Tensor:
            output = BlockLinear.blocked(layer, *args)  # [g n o/g]
            outputs[name] = output.transpose(0, 1).flatten(1)
            return output

        return blocked

    hooks = []
    for name, layer in layers.items():
        if isinstance(layer, BlockLinear):
            layer.blocked = keep_blocks(name, layer)
        else:
            hooks.append(layer.register_forward_hook(keep(name)))
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers.values():
            layer.__dict__.pop("blocked", None)


def relative_error(got, want: np.ndarray, scale: float | np.ndarray | None = None) -> float:
    """Largest ``|got - want| / (|want| + scale)``; scale: mean magnitude of what is wanted."""
    want = _float(want)
    return _largest(_float(got), want, np.abs(want) + (np.abs(want).mean() if scale is None else scale))


def norm_error(got, want: np.ndarray) -> float:
    """L2 norm of the difference over that of what is wanted."""
    got, want = _float(got), _float(want)
    if got.shape != want.shape:
        return HUGE
    return _largest(np.linalg.norm(got - want), np.zeros(()), np.linalg.norm(want))


def _float(value) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().to(torch.float64).numpy()
    return np.asarray(value, np.float64)


def _largest(got: np.ndarray, want: np.ndarray, unit) -> float:
    """Largest |got - want| / unit; equal elements (infinities too) are 0, others over a unit of 0 are huge."""
    if got.shape != want.shape:
        return HUGE
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        errors = np.abs(got - want) / unit
    errors = np.where(got == want, 0.0, errors)
    errors = np.where(np.isfinite(errors), errors, HUGE)
    return float(errors.max()) if errors.size else 0.0

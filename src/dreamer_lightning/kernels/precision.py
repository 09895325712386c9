"""Where float32 is float32, also under autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside."""
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def precise_backward(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """For the backward of an autograd function: no autocast, whoever runs it, and no second derivative."""

    @once_differentiable
    def run(ctx, *grads):
        with full_precision(grads[0].device):
            return backward(ctx, *grads)

    return run

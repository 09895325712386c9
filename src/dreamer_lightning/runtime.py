"""How a process computes: the same way each time."""

from __future__ import annotations

import os


def repeatable(everywhere: bool) -> None:
    """Let torch take the same way through every computation each time, also where a faster one exists (GPUs).

    Args:
        everywhere: True refuses operations that have no such way; False leaves torch as it is by default.
    """
    import torch

    if everywhere:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(everywhere)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # finds errors, costs time

"""Between other people's numpy arrays and the tensors of acting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamer_lightning.types import Specs, UserError

Arrays = dict[str, np.ndarray]


def to_tensors(specs: Specs, obs: Arrays | np.ndarray, n: int, device: torch.device) -> tuple[dict[str, Tensor], bool]:
    """Observations [n, ...] on the device, and whether they came from one environment without the ``n``.

    Args:
        specs: what the agent was trained on.
        obs: by name; a lone observation needs no name.
        n: environments.
        device: where they go.

    Raises:
        UserError: one is missing, or has another shape.
    """
    if not isinstance(obs, dict):
        obs = {next(iter(specs.obs)): obs}
    missing = [name for name in specs.obs if name not in obs]
    if missing:
        raise UserError(f"obs: {', '.join(missing)} missing; the agent was trained on {', '.join(specs.obs)}")
    tensors, single = {}, False
    for name, space in specs.obs.items():
        array = np.asarray(obs[name])
        if space.discrete:  # in the environment's own numbers
            array = array - np.asarray(space.start)
            if array.size and not (array.min() >= 0 and array.max() < space.classes):
                raise UserError(
                    f"obs: {name} holds {np.asarray(obs[name]).tolist()}; the space is {space.source or space}"
                )
        array = array.astype(space.dtype)
        single = n == 1 and array.shape == space.shape
        if not single and array.shape != (n, *space.shape):
            raise UserError(f"obs: {name} has shape {array.shape}, expected {(n, *space.shape)} or {space.shape}")
        tensors[name] = torch.from_numpy(array.reshape(n, *space.shape).copy()).to(device)
    return tensors, single


def to_action(specs: Specs, action: Tensor) -> np.ndarray:
    """Flat wire actions [*b, a] as environments take them.

    Returns:
        Continuous: float32 in [-1, 1] [*b, a]; discrete: class numbers [*b]; MultiDiscrete: a vector of them.
    """
    layout = specs.actions
    numbers = layout.numbers(layout.clip(action.float()))
    if not next(iter(layout.values())).discrete:
        return layout.join(numbers).cpu().numpy()
    classes = [number.cpu() + space.start for number, space in zip(numbers.values(), layout.values(), strict=True)]
    return (classes[0] if len(classes) == 1 else torch.stack(classes, -1)).numpy()

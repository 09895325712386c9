"""Actions other than the policy's own: drawn blindly before learning begins, or disturbed on purpose (V1, V2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.types import Specs


def disturbed(
    action: Float[Tensor, "n a"], specs: Specs, amount: float, generator: torch.Generator | None
) -> Float[Tensor, "n a"]:
    """Actions with something added: see ``amount``.

    Args:
        action: what the policy chose.
        specs: the environment's.
        amount: standard deviation of a normal that is added to continuous entries, which are then cut to [-1, 1];
            probability with which a discrete action gives way to a random one.
        generator: source of the draws.
    Source: danijar/dreamer@56d4d44 dreamer.py; danijar/dreamerv2@07d906e common/other.py (action_noise).
    """
    n, device, layout = len(action), action.device, specs.actions
    moved = (action + amount * torch.randn(action.shape, generator=generator, device=device)).clamp(-1, 1)
    blind = layout.random((n,), generator, device)
    coin = torch.rand(n, 1, generator=generator, device=device) < amount
    near, switched = layout.split(moved), layout.split(torch.where(coin, blind, action))
    return layout.join({name: switched[name] if space.discrete else near[name] for name, space in layout.items()})

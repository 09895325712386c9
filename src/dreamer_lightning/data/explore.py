"""Actions other than the policy's own: drawn blindly before learning begins, or disturbed on purpose (V1, V2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.types import Specs


def random_actions(specs: Specs, n: int, generator: torch.Generator | None, device: torch.device | None) -> Tensor:
    """Uniform actions [n, a] in [-1, 1], or one-hot where discrete.

    Args:
        specs: the environment's.
        n: environments.
        generator: source of the draws.
        device: of the actions.
    """
    draws = torch.rand(n, specs.action_dim, generator=generator, device=device)
    parts = []
    for part, space in zip(*_split(draws, specs), strict=True):
        if space.discrete:
            choice = part.unflatten(-1, (-1, space.classes)).argmax(-1, keepdim=True)
            part = (choice == torch.arange(space.classes, device=device)).float().flatten(1)
        else:
            part = 2 * part - 1
        parts.append(part)
    return torch.cat(parts, -1)


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
    n, device = len(action), action.device
    moved = (action + amount * torch.randn(action.shape, generator=generator, device=device)).clamp(-1, 1)
    blind = random_actions(specs, n, generator, device)
    coin = torch.rand(n, 1, generator=generator, device=device) < amount
    switched = torch.where(coin, blind, action)
    parts = []
    for near, other, space in zip(_split(moved, specs)[0], *_split(switched, specs), strict=True):
        parts.append(other if space.discrete else near)
    return torch.cat(parts, -1)


def _split(flat: Tensor, specs: Specs) -> tuple[list[Tensor], list]:
    """The part of each action in the flat vector, and its space."""
    spaces = [specs.action[name] for name in sorted(specs.action)]
    return list(flat.split([space.size for space in spaces], -1)), spaces

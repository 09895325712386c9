"""How the losses become the one scalar that is minimised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.types import Metrics


class Total(nn.Module):
    """Interface: the scalar of all mean losses, each times its scale. This one is their sum."""

    def forward(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The scalar.

        Args:
            losses: mean losses times their scales, by name: ``recon/<key>``, ``reward``, ``dyn``, ``rep``, and others.
        """
        return torch.stack(list(losses.values())).sum()

    def metrics(self) -> Metrics:
        """0-d tensors to log below ``loss/``."""
        return {}


class Harmony(Total):
    """Learned weights that bring the world model's tasks to one size, whatever the units of their losses::

        total = sum_i ( l_i e^{-s_i} + ln(1 + e^{s_i}) ) + sum of all other losses,    i in {recon, reward, kl}
        l_recon = sum of recon/<key>,    l_kl = dyn + rep

    All ``l`` hold their scales already, so that ``dyn`` and ``rep`` keep their ratio. ``s`` is learned from 0. Where it
    is at rest, ``l_i e^{-s_i} = e^{s_i} / (1 + e^{s_i})``, below 1: a large loss is pulled down to about 1, a small one
    is raised to its square root.

    Source: Ma et al. 2024 (HarmonyDream, arXiv 2310.00344), equation 7.
    """

    tasks = ("recon", "reward", "kl")

    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.zeros(len(self.tasks)))

    def forward(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        group = {"dyn": "kl", "rep": "kl"}
        tasks: dict[str, list[Tensor]] = {}
        for key, loss in losses.items():
            name = key.split("/")[0]
            tasks.setdefault(group.get(name, name), []).append(loss)
        sums = {name: torch.stack(parts).sum() for name, parts in tasks.items()}
        for s, name in zip(self.s, self.tasks, strict=True):
            if name in sums:
                sums[name] = sums[name] * torch.exp(-s) + F.softplus(s)
        return torch.stack(list(sums.values())).sum()

    def metrics(self) -> Metrics:
        """The weights ``e^{-s}``."""
        weights = torch.exp(-self.s.detach())
        return {f"weight_{name}": weight for name, weight in zip(self.tasks, weights, strict=True)}

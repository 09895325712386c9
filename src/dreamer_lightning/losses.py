"""Losses that shape latents without a decoder: what they must tell of the embedding of what is seen.

Each is a further loss by its class path (``losses.extra``). The embeddings are targets, without a gradient: the encoder
learns through the latents alone, else both could agree on a constant.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamer_lightning.nets.blocks import MLP, Linear
from dreamer_lightning.types import Specs
from dreamer_lightning.world_model import ExtraLoss, Observed


class InfoNCE(ExtraLoss):
    """Which embedding of the batch belongs to a latent::

        loss_i = -ln( exp(<W feat_i, e_i>) / sum_j exp(<W feat_i, e_j>) ),    i, j over all b t steps of this process

    Args: as for ``ExtraLoss``.
    Source: van den Oord et al. 2018 (CPC), arXiv 1807.03748, equation 4; as Dreamer's contrastive objective, Hafner et
    al. 2020, arXiv 1912.01603, equation 8.
    """

    def __init__(self, specs: Specs, feat_dim: int, embed_dim: int, *, scale: float = 1.0):
        super().__init__(specs, feat_dim, embed_dim, scale=scale)
        self.project = Linear(feat_dim, embed_dim, bias=False)

    def forward(self, records: dict[str, Any], observed: Observed) -> Float[Tensor, "b t"]:
        guess, embed = self.project(observed.latent.feat).flatten(0, 1), observed.embed.detach().flatten(0, 1)
        own = torch.arange(len(embed), device=embed.device)
        return F.cross_entropy(guess @ embed.t(), own, reduction="none").view(observed.embed.shape[:2])


class RedundancyReduction(ExtraLoss):
    """R2-Dreamer: the numbers of ``W feat`` match those of the embedding one by one, and say nothing twice::

        x = W feat,  y = embed,  both with mean 0 and standard deviation 1 over the batch
        C_ij = mean over b t of x_i y_j
        loss = sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2

    It belongs to the whole batch of this process; each step holds it.

    Args:
        redundancy: weight of what is told twice.
        scale: factor on the mean loss.
    Source: R2-Dreamer (ICLR 2026), NM512/r2dreamer@29c30d4; Zbontar et al. 2021 (Barlow Twins), arXiv 2103.03230.
    """

    def __init__(self, specs: Specs, feat_dim: int, embed_dim: int, *, redundancy: float = 5e-4, scale: float = 0.05):
        super().__init__(specs, feat_dim, embed_dim, scale=scale)
        self.redundancy = redundancy
        self.project = Linear(feat_dim, embed_dim, bias=False)

    def forward(self, records: dict[str, Any], observed: Observed) -> Float[Tensor, "b t"]:
        guess, embed = self.project(observed.latent.feat), observed.embed.detach()
        return decorrelation(guess, embed, self.redundancy).expand(guess.shape[:2])


class NextEmbedding(ExtraLoss):
    """The embedding of the next step, from the latent and the action between; matched as ``RedundancyReduction`` does::

        x_t = MLP([feat_t, a_t]),  y_t = embed_{t+1},  over the steps whose next one is of the same episode

    Args:
        redundancy: as there.
        units: width of the MLP.
        scale: factor on the mean loss.
    Source: Bredis et al. 2026 (NE-Dreamer), arXiv 2603.02765, where a transformer over past latents guesses; here the
    recurrent latent holds the past.
    """

    def __init__(
        self,
        specs: Specs,
        feat_dim: int,
        embed_dim: int,
        *,
        redundancy: float = 5e-4,
        units: int = 256,
        scale: float = 0.05,
    ):
        super().__init__(specs, feat_dim, embed_dim, scale=scale)
        self.redundancy = redundancy
        self.mlp, self.out = MLP(feat_dim + specs.action_dim, units, 1), Linear(units, embed_dim)

    def forward(self, records: dict[str, Any], observed: Observed) -> Float[Tensor, "b t"]:
        known = torch.cat([observed.latent.feat[:, :-1], records["prev_action"][:, 1:]], -1)
        follows = ~records["is_first"][:, 1:]
        loss = decorrelation(self.out(self.mlp(known)), observed.embed[:, 1:].detach(), self.redundancy, follows)
        return loss.expand(observed.embed.shape[:2])


def decorrelation(
    x: Float[Tensor, "b t e"], y: Float[Tensor, "b t e"], redundancy: float, counts: Tensor | None = None
) -> Float[Tensor, ""]:
    """Distance of the correlations of two vectors from the identity, see ``RedundancyReduction``.

    Args:
        x: the one.
        y: the other.
        redundancy: weight of the entries off the diagonal.
        counts: steps [b, t] that count; None: all.
    """
    share = torch.ones_like(x[..., :1]) if counts is None else counts.to(x.dtype).unsqueeze(-1)
    share = (share / share.sum().clamp(min=1)).flatten(0, 1)  # [n 1]

    def standard(raw: Tensor) -> Tensor:
        raw = raw.flatten(0, 1).float()
        away = raw - (share * raw).sum(0)
        return away * torch.rsqrt((share * away.square()).sum(0) + 1e-8)

    squares = (standard(x) * share).t() @ standard(y)
    diagonal = squares.diagonal()
    return (1 - diagonal).square().sum() + redundancy * (squares.square().sum() - diagonal.square().sum())

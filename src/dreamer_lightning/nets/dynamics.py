"""What acting and replay ask of any dynamics: the state that it carries in time, its stored form, its noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.nets.latents import Latents
from dreamer_lightning.types import Carried, Latent


class Dynamics(nn.Module, ABC):
    """Base of dynamics that carry one kind of latent, ``stoch``, and what else they name.

    Args:
        action_dim: size ``a`` of the flat action vector.
        deter: width of every part of the state but ``stoch``.
        latents: the kind of ``stoch``.

    Attributes:
        carried: the named tuple of the state; ``stoch`` is one of its fields.
    """

    carried: type[Carried] = Latent

    def __init__(self, action_dim: int, deter: int, latents: Latents):
        super().__init__()
        self.action_dim, self.deter_dim, self.stoch_dim = action_dim, deter, latents.stoch_dim
        self.latents = latents

    @abstractmethod
    def observe_step(
        self, latent: Carried, prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[Carried, Any]:
        """One step on real data, see ``RSSM.observe_step``."""

    def forget(self, latent: Carried, keep: Float[Tensor, "*b 1"]) -> Carried:
        """The latent where ``keep`` is 1, and the state before an episode's first step where it is 0: zeros."""
        return latent.map(lambda x: x * keep)

    def initial(self, *batch: int, device: torch.device | None = None) -> Carried:
        """The state before anything was seen: zeros."""
        device = device or next(self.parameters()).device
        widths = (self.stoch_dim if name == "stoch" else self.deter_dim for name in self.carried._fields)
        return self.carried(*(torch.zeros(*batch, width, device=device) for width in widths))

    def noise(self, *batch: int, generator: torch.Generator | None = None) -> Float[Tensor, "*b n"]:
        """Draws for ``observe`` (batch b, t) or ``imagine`` (batch n, h)."""
        device = generator.device if generator else next(self.parameters()).device
        return self.latents.noise(*batch, generator=generator, device=device)

    def pack(self, latent: Carried) -> dict[str, Tensor]:
        """The form in which replay keeps a latent: by the names of its parts."""
        parts = zip(latent._fields, latent, strict=True)
        return {name: self.latents.pack(x) if name == "stoch" else x.detach().float() for name, x in parts}

    def unpack(self, packed: dict[str, Tensor]) -> Carried:
        """The inverse of ``pack``."""
        stoch = self.latents.unpack(packed["stoch"]).float()
        return self.carried(*(stoch if name == "stoch" else packed[name] for name in self.carried._fields))

    def observe_packed(
        self, packed: dict[str, Tensor], prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[Float[Tensor, "b f"], dict[str, Tensor]]:
        """``observe_step`` from a packed latent [b, .], for acting. Returns the new ``feat`` and packed latent."""
        latent, _ = self.observe_step(self.unpack(packed), prev_action, embed, is_first, noise)
        return latent.feat, self.pack(latent)

"""The options of ``fit`` from which a trained agent's networks are built again, without what trains them."""

from __future__ import annotations

from typing import Any

from dreamer_lightning.commands.options import LossOptions, Networks
from dreamer_lightning.types import Discount, Size


def networks(
    networks: Networks, size: Size = Size(), discount: Discount = Discount(), losses: LossOptions = LossOptions()
) -> dict[str, Any]:
    """What ``build_dreamer`` takes.

    Args:
        networks: what learned.
        size: network sizes that configs refer to.
        discount: how much a later reward counts.
        losses: scales of the losses, and further losses.
    """
    return {**vars(networks), "size": size, "discount": discount, "losses": losses}

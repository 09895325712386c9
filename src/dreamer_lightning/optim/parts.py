"""The parameters of an agent as a list that remembers whose they are."""

from __future__ import annotations

from torch import nn


class Parts(list[nn.Parameter]):
    """All trained parameters in the order of the whole module; ``groups`` has the same by the part they belong to.

    Any optimizer takes it as a list; one that treats the parts differently looks at ``groups``.

    Args:
        whole: the module.
        parts: some of its parts by name; what belongs to none of them is ``model``, the first group.
    """

    def __init__(self, whole: nn.Module, **parts: nn.Module):
        super().__init__(p for p in whole.parameters() if p.requires_grad)
        named = {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}
        taken = {id(p) for group in named.values() for p in group}
        self.groups = {"model": [p for p in self if id(p) not in taken], **named}

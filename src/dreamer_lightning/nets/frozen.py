"""Run a module on detached parameters: gradients pass through it, none reaches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.func import functional_call


class _Method(nn.Module):
    """Makes ``forward`` of any method, for ``functional_call`` knows only that."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.module, self.name)(*args, **kwargs)


def frozen(module: nn.Module, name: str = "forward") -> Callable[..., Any]:
    """A method of ``module`` that treats the module's parameters as constants.

    Args:
        module: the module.
        name: its method.
    """
    params = {f"module.{key}": value.detach() for key, value in module.named_parameters()}
    return lambda *args, **kwargs: functional_call(_Method(module, name), params, args, kwargs)

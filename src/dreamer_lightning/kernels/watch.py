"""Fast twins of modules, and what happens when something that they read is changed.

A twin is the module itself under another class: parameters, names, hooks and copies stay what they are. It reads the
weights of layers below it without calling them, which is right only as long as those are exactly what it knows. They
are therefore watched: after any change of one (another layer in its place, a hook, a parametrization, an attribute)
every twin becomes plain again, and those that are still known become twins anew.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from typing import Any, ClassVar

from torch import nn

from dreamer_lightning.errors import UserError

Parts = tuple  # what a twin reads, in the twin's own order


WATCHED: dict[type[nn.Module], type[Watched]] = {}  # by the class whose place they take


class Watched:
    """Mixin of modules that twins read: whoever changes one has all twins looked at again."""

    plain: ClassVar[type[nn.Module]]  # the class whose place it takes

    def __init_subclass__(cls) -> None:
        if "plain" in vars(cls):
            WATCHED[cls.plain] = cls

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "training":
            look_again()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        look_again()


def _then_look(name: str):
    def method(self, *args: Any, **options: Any) -> Any:
        try:
            return getattr(super(Watched, self), name)(*args, **options)
        finally:
            look_again()

    return method


for _name in (
    *("register_forward_hook", "register_forward_pre_hook", "register_backward_hook"),
    *("register_full_backward_hook", "register_full_backward_pre_hook"),
    *("register_parameter", "add_module"),
):
    setattr(Watched, _name, _then_look(_name))


class Twin(Watched):
    """Mixin of fast twins; ``read`` is what ``reads`` gave when it became one."""

    read: Parts

    def __setstate__(self, state: dict[str, Any]) -> None:  # of a copy
        super().__setstate__(state)  # type: ignore[misc]
        _twins.add(self)

    @classmethod
    @abstractmethod
    def reads(cls, module: Any) -> Parts | None:
        """What it reads of a module; None if that is anything but exactly what it knows."""


_twins: weakref.WeakSet[Any] = weakref.WeakSet()


def exact(module: nn.Module, kind: type[nn.Module], own: tuple[str, ...] = ()) -> bool:
    """Whether a module is of this class or its twin, nobody listens to it, and no method is replaced in the object.

    Args:
        module: the module.
        kind: its plain class.
        own: methods that may be replaced, for a twin does not pass over them.
    """
    heard = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    replaced = any(hasattr(kind, name) and name not in own for name in vars(module))
    return type(module) in (kind, WATCHED[kind]) and not heard and not replaced


def adopt(module: Any, twin: type[Twin]) -> bool:
    """Make a twin of a module, and watch what it reads below it; False leaves all alone."""
    read = twin.reads(module)
    if read is None:
        return False
    for below in module.modules() if read else ():
        kind = WATCHED.get(type(below))
        if kind is None or below is module:
            continue
        if issubclass(kind, Twin):
            adopt(below, kind)
        else:
            change(below, kind)
    change(module, twin)
    module.__dict__["read"] = read
    _twins.add(module)
    return True


def change(module: Any, kind: type) -> None:
    """Another class for an object, which nobody is told of."""
    object.__setattr__(module, "__class__", kind)


def undo(module: Any) -> None:
    """The plain module again.

    Raises:
        UserError: somebody has derived a class of their own from the twin's.
    """
    kind = type(module)
    if kind in WATCHED.values():
        change(module, kind.plain)
    elif issubclass(kind, Twin) and module.read:
        raise UserError(f"{kind.__name__}: its layers are read by fast code; call kernels.restore on the model before")
    module.__dict__.pop("read", None)
    _twins.discard(module)


def look_again() -> None:
    """Undo every twin that would read something else than before; adopt it anew if it still may be one."""
    for module in list(_twins):
        twin = type(module)
        try:
            read = twin.reads(module)
        except AttributeError:  # a part is gone
            read = None
        if read is None or read != module.read:
            undo(module)
            if read is not None:
                adopt(module, twin)

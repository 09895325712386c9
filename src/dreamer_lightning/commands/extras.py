"""Callbacks and loggers that a config names. Any object may be one, so the parser leaves them as data."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dreamer_lightning.callbacks.trainer import adapted
from dreamer_lightning.explain import nearest
from dreamer_lightning.types import UserError

LOGGERS = ("lightning.fabric.loggers", "lightning.pytorch.loggers")  # where loggers without a module are looked for


def check_callbacks(given: Iterable[Any] | None) -> list[Any]:
    """The callbacks as objects, those written for Lightning's Trainer in an adapter.

    Raises:
        UserError: a class that is not there, that does not take its ``init_args``, or has hooks without a moment here.
    """
    return [adapted(built("--fabric.callbacks", one)) for one in given or ()]


def check_loggers(given: Iterable[Any] | None, folder: Path) -> list[Any]:
    """The loggers as objects; where they write without being told is the run folder.

    Raises:
        UserError: a class that is not there, does not take its ``init_args``, or needs a package that is missing.
    """
    return [built("--fabric.loggers", one, LOGGERS, {"root_dir": folder, "save_dir": folder}) for one in given or ()]


def built(option: str, data: Any, homes: Sequence[str] = (), defaults: dict[str, Any] | None = None) -> Any:
    """The object that a class's path, or a mapping with ``class_path`` and ``init_args``, stands for.

    Args:
        option: named in errors.
        data: what a config has; an object is left as it is.
        homes: modules in which a name without a module is looked for.
        defaults: arguments for those classes that take them.
    """
    if not isinstance(data, str | dict):
        return data
    data = {"class_path": data} if isinstance(data, str) else data
    path, init_args = str(data.get("class_path", "")), data.get("init_args") or {}
    module, _, name = path.rpartition(".")
    if not module:
        module = next((home for home in homes if hasattr(import_module(home), name)), homes[0] if homes else "")
    if not module or not name:
        raise UserError(f"{option}: expected class_path and init_args of each, got {data}")
    try:
        found = import_module(module)
    except ImportError as error:
        raise UserError(f"{option}: cannot import {module}: {error}") from error
    if not hasattr(found, name):
        raise UserError(f"{option}: {module} has no {name!r}{nearest(name, vars(found))}")
    kind = getattr(found, name)
    takes = inspect.signature(kind).parameters if defaults else {}
    usual = {key: value for key, value in (defaults or {}).items() if key in takes}
    try:
        return kind(**{**usual, **init_args})
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"{option}: {path} cannot be made: {str(error).splitlines()[0]}") from error

"""From configs and options to typed arguments: the only module that knows jsonargparse and omegaconf."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from dreamer_lightning import configfiles, migration
from dreamer_lightning.arguments import INTERNAL, options_of, rewrite
from dreamer_lightning.commands import COMMANDS, Command, find
from dreamer_lightning.errors import UserError
from dreamer_lightning.explain import explain


def parse(name: str, args: Sequence[str]) -> tuple[Callable, dict[str, Any]]:
    """A command's function, and what to call it with.

    Raises:
        UserError: one line that says which option is wrong and what would be right.
    """
    command = find(name)
    words, folders = rewrite(command, args)  # before the imports, which take seconds
    configfiles.join_import_path(folders)
    functions = [function_of(each) for each in (command, COMMANDS.get(command.takes)) if each]
    parser = make_parser(command.name, functions)
    parsed, options = read(parser, words)
    for note in lost_sizes(parsed, words):
        print(f"note: {note}", file=sys.stderr)
    own = inspect.signature(functions[0]).parameters
    if "options" in own:
        options["options"] = {key: options.pop(key) for key in list(options) if key not in own}
    if "config_text" in own:
        from dreamer_lightning import settings

        options["config_text"] = settings.header(words) + parser.dump(parsed, skip_unset=False)
    return partial(call, functions[0]), options


def call(function: Callable, **options: Any) -> Any:
    """Call a command with its options by name."""
    from dreamer_lightning.commands.options import grouped

    return function(**grouped(function, options))


def function_of(command: Command) -> Callable:
    """The function of a command, imported when it is asked for."""
    module, _, name = command.target.partition(":")
    return getattr(import_module(module), name)


def make_parser(name: str, functions: Sequence[Callable], skip: set[str] = INTERNAL) -> Any:
    """A flat parser of the functions' signatures (below subcommands, interpolation would ignore overrides)."""
    import numpy as np
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import register_type

    from dreamer_lightning.commands.options import Duration, flat_groups
    from dreamer_lightning.types import Count

    register_type(Count, serializer=int, deserializer=Count, fail_already_registered=False)
    register_type(Duration, serializer=float, deserializer=Duration, fail_already_registered=False)
    number, array = lambda x: np.float32(float(x)), lambda x: np.asarray(x, np.float32)  # noqa: E731
    register_type(np.floating, float, number, fail_already_registered=False)  # gymnasium's wrappers ask for these
    register_type(np.ndarray, np.ndarray.tolist, array, fail_already_registered=False)
    parser = ArgumentParser(
        prog=f"dreamer-lightning {name}",
        usage=f"dreamer-lightning {name} [--OPTION VALUE ...]",
        description=(inspect.getdoc(functions[0]) or "").split("\n\n")[0],
        parser_mode="omegaconf+",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file, by path or shipped name; repeat it: later wins")
    for function in functions:
        groups = flat_groups(function)
        for kind in groups.values():
            parser.add_class_arguments(kind, instantiate=False, skip=set(skip))
        parser.add_function_arguments(function, skip={*skip, *groups})
    return parser


def read(parser: Any, words: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """What a parser reads from words: as data, and as objects by name.

    Raises:
        UserError: one line for what the parser refuses.
    """
    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_args(words)
        options = {name: plain(value) for name, value in vars(parser.instantiate(parsed)).items()}
    except (ArgumentError, ValueError) as error:  # ValueError: a class of the user's that cannot be configured
        if isinstance(error, UserError):
            raise
        raise UserError(explain(str(error), option_names(parser))) from error
    options.pop("config", None)
    return parsed, options


def plain(value: Any) -> Any:
    """An option's value with plain numbers in the place of the parser's, which checkpoints could not be read with."""
    if type(value).__module__ == "jsonargparse.typing":
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, partial):
        value.keywords.update({name: plain(each) for name, each in value.keywords.items()})
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            object.__setattr__(value, field.name, plain(getattr(value, field.name)))
    elif isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value


def lost_sizes(parsed: Any, words: Sequence[str]) -> Iterator[str]:
    """A line for each class that took another one's place in the configs and, unlike it, is not told the sizes.

    Args:
        parsed: the options as data.
        words: what they were parsed from.
    """
    paths = [Path(word.partition("=")[2]) for word in words if word.startswith("--config=")]
    configs = [configfiles.load(path) for path in paths if path.suffix in (".yaml", ".yml")]
    parts = [(key, part) for config in configs for key, part in config.items() if isinstance(part, dict)]
    for key, part in parts:
        if "class_path" not in part or part["class_path"] == parsed[key]["class_path"]:
            continue
        now = parsed[key]
        sizes = {name: size for name, size in (part.get("init_args") or {}).items() if "${size." in str(size)}
        later = [each.get("init_args") or () for other, each in parts if other == key and each is not part]
        told = {name for name in sizes if any(name in init_args for init_args in later)}
        told |= {name for name in sizes if any(word.startswith(f"--{key}.{name}=") for word in words)}
        taken = now.get("init_args") or ()
        lost = ", ".join(f"{name}: {sizes[name]}" for name in sizes if name in taken and name not in told)
        if lost:
            yield f"{key}: {now['class_path']} takes its own sizes; init_args {{{lost}}} give it those of the config"


def option_names(parser: Any) -> list[str]:
    """Every option a parser knows, as typed."""
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]


def networks_of_run(config: Path) -> dict[str, Any]:
    """What a run's networks are built from, as its config has it; what trains or plays them is not imported.

    Args:
        config: the run's config.yaml; its own classes must be importable.
    """
    import yaml

    from dreamer_lightning.commands.rebuild import networks

    parser = make_parser("fit", [networks], {*INTERNAL, "optimizer"})
    known = {option.removeprefix("--").partition(".")[0] for option in option_names(parser)}
    values = migration.config(configfiles.load(config))
    text = yaml.safe_dump({name: value for name, value in values.items() if name in known})
    return read(parser, [f"--config={text}"])[1]


def of_run(config: Path, only: Collection[str] = (), without: Collection[str] = ()) -> dict[str, Any]:
    """Options of ``fit`` as a run's config has them, as objects.

    Args:
        config: the run's config.yaml; its own classes become importable.
        only: names of the options; empty: all.
        without: names of options that are left out, and which may then name classes that are not installed.
    """
    import yaml

    configfiles.join_import_path(configfiles.import_from(config))
    fit = function_of(COMMANDS["fit"])
    every = {option.name for option in options_of(COMMANDS["fit"])[1]}
    names = set(only or every) - {*without, *INTERNAL}
    values = migration.config(configfiles.load(config))
    text = yaml.safe_dump({name: value for name, value in values.items() if name in names})
    skip = {*every, *INTERNAL} - names
    return read(make_parser("fit", [fit], skip), [f"--config={text}"])[1]

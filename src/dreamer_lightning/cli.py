"""The command line: finds the command, parses its function's signature, prints one line when something is wrong."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from dreamer_lightning import __version__, configfiles
from dreamer_lightning.arguments import flatten, objects, with_configs, with_values, with_words
from dreamer_lightning.commands import COMMANDS, EXAMPLES, HOMES, PLACES, TAKES
from dreamer_lightning.errors import UserError
from dreamer_lightning.explain import explain, nearest
from dreamer_lightning.kernels.process import wait_politely

INTERNAL = {"config_text", "options"}  # parameters of a command that are not options


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0, or 2 with one line on stderr)."""
    args = sys.argv[1:] if argv is None else argv
    wait_politely(args)
    if not args or args[0] in ("-h", "--help"):
        print("usage: dreamer-lightning COMMAND [options]    (COMMAND --help lists its options)\n")
        print("\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items()) + f"\n\n{EXAMPLES}")
        return 0
    if args[0] == "--version":
        print(__version__)
        return 0
    try:
        if args[0] not in COMMANDS:
            raise UserError(f"unknown command '{args[0]}'{nearest(args[0], COMMANDS)}; one of {', '.join(COMMANDS)}")
        result = call(args[0], args[1:])
    except UserError as error:
        print(f"dreamer-lightning: {error}", file=sys.stderr)
        return 2
    text = result if isinstance(result, str) else getattr(result, "text", "")
    if text:
        print(text)
    for note in getattr(result, "notes", ()):
        print(note, file=sys.stderr)
    return getattr(result, "code", 0)


def fit(*configs: str, **options: Any) -> Any:
    """Train from Python; the same configs and options as on the command line.

    Args:
        configs: names or paths of YAML files, later ones win.
        options: options of ``fit``; groups as dicts: ``fit("dmc.yaml", seed=3, env={"task": "cheetah_run"})``.
            ``fabric={"callbacks": [...], "loggers": [...]}`` also take objects, which the run's config cannot hold:
            give them again to a resume.

    Returns:
        The ``Run``: its folder and its metrics.

    Raises:
        UserError: one line that says what is wrong.
    """
    args = [part for config in configs for part in ("--config", str(config))]
    options, own = objects(options)
    function, parsed = parse("fit", args + flatten(options))
    for name, given in own.items():
        setattr(parsed["fabric"], name, [*(getattr(parsed["fabric"], name) or []), *given])
    return function(**parsed)


def call(name: str, args: list[str]) -> Any:
    """Parse ``args`` against the signature of a command's function and call it."""
    function, options = parse(name, args)
    return function(**options)


def rebuild(run: str, weights: dict[str, Any]) -> tuple[Any, Any]:
    """The agent of a run folder's config with these weights, and its environment factory."""
    from dreamer_lightning.commands.build import probe
    from dreamer_lightning.commands.networks import build_dreamer, load_weights

    options = parse("fit", ["--resume", run])[1]
    dreamer = build_dreamer(probe(options["env"], options["seed"]), options)
    load_weights(dreamer, weights, run)
    return dreamer, options["env"]


def parse(name: str, args: list[str]) -> tuple[Callable, dict[str, Any]]:
    """A command's function, and what to call it with."""
    args, folders = with_configs(name, with_words(name, args))  # before the imports, which take seconds
    configfiles.join_import_path(folders)
    functions = [command(each) for each in (name, TAKES.get(name)) if each]
    for function in functions:
        args = with_values(function, args)
    parser = make_parser(name, functions)
    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_args(args)
    except (ArgumentError, ValueError) as error:  # ValueError: a class of the user's that cannot be configured
        raise UserError(explain(str(error), option_names(parser))) from error
    try:
        options = vars(parser.instantiate(parsed))
    except ArgumentError as error:
        raise UserError(explain(str(error), option_names(parser))) from error
    options.pop("config", None)
    own = inspect.signature(functions[0]).parameters
    if "options" in own:
        options["options"] = {key: options.pop(key) for key in list(options) if key not in own}
    if "config_text" in own:
        options["config_text"] = parser.dump(parsed, skip_unset=False)
    return functions[0], options


def command(name: str) -> Callable:
    """The function of a command, imported when it is asked for."""
    return getattr(import_module(f"dreamer_lightning.{HOMES.get(name, f'commands.{name}')}"), name)


def make_parser(name: str, functions: list[Callable]) -> Any:
    """A flat parser of the functions' signatures (below subcommands, interpolation would ignore overrides)."""
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import register_type

    from dreamer_lightning.commands.options import Count, Duration

    register_type(Count, serializer=int, deserializer=Count, fail_already_registered=False)
    register_type(Duration, serializer=float, deserializer=Duration, fail_already_registered=False)
    configs = " --config NAME [--config OVERLAY ...]" if "fit" in (name, TAKES.get(name)) else ""
    parser = ArgumentParser(
        prog=f"dreamer-lightning {name}",
        usage=f"dreamer-lightning {name}{PLACES.get(name, '')}{configs} [--OPTION VALUE ...]",
        description=(inspect.getdoc(functions[0]) or "").split("\n\n")[0],
        parser_mode="omegaconf+",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file, by path or shipped name; repeat it: later wins")
    for function in functions:
        parser.add_function_arguments(function, as_positional=name == "parity", skip=set(INTERNAL))
    return parser


def option_names(parser: Any) -> list[str]:
    """Every option a parser knows, as typed."""
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]

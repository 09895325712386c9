"""The command line: finds the command, calls its function, prints one line when something is wrong."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from contextlib import suppress
from typing import Any

from dreamer_lightning import __version__, configfiles
from dreamer_lightning.arguments import HELP, flatten, options_of
from dreamer_lightning.commands import COMMANDS, EXAMPLES, Command, find, loaded, others
from dreamer_lightning.errors import UserError
from dreamer_lightning.kernels.process import take_any_letter, torch_defaults, wait_politely


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0, or 2 with one line on stderr)."""
    take_any_letter(anew=argv is None)
    try:
        return answer(sys.argv[1:] if argv is None else argv)
    finally:
        write("")  # what a parser printed itself


def write(text: str) -> None:
    """Print, until whoever reads has seen enough (``| head``): the rest goes nowhere, at the interpreter's end, too."""
    try:
        print(text, end="\n" * bool(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def answer(args: list[str]) -> int:
    """Do what was typed, and print what comes of it."""
    wait_politely(args)
    with suppress(OSError):  # the current folder may be gone
        configfiles.join_import_path([os.getcwd()])
    name, *rest = args or HELP
    try:
        result = __version__ if name == "--version" else overview() if name in HELP else run(find(name), rest)
    except UserError as error:
        print(f"dreamer-lightning: {error}", file=sys.stderr)
        return 2
    write(result if isinstance(result, str) else getattr(result, "text", ""))
    for note in getattr(result, "notes", ()):
        print(note, file=sys.stderr)
    return getattr(result, "code", 0)


def run(command: Command, args: list[str]) -> Any:
    """Call a command's function, or tell what it takes."""
    if "--list" in args and command.configs is not None:
        return configfiles.listing()
    if args[-2:] in [[word, "all"] for word in HELP]:
        args = args[:-1]
    elif any(word in HELP for word in args):
        return usage(command)
    from dreamer_lightning.config import parse

    function, options = parse(command.name, args)
    with torch_defaults():
        return function(**options)


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
    from dreamer_lightning.config import parse

    plain, objects = dict(options.get("fabric") or {}), {}
    for name in ("callbacks", "loggers"):
        if isinstance(plain.get(name), list | tuple):
            objects[name] = [one for one in plain[name] if not isinstance(one, str | dict)]
            plain[name] = [one for one in plain[name] if isinstance(one, str | dict)]
    args = [part for config in configs for part in ("--config", str(config))]
    function, parsed = parse("fit", args + flatten(options | ({"fabric": plain} if objects else {})))
    for name, given in objects.items():
        setattr(parsed["fabric"], name, [*(getattr(parsed["fabric"], name) or []), *given])
    with torch_defaults():
        return function(**parsed)


def gym_env(*configs: str, seed: int = 0, **options: Any) -> Any:
    """The environment of a config as a ``gymnasium.Env``, as the agent meets it.

    Its repeat, scaled actions, hidden observations and time limits are those of training.

    Args:
        configs: as for ``fit``.
        seed: of the environment.
        options: as for ``fit``: ``gym_env("dmc.yaml", env={"task": "cheetah_run"})``.

    Returns:
        A ``GymView``: one vector, one picture, or a dict of pictures and ``vector``; actions in [-1, 1], or classes.

    Raises:
        UserError: one line that says what is wrong.
    """
    from dreamer_lightning.config import parse
    from dreamer_lightning.envs import GymView

    args = [part for config in configs for part in ("--config", str(config))]
    factory = parse("fit", args + flatten(options))[1]["env"]
    factory.prepare()
    return GymView(factory.make(seed))


def overview() -> str:
    """The list of commands, those of other packages last."""
    lines = {name: command.help for name, command in COMMANDS.items()}
    for name, point in others().items():
        try:
            lines[name] = loaded(point).help
        except UserError as error:
            lines[name] = str(error)
    listed = "\n".join(f"  {name:10} {text}" for name, text in lines.items())
    return f"usage: dreamer-lightning COMMAND [options]    (COMMAND --help lists its options)\n\n{listed}\n\n{EXAMPLES}"


def usage(command: Command) -> str:
    """A command's help: what it does, and a line or two for each of its options."""
    doc, options = options_of(command)
    words = f" {command.words.upper()}" * bool(command.words) + " [CONFIG ...]" * (command.configs is not None)
    lines = [f"usage: dreamer-lightning {command.name}{words} [--OPTION VALUE ...]\n", doc.partition("\nArgs:")[0]]
    width = min(shutil.get_terminal_size((120, 0)).columns, 120)
    for option in options:
        group = "" if option.default is None else ".*" * option.default.endswith("()")
        default = re.sub(r"^\w+\((.*)\)$", r"\1", option.default or "").replace("None", "").strip("'")
        text = option.help + (f" ({default})" if default else "")
        head = f"  --{option.name + group:18} "
        lines.append(textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head)))
    if command.configs is not None:
        lines.append(f"\n{command.name} --list names the configs; --help all has every option with its type")
    return "\n".join(lines)

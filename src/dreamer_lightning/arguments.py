"""Rewrites what was typed into what the parser takes: configs by name, a resumed run's own config, 1e5 as 100000.

Options are read from the source text of a command, because importing it takes seconds.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dreamer_lightning import configfiles, migration
from dreamer_lightning.commands import COMMANDS, Command
from dreamer_lightning.errors import UserError
from dreamer_lightning.explain import unknown

INTERNAL = {"config_text", "options"}  # parameters of a command that are not options
HELP = ("-h", "--help")
Words = list[tuple[str, str | None]]  # options with their values; a word without an option has the option ""


class Option(NamedTuple):
    """A parameter of a command as its source text has it; ``default`` is None where a value is needed."""

    name: str
    kind: str
    default: str | None
    help: str


def options_of(command: Command) -> tuple[str, list[Option]]:
    """A command's description, and its options followed by those that it takes of another.

    Raises:
        UserError: the command's module has no source text with such a function.
    """
    module, _, name = command.target.partition(":")
    tree = source(module)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not found:
        raise UserError(f"command {command.name}: {command.target} is no function in a file of Python")
    doc, texts = described(found[0])
    arguments = [*found[0].args.args, *found[0].args.kwonlyargs]
    lacking = len(found[0].args.args) - len(found[0].args.defaults)
    defaults = [None] * lacking + [*found[0].args.defaults, *found[0].args.kw_defaults]
    own: list[Option] = []
    for argument, default in zip(arguments, defaults, strict=True):
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        if argument.arg not in INTERNAL:
            own += flat(tree, module.rpartition(".")[0], kind) or [option(argument.arg, kind, default, texts)]
    return doc, own + (options_of(COMMANDS[command.takes])[1] if command.takes else [])


def source(module: str) -> ast.Module:
    """The source text of a module, as a tree; empty if there is none."""
    spec = find_spec(module)
    return ast.parse(Path(spec.origin).read_text("utf-8")) if spec and spec.origin else ast.Module([], [])


def described(node: ast.FunctionDef | ast.ClassDef) -> tuple[str, dict[str, str]]:
    """A docstring, and what it says of each parameter."""
    doc = inspect.cleandoc(ast.get_docstring(node) or "")
    return doc, dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", doc.partition("Args:")[2], re.MULTILINE))


def option(name: str, kind: str, default: ast.expr | None, texts: dict[str, str]) -> Option:
    """One parameter."""
    return Option(name, kind, ast.unparse(default) if default else None, " ".join(texts.get(name, "").split()))


def flat(tree: ast.Module, package: str, kind: str) -> list[Option]:
    """The options of a group without a name (``commands.options.Flat``), which a command's module imports from a module
    beside it; none for other types."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    homes = [node.module or "" for node in imports if kind in [alias.name for alias in node.names]]
    homes = [home for home in homes if home.rpartition(".")[0] == package]
    classes = [node for home in homes for node in source(home).body if isinstance(node, ast.ClassDef)]
    groups = [node for node in classes if node.name == kind and "Flat" in map(ast.unparse, node.bases)]
    return [
        option(ast.unparse(field.target), ast.unparse(field.annotation), field.value, described(group)[1])
        for group in groups
        for field in group.body
        if isinstance(field, ast.AnnAssign)
    ]


def rewrite(command: Command, args: Sequence[str]) -> tuple[list[str], list[str]]:
    """What was typed, as the parser takes it, and the folders that own classes are imported from.

    Raises:
        UserError: an option or a config that does not exist, or options that exclude each other.
    """
    options = options_of(command)[1]
    words = split(args, {option.name for option in options if option.kind == "bool"})
    names = {option.name: option.kind for option in options}
    if command.configs is not None:
        words, notes = migration.flags(words)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if command.names_env:
        words = with_environment(words)
    if command.rest:
        words = pass_on(words, names, command.rest)
    if command.words:
        words = place(words, command.words, names[command.words].startswith("list"))
    for option, value in words:
        name = re.split(r"[.+]", option.removeprefix("--"))[0]
        if option and option not in HELP and name not in {*names, "config", "print_config"}:
            raise UserError(unknown(option, (f"--{name}" for name in names)))
        if value is None and name in names and not option.endswith(".help"):
            raise UserError(f"{option}: needs {'a run folder' if name == 'resume' else 'a value'} after it")
    words, folders = with_configs(command, words) if command.configs is not None else (words, [])
    words = with_classes(words, options)
    joined = [f"{option}={value}" if option and value is not None else option or str(value) for option, value in words]
    return joined, folders


def split(args: Sequence[str], flags: set[str]) -> Words:
    """Join options and values; a yes/no option may lack its value, and ``1e5`` becomes ``100000``."""
    words: Words = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "=", word)
        if word in HELP:
            option, equals = word, ""
        if option and not equals:
            flag = option[2:] in flags
            takes = rest and not rest[0].startswith("--") and (not flag or rest[0].lower() in ("true", "false"))
            words.append((option, number(rest.pop(0)) if takes else "true" if flag else None))
        else:
            words.append((option, number(value)))
    return words


def number(text: str) -> str:
    """``1e5`` as ``100000``, which a whole number may not be written as in YAML."""
    whole = re.fullmatch(r"\d+\.?\d*[eE]\+?\d+", text) and float(text).is_integer()
    return str(int(float(text))) if whole else text


def pass_on(words: Words, own: dict[str, str], rest: str) -> Words:
    """Collect what is not among a command's own options in its parameter ``rest``."""
    mine = [word for word in words if word[0][2:] in own and word[0][2:] != rest or word[0] in HELP]
    others = [part for word in words if word not in mine for part in word if part]
    return [*mine, (f"--{rest}", json.dumps(others))]


def place(words: Words, name: str, many: bool) -> Words:
    """Give words without an option to a parameter: the first one, or all if it is a list."""
    given = [value or "" for option, value in words if option in ("", f"--{name}")]
    others = [(option, value) for option, value in words if option not in ("", f"--{name}")]
    if many:
        listed = [json.loads(value) if re.fullmatch(r'\["[^\n]*\]', value) else [value] for value in given if value]
        given = [json.dumps(sum(listed, []))] if listed else []
    elif len(given) > 1:
        others += [("", value) for value in given[1:]]
    return [*others, *((f"--{name}", value) for value in given[:1])]


def with_environment(words: Words) -> Words:
    """A word that is no config, as the options that name its environment; gymnasium's ids end in -v0 and the like."""
    loose = [value or "" for option, value in words if not option and not configfiles.is_named(value or "")]
    if not loose:
        return words
    others = [word for word in words if word != ("", loose[0])]
    based = any(option == "--config" or not option and value not in loose for option, value in others)
    own = ":" in loose[0] and not re.search(r"-v\d+$", loose[0])
    kind, name = ("Custom", "--env.path") if own else ("Gym", "--env.task")
    named: Words = [("--env", f"dreamer_lightning.envs.{kind}"), (name, loose[0])]
    return [*([] if based else [("--config", "gym.yaml")]), *named, *others]


def with_configs(command: Command, words: Words) -> tuple[Words, list[str]]:
    """Find the configs, and take a resumed run's own.

    Returns:
        The words with absolute config paths first, and the folders that classes are imported from.
    """
    is_config = [option == "--config" or (not option and configfiles.is_named(value or "")) for option, value in words]
    names = [value for (_, value), yes in zip(words, is_config, strict=True) if yes]
    words = [word for word, yes in zip(words, is_config, strict=True) if not yes]
    given = {option: value for option, value in words}
    if "://" in (given.get("--resume") or ""):
        words = fetched(words)
        given = {option: value for option, value in words}
    resume = given.get("--resume")
    if None in names:
        raise UserError("--config: needs a file after it")
    if resume is None:
        paths = [configfiles.find(str(name)) for name in names or command.configs or ()]
        folders = [folder for path in paths for folder in configfiles.class_folders(path)]
        paths.insert(0, configfiles.find(configfiles.BASE))
    else:
        check_resume(command, resume, names, given)
        paths = [configfiles.of_run(resume, "--resume")]
        folders = configfiles.import_from(paths[0])
        words.append(("--run_dir", resume))
    if not any(option in HELP or option.endswith(".help") for option in given):
        if len(paths) == 1 and resume is None:
            shipped = ", ".join(configfiles.presets())
            or_env = ", an id or module:Class" * command.names_env
            raise UserError(f"{command.name} needs a config{or_env}: --config NAME, one of {shipped}")
        imports = [value or "" for option, value in words if option == "--import_from"]
        told = sum([json.loads(value) if value.startswith("[") else [value] for value in imports], [])
        folders = [str(Path(folder).expanduser().absolute()) for folder in dict.fromkeys([*told, *folders])]
        words = [word for word in words if word[0] != "--import_from"] + [("--import_from", json.dumps(folders))]
    return [*(("--config", configfiles.for_parser(path)) for path in paths), *words], folders


def fetched(words: Words) -> Words:
    """Bring a run that ``Mirror`` copied to a URL back to a folder, and resume that: of ``--run_dir``, or runs/NAME."""
    from dreamer_lightning.store.mirror import Copy

    given = {option: value or "" for option, value in words}
    copy = Copy(given["--resume"], "--resume")
    folder = copy.fetch(Path(given.get("--run_dir") or Path("runs") / Path(copy.url).name))
    print(f"note: copied {copy.url} to {folder}", file=sys.stderr)
    others = [word for word in words if word[0] not in ("--resume", "--run_dir")]
    return [*others, ("--resume", str(folder))]


def with_classes(words: Words, options: list[Option]) -> Words:
    """Let ``--env.help`` alone tell of the class that the configs name.

    Raises:
        UserError: they name none.
    """
    if not any(option.endswith(".help") and value is None for option, value in words):
        return words
    paths = [Path(value or "") for option, value in words if option == "--config"]
    configs = [configfiles.load(path) for path in paths if path.suffix in (".yaml", ".yml")]
    texts = {option.name: option.help for option in options}
    asked: Words = []
    for option, value in words:
        name = option[2:].removesuffix(".help")
        if option.endswith(".help") and value is None:
            parts = [config[name] for config in configs if name in config]
            classes = [part.get("class_path") if isinstance(part, dict) else part for part in parts]
            value = next((kind for kind in reversed(classes) if kind), None)
            if value is None:
                raise UserError(f"{option}: needs a class after it; --{name} is {texts.get(name, 'an option')}")
        asked.append((option, value))
    return asked


def check_resume(command: Command, resume: str, configs: list[str | None], given: dict[str, str | None]) -> None:
    """Whether a resume has no options that contradict it.

    Raises:
        UserError: it has.
    """
    if not command.resumes:
        raise UserError(f"--resume: a {command.name} starts over; drop it")
    if configs:
        raise UserError("--config: a resumed run keeps its own config.yaml; drop it (--env_steps and such may extend)")
    if "--run_dir" in given:
        raise UserError(f"--run_dir: a resumed run stays in its folder, {resume}; drop it")


def flatten(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested keyword options as dotted flags.

    Raises:
        UserError: a value is an object that no config could hold.
    """
    flags: list[str] = []
    for name, value in options.items():
        if isinstance(value, dict) and value:
            flags += flatten(value, f"{prefix}{name}.")
        else:
            flags.append(f"--{prefix}{name}={value if isinstance(value, str) else as_json(value, prefix + name)}")
    return flags


def as_json(value: Any, option: str) -> str:
    """A value as it would be typed; paths, runs and numpy's numbers as what they stand for.

    Raises:
        UserError: it is an object that no config could hold.
    """

    def plain(part: Any) -> Any:
        if isinstance(part, os.PathLike):
            return os.fspath(part)
        if hasattr(part, "tolist"):  # numbers and arrays of numpy
            return part.tolist()
        raise UserError(f"{option}: a {type(part).__name__} is no option's value; give its class_path and init_args")

    return os.fspath(value) if isinstance(value, os.PathLike) else json.dumps(value, default=plain)

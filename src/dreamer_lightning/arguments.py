"""Rewrites what was typed into what the parser takes: configs by name, a resumed run's own config, 1e5 as 100000."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamer_lightning import configfiles
from dreamer_lightning.errors import UserError

FIT = ("fit", "bench", "yardstick")  # commands with the options of fit


def with_values(function: Callable, args: list[str]) -> list[str]:
    """Write ``1e5`` as ``100000``, and a yes/no option without a value as ``--option true``."""
    flags = {f"--{p.name}" for p in inspect.signature(function).parameters.values() if p.annotation in (bool, "bool")}
    out = []
    for arg, following in zip(args, [*args[1:], "--"], strict=False):
        option, equals, value = arg.partition("=")
        number = value if equals else arg
        if re.fullmatch(r"\d+\.?\d*[eE]\+?\d+", number) and float(number).is_integer():
            number = str(int(float(number)))
        out.append(f"{option}={number}" if equals else number)
        if arg in flags and following.startswith("--"):
            out.append("true")
    return out


def with_words(name: str, args: list[str]) -> list[str]:
    """Write words that belong to no option as the run or runs of a command that looks at runs, and what ``sweep`` does
    not know itself as its list of options of ``fit``."""
    if name == "sweep":
        return with_rest(args)
    if name in ("evaluate", "dream") and args and not args[0].startswith("-"):
        return [f"--run={args[0]}", *args[1:]]
    if name not in ("compare", "diagnose"):
        return args
    rest: list[str] = []
    runs: list[str] = []
    words = iter(args)
    for word in words:
        if word.startswith("--runs=") and not word.startswith("--runs=["):
            runs.append(word.partition("=")[2])
        elif word == "--runs":  # the words that follow
            continue
        elif not word.startswith("-"):
            runs += json.loads(word) if re.fullmatch(r'\["[^\n]*\]', word) else [word]
        elif "=" in word or word in ("-h", "--help"):
            rest.append(word)
        else:
            rest += [word, *itertools.islice(words, 1)]
    return [*rest, f"--runs={json.dumps(runs)}"] if runs else rest


def with_rest(args: list[str], own: tuple[str, ...] = ("--seeds", "--jobs", "--run_dir")) -> list[str]:
    """Pass on what is not among a command's own options as ``--fit``, a list of words."""
    mine: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word in ("-h", "--help"):
            return [word]
        if word.split("=")[0] not in own:
            if mine[-2:-1] == ["--seeds"] and not rest and re.fullmatch(r"\d+", word):
                raise UserError(f"--seeds: join them by commas: --seeds {mine[-1]},{word}")
            rest.append(word)
        else:
            mine += [word] if "=" in word else [word, *itertools.islice(words, 1)]
    return [*mine, f"--fit={json.dumps(rest)}"]


def with_configs(name: str, args: list[str]) -> tuple[list[str], list[str]]:
    """Find the configs, and take a resumed run's own.

    Returns:
        The arguments with absolute config paths, and the folders that classes are imported from.
    """
    rest: list[str] = []
    configs: list[str] = []
    resume: str | None = None
    folders: list[str] = []
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "--resume"):
            value = value if equals else next(words, "")
            if not value or value.startswith("--"):
                raise UserError(f"{option}: needs a {'file' if option == '--config' else 'run folder'} after it")
            configs, resume = ([*configs, value], resume) if option == "--config" else (configs, value)
        elif option == "--import_from":
            given = value if equals else next(words, "")
            folders += json.loads(given) if given.startswith("[") else [given]
        elif option.startswith("--trainer."):
            raise UserError(f"{option}: {configfiles.from_trainer(option.split('.')[1])} (docs/from-trainer.md)")
        else:
            rest.append(word)
    if name == "bench" and not configs and resume is None:
        configs = ["dmc.yaml", "size/1m.yaml"]  # the setting that speeds are compared in
    paths = [configfiles.find(config) for config in configs]
    folders += [folder for path in paths for folder in configfiles.class_folders(path)]
    if resume is not None and name == "yardstick":
        raise UserError("--resume: a yardstick starts over; drop it")
    if name in FIT and resume is None:
        paths = [configfiles.find("networks.yaml"), *paths]
    if resume is not None:
        if configs:
            raise UserError(
                "--config: a resumed run keeps its own config.yaml; drop it (--env_steps and such may extend)"
            )
        if any(word.split("=")[0] == "--run_dir" for word in rest):
            raise UserError(f"--run_dir: a resumed run stays in its folder, {resume}; drop it")
        paths = [configfiles.of_run(resume, "--resume")]
        folders += configfiles.import_from(paths[0])
        rest = [*rest, f"--resume={resume}", f"--run_dir={resume}"]
    if name in FIT:
        if any(word in ("-h", "--help") or word.split("=")[0].endswith(".help") for word in rest):
            return [part for path in paths for part in ("--config", str(path))] + rest, folders
        if not configs and resume is None:
            raise UserError(f"{name} needs a config: --config NAME, one of {', '.join(configfiles.presets())}")
        folders = [str(Path(folder).expanduser().absolute()) for folder in dict.fromkeys(folders)]
        rest = [*rest, f"--import_from={json.dumps(folders)}"]
    return [part for path in paths for part in ("--config", str(path))] + rest, folders


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


def objects(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Take callbacks and loggers that are objects already out of Python's options.

    Returns:
        the options without them, and the objects of ``callbacks`` and ``loggers``.
    """
    own: dict[str, list[Any]] = {}
    fabric = dict(options.get("fabric") or {})
    for name in ("callbacks", "loggers"):
        given = fabric.get(name)
        if isinstance(given, list | tuple):
            own[name] = [one for one in given if not isinstance(one, str | dict)]
            fabric[name] = [one for one in given if isinstance(one, str | dict)]
    return ({**options, "fabric": fabric} if own else options), own

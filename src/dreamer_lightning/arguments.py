"""Rewrites what was typed into what the parser takes: configs by name, a resumed run's own config, 1e5 as 100000."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Callable
from pathlib import PurePath
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
        if re.fullmatch(r"\d+\.?\d*[eE]\+?\d+", number) and float(number) == int(float(number)):
            number = str(int(float(number)))
        out.append(f"{option}={number}" if equals else number)
        if arg in flags and following.startswith("--"):
            out.append("true")
    return out


def with_words(name: str, args: list[str]) -> list[str]:
    """Write words that belong to no option as the list of runs of ``compare`` and ``diagnose``, and what ``sweep`` does
    not know itself as its list of options of ``fit``."""
    if name == "sweep":
        return with_rest(args)
    if name not in ("compare", "diagnose"):
        return args
    rest: list[str] = []
    runs: list[str] = []
    words = iter(args)
    for word in words:
        if not word.startswith("-"):
            runs.append(word)
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
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "--resume"):
            value = value if equals else next(words, "")
            if not value or value.startswith("--"):
                raise UserError(f"{option}: needs a {'file' if option == '--config' else 'run folder'} after it")
            configs, resume = ([*configs, value], resume) if option == "--config" else (configs, value)
        elif option.startswith("--trainer."):
            raise UserError(f"{option}: {configfiles.from_trainer(option.split('.')[1])} (docs/from-trainer.md)")
        else:
            rest.append(word)
    if name == "bench" and not configs and resume is None:
        configs = ["dmc.yaml", "size/1m.yaml"]  # the setting that speeds are compared in
    paths = [configfiles.find(config) for config in configs]
    folders = list(dict.fromkeys(filter(None, map(configfiles.class_folder, paths))))
    if name in FIT and resume is None:
        paths = [configfiles.find("networks.yaml"), *paths]
    if resume is not None:
        if configs:
            raise UserError(
                "--config: a resumed run keeps its own config.yaml; drop it (--env_steps and such may extend)"
            )
        paths, folders = [configfiles.of_run(resume, "--resume")], configfiles.class_folders_of(resume)
        rest = [*rest, f"--resume={resume}", f"--run_dir={resume}"]
    if name in FIT:
        if any(word in ("-h", "--help") or word.split("=")[0].endswith(".help") for word in rest):
            return [part for path in paths for part in ("--config", str(path))] + rest, folders
        if not configs and resume is None:
            raise UserError(f"{name} needs a config: --config NAME, one of {', '.join(configfiles.presets())}")
        rest = [*rest, f"--import_from={json.dumps(folders)}"]
    return [part for path in paths for part in ("--config", str(path))] + rest, folders


def flatten(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested keyword options as dotted flags."""
    flags: list[str] = []
    for name, value in options.items():
        if isinstance(value, dict) and value:
            flags += flatten(value, f"{prefix}{name}.")
        else:
            flags.append(
                f"--{prefix}{name}={value if isinstance(value, str | PurePath) else json.dumps(value, default=str)}"
            )
    return flags

"""What a run was asked for: its configs and the options set on top of them, kept in the first line of its config.

    # from dmc.yaml small.yaml; set env.task optimizer.lr

The config itself has every option with its value, so that names are enough there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dreamer_lightning import configfiles
from dreamer_lightning.store.runfolder import CONFIG, SECRET

# Options that say where, how long and how closely watched a run is, and not what it learns by.
ASIDE = {"run_dir", "resume", "import_from", "env_steps", "updates", "max_time", "log_every", "threads", "seed"}
ASIDE |= {"config", "wandb", "evaluation", "checkpoint", "fabric", "faults"}
LONGEST = 100  # letters of a label


class Asked(NamedTuple):
    """A run's configs in their order, and the options set on top: typed, or in configs that are not shipped."""

    configs: list[str]
    options: list[str]


class Setting(NamedTuple):
    """An option, its value in the run, and in the preset: empty where that leaves it at its default."""

    option: str
    value: str
    preset: str


def header(words: Sequence[str]) -> str:
    """The line with which a config begins, its end included; empty for a resumed run that has none.

    Args:
        words: what the parser is given: ``--option=value``.
    """
    pairs = [word.removeprefix("--").partition("=")[::2] for word in words]
    before = Asked([], [])
    if resumed := dict(pairs).get("resume"):
        found = asked((Path(resumed).expanduser() / CONFIG).read_text("utf-8"))
        if found is None:
            return ""
        before = found
    configs, options = list(before.configs), list(before.options)
    for given in [] if resumed else [value for option, value in pairs if option == "config"][1:]:
        path = Path(given)
        name, is_file = (
            configfiles.shipped_name(path),
            path.suffix in (".yaml", ".yml"),
        )  # else the text of one that moved
        configs.append(name or (path.name if is_file else "config.yaml").replace(" ", "_"))
        if not name:
            options += [option for option, _ in flat(configfiles.load(path) if is_file else yaml.safe_load(given))]
    options += [option.rstrip("+") for option, _ in pairs]
    kept = [o for o in dict.fromkeys(options) if o.partition(".")[0] not in ASIDE and not SECRET.search(o)]
    return f"# from {' '.join(configs)}; set {' '.join(kept)}".rstrip() + "\n"


def asked(text: str) -> Asked | None:
    """What the first line of a config says; None for a run from before there was such a line."""
    found = re.match(r"# from (.*?); set ?(.*)", text)
    return Asked(found[1].split(), found[2].split()) if found else None


def changes(text: str) -> list[Setting]:
    """The settings of a run that differ from its preset, the first of its configs.

    Args:
        text: the run's config.
    """
    found = asked(text)
    if found is None:
        return []
    config, presets = yaml.safe_load(text), [*found.configs[:1], configfiles.BASE]
    stated = dict(pair for name in reversed(presets) for pair in _shipped(name))
    options = [option for name in found.configs[1:] for option, _ in _shipped(name)] + found.options
    options = [option for option in dict.fromkeys(options) if option.partition(".")[0] not in ASIDE]
    settings = [Setting(option, value_of(config, option), stated.get(option, "")) for option in options]
    return [setting for setting in settings if setting.value != setting.preset]


def label(text: str) -> str:
    """A short name for what a run learns by: its configs, and the options set on top with their values.

    Args:
        text: the run's config.

    Returns:
        Such as ``dmc-small-imag_last=16``; runs of one task that learn by different settings have different ones.
    """
    found = asked(text)
    if found is None:
        return ""
    config = yaml.safe_load(text)
    stems = [Path(name).stem for name in found.configs if not name.startswith("size/")]
    values = [
        f"{option.rpartition('.')[2]}={value_of(config, option)}" for option in found.options if option != "env.task"
    ]
    name = "-".join([*stems, *sorted(values)])
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def value_of(config: dict[str, Any], option: str) -> str:
    """The value of a dotted option, in words; a class by its name."""
    part: Any = config
    for name in option.split("."):
        inner = part.get("init_args") or {} if isinstance(part, dict) and "class_path" in part else part
        part = inner.get(name) if isinstance(inner, dict) else None
    return words(part)


def words(value: Any) -> str:
    """A value of a config, in words."""
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"].rpartition(".")[2]
    if isinstance(value, list):
        return ",".join(map(words, value))
    if isinstance(value, str) and value.startswith("dreamer_lightning."):
        value = value.rpartition(".")[2]
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The options of a config by their dotted names, without ``class_path`` and ``init_args``."""
    for name, value in values.items():
        option = f"{prefix}{name}"
        if isinstance(value, dict):
            if "class_path" in value:
                yield option, words(value)
            inner = value.get("init_args") or {} if value.keys() & {"class_path", "init_args"} else value
            yield from flat(inner, f"{option}.")
        else:
            yield option, words(value)


def _shipped(name: str) -> list[tuple[str, str]]:
    return list(flat(configfiles.load(configfiles.find(name)))) if name in configfiles.shipped() else []

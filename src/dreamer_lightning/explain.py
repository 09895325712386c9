"""One line for a mistake on the command line: which option, what is wrong, what would be right."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from importlib import import_module

from dreamer_lightning import migration

FABRIC = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins", "loggers", "callbacks")
FOREIGN = {  # what other programs and Lightning's Trainer call it: what it is called here
    **{name: f"--fabric.{name}" for name in FABRIC},
    "actor_lr": "--optimizer.lr",
    "buffer_size": "--replay.capacity",
    "check_val_every_n_epoch": "--evaluation.every, in env steps",
    "ckpt_path": "--resume DIR, or --init_from FILE for the weights that fit",
    "default_root_dir": "--run_dir",
    "device": "--fabric.accelerator",
    "enable_checkpointing": "--checkpoint.every, in env steps",
    "env_id": "--env.task",
    "eval_every": "--evaluation.every",
    "fast_dev_run": "--config debug.yaml",
    "gamma": "--discount.horizon, which is 1 / (1 - gamma)",
    "gradient_clip_algorithm": "--optimizer.agc",
    "gradient_clip_val": "--optimizer.agc",
    "learning_rate": "--optimizer.lr",
    "limit_val_batches": "--evaluation.episodes",
    "log_every_n_steps": "--log_every, in env steps",
    "logdir": "--run_dir",
    "logger": "--fabric.loggers",
    "lr": "--optimizer.lr",
    "max_epochs": "--env_steps; there are no epochs",
    "max_steps": "--updates; gradient steps",
    "n_envs": "--num_envs",
    "replay_ratio": "--train_ratio",
    "steps": "--env_steps",
    "task": "--env.task",
    "total_timesteps": "--env_steps",
    "val_check_interval": "--evaluation.every, in env steps",
}
HINTS = {  # what is right where an option with options below it was given one value
    "env": "; a task is named by --env.task",
    "size": "; write --config size/12m.yaml, or one size such as --size.units 256",
    "wandb": "; write --wandb.mode disabled, online or offline",
}
WAY = r"Parser key \"[^\"]*\":$|Does not validate|Subtypes:|Errors:|Given value|Problem with|.*NoneType"


def out_of_range(match: re.Match) -> str:
    """A number that the parser refuses, and the nearest right one."""
    value, rule = match.groups()
    most = re.search(r"v<=([\d.]*\d)", rule)
    if most and float(value) > float(most[1]):
        return f"{value} is too large; give {most[1]} or less"
    least = re.search(r"v>=([\d.]*\d)", rule)
    return f"{value} is too small; give {least[1] if least else 1} or more"


WORDS = (  # the parser's, and plain ones
    (r"^Not of type \w+: (\S+) does not conform to restriction (.*)", out_of_range),
    (r"^Not of type \w+: invalid literal for (\w+)\(\) .*: '(.*)'", r"expected \1, got \2"),
    (r"^Not of type \w+: could not convert string to (\w+): '(.*)'", r"expected \1, got \2"),
    (r"[., ]+[Gg]ot (value: )?Namespace\(.*", ""),
    (r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1"),
    (r"(?:typing\.)?Literal\[(.*?)\]", lambda match: "one of " + match[1].replace("'", "")),
    (r"^(?:Not of type \w+: )?Expected an? ", "expected "),
    (r"^Not of type \w+: ", ""),
    (r"dot import path string: (.*)", r"class by its dotted path, got \1"),
    (r"expected (?:list|Sequence)\b", "expected a list such as '[a, b]'"),
    (r"\. Got value: ", ", got "),
    (r"^Unable to load config (.*)", r"takes no \1, it has options below it"),
    (r"(one of .*got (?:True|False))$", r"\1 (YAML reads off, on, no and yes so: quote them)"),
    (r".*Parameter ('\w+') from '([\w.]+)' does not specify a type.*", r"\2: give its parameter \1 a type"),
)


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean a or b?)``, or nothing when no choice is close."""
    near = difflib.get_close_matches(word, list(choices), 3, 0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def unknown(typed: str, options: Iterable[str]) -> str:
    """One line for an option or a word that does not exist, where ``options`` such as ``--seed`` do."""
    options = list(options)
    name, _, value = typed.removeprefix("--").partition("=")
    if typed.startswith("--"):
        typed = f"--{name}"
    elif value and f"--{name.split('.')[0]}" in options:
        return f"unknown word {typed}; write --{name} {value}"
    if new := migration.moved(name):
        return f"{typed} is --{new} now"
    trainer, name = name.startswith("trainer."), name.removeprefix("trainer.")
    here = FOREIGN.get(name) or (f"--{name}" if trainer and f"--{name}" in options else "")
    if here and re.split(r"[.,; ]", here)[0] in options:
        return f"{typed}: here {here}" if trainer else f"unknown option {typed}; here {here}"
    if trainer:
        return f"{typed}: Fabric runs the loop, there is no Trainer; docs/from-trainer.md says what each flag became"
    return f"unknown option {typed}{nearest(typed, options)}; --help lists all"


def explain(message: str, options: Iterable[str]) -> str:
    """One line for one error of the parser.

    Args:
        message: the parser's error, possibly of many lines.
        options: the options that exist, such as ``--env_steps``.
    """
    if "nrecognized arguments: " in message:
        return unknown(message.partition("guments: ")[2].split()[0], options)
    keys = re.findall(r"[Pp]arser key \"([^\"]+)\"", message)
    keys = [key for key, before in zip(keys, ["", *keys], strict=False) if key != before]  # told twice
    option, cause = "--" + ".".join(keys) if keys else "config", innermost(message)
    if "arguments are required: " in cause:
        name = cause.partition("required: ")[2].split(", ")[0]
        tell = "; configs such as dmc.yaml name one, overlays come after them" if name == "env" else ""
        return f"{option}: {name} is missing in its init_args" if keys else f"--{name} is missing{tell}"
    refused = re.search(r"(?:Group '([\w.]+)' does not accept o|O)ption '([^']+)'", cause)
    if refused and not keys:  # a word of a config file
        name = ".".join(filter(None, refused.groups()))
        return f"config: no option '{name}'{nearest(name, (word.lstrip('-') for word in options))}"
    if refused:
        owner = (re.findall(r"class_path[ =]'([\w.]+)'", message) or [""])[0]
        accepted = accepted_options(owner)
        if new := migration.moved(f"{option}.{refused[2]}".lstrip("-")):
            return f"{option}.{refused[2]} is --{new} now"
        if refused[2] in accepted:
            return f"{option}.{refused[2]}: {owner.rpartition('.')[2]} gets its {refused[2]} from fit itself"
        near = nearest(refused[2], accepted) + (f"; it has {', '.join(accepted)}" if accepted else "")
        return f"{option}.{refused[2]}: {owner.rpartition('.')[2] or option} has no option '{refused[2]}'{near}"
    return f"{option}: {cause}{HINTS.get('.'.join(keys), '')}"


def accepted_options(class_path: str) -> list[str]:
    """Keyword options of a class, by its dotted path; empty if it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_module(module), name)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    return [p.name for p in parameters.values() if p.default is not p.empty]


def innermost(message: str) -> str:
    """The first line of a nested error that is a cause and not the way to it, in plain words."""
    lines = [line.rpartition("a callable class: ")[2].strip(" -") for line in message.splitlines()]
    text = next((line for line in lines if line and not re.match(WAY, line)), lines[-1])
    given = re.search(r"Given value: (.*)", message)
    if given:
        text = text.replace(": does not conform", f": {given[1].split('. Got')[0]} does not conform")
    for parsers, plain in WORDS:
        text = re.sub(parsers, plain, text)
    return f"{text}, got {given[1]}" if given and text.startswith("expected") and " got " not in text else text

"""Turns the parser's long errors into one line: which option, what is wrong, what would be right."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from importlib import import_module


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean a or b?)``, or nothing when no choice is close."""
    near = difflib.get_close_matches(word, list(choices), 3, 0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def explain(message: str, options: Iterable[str]) -> str:
    """One line for one parser error.

    Args:
        message: the parser's error, possibly of many lines.
        options: the options that exist, such as ``--env_steps``.
    """
    unknown = re.search(r"[Uu]nrecognized arguments: (\S+)", message)
    if unknown:
        option = unknown[1].split("=")[0]
        return f"unknown option {option}{nearest(option, options)}; --help lists all"
    keys = re.findall(r"[Pp]arser key \"([^\"]+)\"", message)
    missing = re.search(r"arguments are required: (.+)", message)
    if missing and not keys:
        name = missing[1].split(", ")[0]
        word = f"--{name}" if f"--{name}" in options else name.upper()  # upper case: a word by its place
        return f"{word} is missing and has no default; --help says what it is"
    untyped = re.search(r"Parameter '(\w+)' from '([\w.]+)' does not specify a type", message)
    if untyped:
        return f"{untyped[2]}: give its parameter '{untyped[1]}' a type, so that options can be checked"
    valueless = re.search(r"argument (--\S+): expected one argument", message)
    if valueless:
        return f"{valueless[1]}: it, or an option below it, needs a value after it"
    keys = [key for key, before in zip(keys, ["", *keys], strict=False) if key != before]  # told twice
    option = "--" + ".".join(keys) if keys else ""
    refused = re.search(r"Option '([^']+)' is not accepted", message)
    if refused:
        if not option:  # a word of a config file
            return f"config: no option '{refused[1]}'{nearest(refused[1], (word.lstrip('-') for word in options))}"
        classes = re.findall(r"class_path[ =]'([\w.]+)'", message)
        accepted = accepted_options(classes[0]) if classes else []
        owner = f"{classes[0].rpartition('.')[2]} has no" if classes else "no such"
        return f"{option}.{refused[1]}: {owner} option '{refused[1]}'{nearest(refused[1], accepted)}" + (
            f"; it has {', '.join(accepted)}" if accepted else ""
        )
    return f"{option or 'options'}: {last_cause(message)}"


def accepted_options(class_path: str) -> list[str]:
    """Keyword options of a class, by its dotted path; empty if it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_module(module), name)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    return [p.name for p in parameters.values() if p.default is not p.empty]


def last_cause(message: str) -> str:
    """The most telling line of a nested parser error, in plain words."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    causes = r"Expected|Not of type|No module|module '|Import|File does not|.*arguments are required|.*Got value"
    telling = [line for line in lines if re.match(causes, line)]
    telling = [line for line in telling if "NoneType" not in line] or telling or lines[-1:]
    if "arguments are required: " in telling[0]:
        return f"{telling[0].rpartition('required: ')[2]} is missing in its init_args"
    text = telling[0].rpartition("expects a function or a callable class: ")[2]
    text = re.sub(r"Not of type \w+: ", "", text.split(", got Namespace(")[0].split(". Got value: Namespace(")[0])
    text = re.sub(r"Expected a dot import path string: (.*)", r"Expected a class by its dotted path, got \1", text)
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", lambda match: "one of " + match[1].replace("'", ""), text)
    text = re.sub(r"Parser key \"[\w.]+\": ", "", text)
    text = re.sub(r"^Expected an? (list|Sequence)\b", "expected a list such as '[a, b]'", text)
    if re.search(r"one of .*[Gg]ot value: (True|False)$", text):
        text += " (YAML reads off, on, no and yes so: quote them)"
    given = re.search(r"Given value: (.*)", message)
    if given and "got" not in text.lower():
        text = f"{text}, got {given[1]}"
    return re.sub(r"^Expected an? ", "expected ", text).replace(". Got value: ", ", got ")

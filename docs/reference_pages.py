"""The pages of the reference, made from the code: every option, every command, every metric.

Options come from the parser that reads them, commands from their records, metrics from docs/reference/metrics.yaml and
the runs in benchmarks/results.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
METRICS = ROOT / "docs" / "reference" / "metrics.yaml"
CLASSES = {  # what may stand where an option names a class, and the module that has it
    "env": ("envs", "DMC Gym Atari Custom Vector"),
    "env, recorded": ("offline", "Recorded"),
    "encoder": ("nets.encoders", "DictEncoder SymlogMLPEncoder MLPEncoder MaxPoolEncoder StridedEncoder"),
    "rssm": ("nets.rssm", "BlockRSSM"),
    "rssm (V1, V2, V3 of 2023)": ("nets.gru", "GRURSSM LearnedStartRSSM"),
    "rssm.latents": ("nets.latents", "Categorical Gaussian"),
    "decoder": ("nets.decoders", "DictDecoder SymlogMLPDecoder MLPDecoder UpsampleDecoder StridedDecoder"),
    "reward, cont, value": ("nets.heads", "TwoHotHead SymlogTwoHotHead BinaryHead EndlessHead MSEHead TanhMSEHead"),
    "policy": ("nets.heads", "PolicyHead TanhPolicyHead TruncatedPolicyHead"),
    "optimizer": ("optim", "LaProp PartsAdam"),
    "world_model": ("world_model", "WorldModel"),
    "actor_critic": ("actor_critic", "ActorCritic"),
    "actor_critic (V1, V2, V3 of 2023)": ("versions", "ActorCriticV1 ActorCriticV2 ActorCritic2023"),
    "actor_critic, with an explorer": ("curiosity", "Plan2Explore"),
    "actor_critic, exploring": ("curiosity", "Plan2Explore"),
    "actor_critic.gradient": ("nets.gradients", "ScoreFunction Pathwise Mix"),
    "actor_critic.entropy_weight": ("nets.entropy", "ConstantWeight EntropyTarget"),
    "actor_critic.return_norm and others": ("nets.normalizers", "Normalizer PercentileNorm MeanStdNorm"),
    "actor_critic.extra_starts": ("nets.starts", "PriorityStarts"),
    "losses.total": ("nets.totals", "Total Harmony"),
    "losses.extra": ("losses", "RedundancyReduction NextEmbedding InfoNCE"),
    "replay": ("data", "Replay EpisodeReplay"),
    "collector.explore": ("data.explore", "HeldCorners Disturbed RandomFirst"),
    "collector.explore, by a planner": ("planning", "Planned"),
    "collector.explore, by an explorer": ("curiosity", "Explorer"),
    "collector.explore, by Plan2Explore": ("curiosity", "Explorer"),
    "evaluate --planner": ("planning", "Shooting CEM MPPI GradientPlanner"),
}


def pages() -> dict[str, str]:
    """Markdown of the made pages, by their place in docs/."""
    made = {"options": options, "commands": commands, "metrics": metrics}
    return {f"reference/{name}.md": page() for name, page in made.items()}


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def kind(hint: Any) -> str:
    """A type as people write it."""
    text = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint)
    text = re.sub(r"typing\.|collections\.abc\.|(?:\w+\.)+(?=\w)", "", text)
    plain = {"PositiveInt": "int > 0", "NonNegativeInt": "int >= 0", "NonNegativeFloat": "float >= 0"}
    plain |= {
        "ClosedUnitInterval": "0 to 1",
        "OpenUnitInterval": "0 to 1",
        "PositiveFloat": "float > 0",
        "NoneType": "None",
    }
    for name, words in plain.items():
        text = re.sub(rf"\b{name}\b", words, text)
    text = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace("'", "").replace(", ", " or "), text)
    return re.sub(r"Union\[(.*), None\]|Optional\[(.*)\]", lambda match: f"{match[1] or match[2]} | None", text)


def rows_of(parser: Any, title: str = "", prefix: str = "") -> list[list[str]]:
    """Name, type, default and description of a parser's options; of one group only where a title is given."""
    groups = [group for group in parser._action_groups if not title or group.title == title]
    rows = []
    for action in (action for group in groups for action in group._group_actions):
        hint = getattr(action, "_typehint", None)
        if hint is None or action.dest.endswith(".help"):
            continue
        value = action.default
        value = value["class_path"].rpartition(".")[2] if isinstance(value, dict) and "class_path" in value else value
        default = "" if value is None or "SUPPRESS" in str(value) else f"`{value}`"
        rows.append([f"`{action.dest.removeprefix(prefix)}`", kind(hint), default, action.help or ""])
    return rows


def options() -> str:
    """Every option of ``fit``, and of every class that a config may name."""
    from dreamer_lightning import config
    from dreamer_lightning.commands import COMMANDS

    parser = config.make_parser("fit", [config.function_of(COMMANDS["fit"])])
    head = ("option", "type", "default", "what it does")
    parts = [
        "# Options\n\nEvery option of `fit`, with its type and its default before any config. This page is made from "
        "the parser that reads them: `fit --help all` prints the same. On the command line an option has two dashes "
        "before it (`--losses.rep 0.1`), in a config it is nested (`losses: {rep: 0.1}`). An empty default is null, or "
        "given by `networks.yaml`, with which every config begins.\n"
    ]
    for group in parser._action_groups:
        rows = rows_of(parser, group.title)
        if rows:
            parts.append(f"## {group.title[0].upper()}{group.title[1:]}\n\n{table(head, rows)}\n")
    parts.append(
        "## Classes\n\nWhat may stand behind `class_path`, and the options in `init_args`. Those without a default "
        "and without a place in a config are given by `fit` itself.\n"
    )
    for place, (module, names) in CLASSES.items():
        parts.append(f"### {place}\n")
        for name in names.split():
            parts.append(about_class(f"dreamer_lightning.{module}", name))
    return "\n".join(parts)


def about_class(module: str, name: str) -> str:
    """A class's path, the first lines of its docstring, and a table of its options."""
    from jsonargparse import ArgumentParser

    owner = getattr(import_module(module), name)
    doc = (owner.__doc__ or "").strip().split("\n\n")[0].rstrip(":").replace("\n", " ")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, "x", fail_untyped=False, instantiate=False)
    rows = [row for row in rows_of(parser, prefix="x.") if row[2] or "None" in row[1]]
    text = f"**`{module}.{name}`**: {' '.join(doc.split())}\n"
    return f"{text}\n{table(('option', 'type', 'default', 'what it does'), rows)}\n" if rows else text


def commands() -> str:
    """Every command: what it does and what it takes."""
    from dreamer_lightning.arguments import options_of
    from dreamer_lightning.commands import COMMANDS

    parts = ["# Commands\n\nTyped as `python -m dreamer_lightning COMMAND` or `dreamer-lightning COMMAND`.\n"]
    for command in COMMANDS.values():
        doc, found = options_of(command)
        own = found[: len(found) - len(options_of(COMMANDS[command.takes])[1])] if command.takes else found
        words = f" {command.words.upper()}" * bool(command.words) + " [CONFIG ...]" * (command.configs is not None)
        says = doc.partition("\nArgs:")[0].strip()
        parts.append(f"## {command.name}\n\n```text\ndreamer-lightning {command.name}{words}\n```\n\n{says}\n")
        if command.name == "fit":
            parts.append("Its options have [a page of their own](options.md).\n")
            continue
        rows = [[f"`--{o.name}`", o.kind, "" if o.default in (None, "None") else f"`{o.default}`", o.help] for o in own]
        if rows:
            parts.append(table(("option", "type", "default", "what it does"), rows) + "\n")
        if command.takes or command.rest:
            parts.append(f"It also takes [the options of `{command.takes or command.rest}`](options.md).\n")
    return "\n".join(parts)


@cache
def explained() -> list[dict[str, Any]]:
    """Groups of metrics, as docs/reference/metrics.yaml has them."""
    return yaml.safe_load(METRICS.read_text())


def entries() -> dict[str, dict[str, str]]:
    """What is said of each metric, by its name; K and NAME in names stand for others."""
    return {name: entry for group in explained() for name, entry in group["metrics"].items()}


def pattern(name: str) -> re.Pattern:
    """What the name of a metric matches."""
    words = re.split(r"(NAME|(?<=@)K)", name)
    return re.compile("".join({"NAME": r"[^@]+", "K": r"\d+"}.get(word, re.escape(word)) for word in words))


def entry_of(column: str) -> str | None:
    """The explained name that a column goes by: its own, or the longest one whose pattern it has."""
    names = [name for name in entries() if name == column or pattern(name).fullmatch(column)]
    return max(names, key=lambda name: (name == column, len(name)), default=None)


def logged() -> Iterator[tuple[str, list[float]]]:
    """Columns of the runs in benchmarks/results with the values of their last quarter."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/*/*/metrics.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for column in rows[0] if rows else ():
            values = [float(row[column]) for row in rows if row[column]]
            yield column, values[-max(1, len(values) // 4) :]


@cache
def ranges() -> dict[str, str]:
    """By explained name, where nine tenths of all runs' last values lie."""
    found = defaultdict(list)
    for column, values in logged():
        found[entry_of(column)].append(float(np.mean(values)))
    return {
        name: f"{np.quantile(values, 0.05):.3g} to {np.quantile(values, 0.95):.3g}"
        for name, values in found.items()
        if name and "/" in name and len(values) > 7 and "NAME" not in name
    }


def means(entry: dict[str, str]) -> str:
    return f"{entry['means']} [{entry['unit']}]" if "unit" in entry else entry["means"]


def metrics() -> str:
    """Every metric's meaning, unit, healthy range, and the range that was seen."""
    seen, parts = ranges(), []
    for group in explained():
        rows = [
            [f"`{name}`", means(entry), entry["healthy"], entry.get("bad", ""), seen.get(name, "")]
            for name, entry in group["metrics"].items()
        ]
        head = ("metric", "what it is, and its unit", "healthy", "sick", "seen")
        parts.append(f"## {group['group']}\n\n{group['about']}\n\n{table(head, rows)}\n")
    return (
        "# Metrics\n\nEvery column of `metrics.csv`, which W&B and TensorBoard show under the same names. *Seen* is "
        "where nine tenths of the runs in `benchmarks/results` had it in their last quarter; those are vector tasks, "
        "most of them learned. `diagnose RUN` compares eight of them with what is expected. [Read the "
        "metrics](../howto/metrics.md) has curves.\n\n" + "\n".join(parts)
    )

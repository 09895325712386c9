"""Play an environment against what training asks of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table
from rich.text import Text

from dreamer_lightning.commands.build import networks_of, probe
from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.commands.tables import render
from dreamer_lightning.envs.contract import Finding, examine
from dreamer_lightning.envs.strict import line
from dreamer_lightning.types import Specs, UserError


def check_env(options: dict[str, Any], steps: int = 1000) -> Outcome:
    """Play an environment against what training asks of it: what Dreamer will see, what is wrong, how to mend it.

    It is named by configs, by the id of a gymnasium environment, or as module:Class of your own.

    Args:
        options: those of ``fit``; env, encoder and seed count.
        steps: random decisions that are played.

    Returns:
        The tables; the exit code is 1 if something is wrong.

    Raises:
        UserError: there is nothing to play.
    """
    if steps < 1:
        raise UserError(f"--steps: {steps} plays nothing; give 1 or more")
    factory, seed = options["env"], options["seed"]
    try:
        specs = probe(factory, seed)
    except Exception as error:
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {line(error)}"
        return Outcome(render(findings_table([Finding("make", "wrong", what)])), 1)
    found: list[Finding] = []
    networks: dict[str, str] = {}
    try:
        networks = networks_of(options["encoder"](specs))
    except UserError as error:
        found.append(Finding("networks", "wrong", str(error)))
    found += examine(factory, steps, seed)
    counts = Counter(finding.state for finding in found)
    last = f"{factory.name}: {counts['wrong']} wrong, {counts['note']} to note, {counts['ok']} in order"
    return Outcome(render(spaces_table(specs, networks), findings_table(found), last), int(counts["wrong"] > 0))


def spaces_table(specs: Specs, networks: dict[str, str]) -> Table:
    """What the agent sees and does, a row for each observation and action."""
    table = Table(title="what Dreamer sees and does", title_justify="left")
    for name in ("key", "taken for", "in the environment", "network"):
        table.add_column(name)
    for name, space in specs.obs.items():
        table.add_row(name, space.words, Text(space.source), networks.get(name, "none"))
    for name, space in specs.action.items():
        native = specs.native.get("kind", "") if len(specs.action) == 1 else ""
        table.add_row(name, space.words, f"action{', ' * bool(native)}{native}", "policy")
    return table


def findings_table(found: list[Finding]) -> Table:
    """What the checks found, what is wrong first."""
    table = Table(title="what was found", title_justify="left")
    for name in ("", "check", "found", "how to mend it"):
        table.add_column(name)
    order = ("wrong", "note", "ok")
    for finding in sorted(found, key=lambda each: order.index(each.state)):
        table.add_row(finding.state, finding.check, Text(finding.found), Text(finding.mend))
    return table

"""Play an environment against what training asks of it."""

from __future__ import annotations

import re
from collections import Counter

from rich.table import Table
from rich.text import Text

from dreamer_lightning import configfiles
from dreamer_lightning.commands.build import networks_of, probe
from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.commands.tables import render
from dreamer_lightning.config import parse
from dreamer_lightning.envs.contract import Finding, examine
from dreamer_lightning.types import Specs, UserError

CUSTOM = "dreamer_lightning.envs.Custom"


def check_env(target: list[str] | None = None, steps: int = 1000, seed: int = 0) -> Outcome:
    """Play an environment against what training asks of it: what Dreamer will see, what is wrong, how to mend it.

    Args:
        target: a config (or several), the id of a gymnasium environment, or module:Class of your own; options of fit
            may follow, such as --env.time_limit 500.
        steps: random decisions that are played.
        seed: of environments and decisions.

    Returns:
        The tables; the exit code is 1 if something is wrong.

    Raises:
        UserError: nothing was named, or the options are wrong.
    """
    if not target or target[0].startswith("--env."):
        raise UserError("check-env: name a config, the id of a gymnasium environment, or module:Class of your own")
    if steps < 1:
        raise UserError(f"--steps: {steps} plays nothing; give 1 or more")
    options = parse("fit", words_of_fit(target))[1]
    factory = options["env"]
    try:
        specs = probe(factory, seed)
    except Exception as error:
        made = Finding(
            "make", "wrong", f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        )
        return Outcome(render(findings_table([made])), 1)
    found = []
    try:
        networks = networks_of(options["encoder"](specs))
    except UserError as error:
        networks, found = {}, [Finding("networks", "wrong", str(error))]
    found += examine(factory, steps, seed)
    counts = Counter(finding.state for finding in found)
    last = f"{factory.name}: {counts['wrong']} wrong, {counts['note']} to note, {counts['ok']} in order"
    return Outcome(render(spaces_table(specs, networks), findings_table(found), last), int(counts["wrong"] > 0))


def words_of_fit(target: list[str]) -> list[str]:
    """What was named, as options of ``fit``; gymnasium's ids end in -v0 and the like, other colons lead to a class."""
    name, *others = target
    if name.startswith("--") or configfiles.is_named(name):
        return target
    if ":" in name and not re.search(r"-v\d+$", name):
        return ["gym.yaml", "--env", CUSTOM, "--env.path", name, *others]
    return ["gym.yaml", "--env.task", name, *others]


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

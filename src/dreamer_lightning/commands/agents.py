"""List the trained agents that come with the package."""

from __future__ import annotations

from rich.table import Table

from dreamer_lightning import agents as shipped
from dreamer_lightning.commands.tables import render


def agents() -> str:
    """List the trained agents that come with the package: what they do, how they were trained, how well they play.

    Returns:
        The table. ``Agent.load("NAME")`` loads one; ``demo``, ``evaluate`` and ``dream`` take its name for a run's.
    """
    table = Table(title="trained agents", title_justify="left")
    numbers = ("env steps", "score", "random", "size")
    for name in ("name", "sees", "acts", *numbers, "config"):
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=name != "sees")
    for name in shipped.names():
        folder = shipped.FOLDER / name
        card = shipped.card(folder)
        size = (folder / shipped.WEIGHTS).stat().st_size / 1e6
        steps, score, chance = (f"{card[key]:,.0f}" for key in ("env_step", "score", "random_score"))
        row = (steps, score, chance, f"{size:.1f} MB", " ".join(card["configs"]))
        table.add_row(name, card["sees"], card["acts"], *row)
    return render(table, "demo NAME opens its dreams; evaluate NAME plays it; Agent.load(NAME) in Python", width=120)

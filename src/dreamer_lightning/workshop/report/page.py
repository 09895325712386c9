"""The page: what a run folder holds, in the order in which one asks about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from dreamer_lightning import settings
from dreamer_lightning.callbacks.curve import EPISODE, GREEDY, SAMPLED, running_mean
from dreamer_lightning.store.metrics import Row, read_rows, series
from dreamer_lightning.store.runfolder import CONFIG, METRICS, read_config
from dreamer_lightning.workshop.diagnose import findings
from dreamer_lightning.workshop.report.charts import Line, chart, legend
from dreamer_lightning.workshop.report.media import media

STEPS = "env steps"
DEEP = "steps dreamed"


@dataclass(frozen=True)
class Story:
    """A run folder, read once."""

    folder: Path
    config: dict[str, Any]
    text: str
    rows: list[Row]

    def series(self, name: str, x: str = "env_step") -> tuple[list[float], list[float]]:
        return series(self.rows, name, x)

    def line(self, name: str, label: str, color: int = 0, look: str = "line") -> Line:
        """One metric over env steps."""
        return Line(label, *self.series(name), look, color)

    def last(self, name: str) -> float | None:
        values = self.series(name)[1]
        return values[-1] if values else None

    @cached_property
    def names(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []

    @property
    def task(self) -> str:
        name = settings.value_of(self.config, "env.task")
        return settings.value_of(self.config, "env") if name == "None" else name


def page(folder: Path) -> str:
    """The whole page.

    Raises:
        UserError: the folder holds no run.
    """
    config = read_config(folder)
    story = Story(folder, config, (folder / CONFIG).read_text("utf-8"), read_rows(folder / METRICS))
    sections = (curve, evaluations, pictures, gap, diagnosis, learning, speed, setting_table)
    name = folder.absolute().name
    text = files(__package__).joinpath("page.html").read_text("utf-8")
    return Template(text).substitute(
        title=escape(f"{story.task}: {name}"),
        subtitle=escape(f"{folder.absolute()}"),
        story=escape(summary(story)),
        tiles="".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in tiles(story)),
        sections="\n".join(part for part in (section(story) for section in sections) if part),
        footer=f"Written by <code>dreamer-lightning report {escape(str(folder))}</code>. This page needs no network.",
    )


def summary(story: Story) -> str:
    """One or two sentences."""
    if not story.rows:
        return "The run has just begun: nothing is measured yet. Write this page again in a minute."
    steps, asked = story.last("env_step") or 0.0, story.config.get("env_steps")
    told = f"The agent has played {steps:,.0f}" + (f" of {asked:,}" if asked else "") + " env steps"
    told += f" in {clock(story.last('seconds') or 0.0)}."
    x, y = story.series(GREEDY)
    if y:
        best = int(np.argmax(y))
        told += f" Its last greedy evaluation scored {y[-1]:,.4g} on average,"
        told += f" its best {y[best]:,.4g} at env step {x[best]:,.0f}."
    return told if story.last(EPISODE) is not None else f"{told} No episode has ended yet."


def tiles(story: Story) -> list[tuple[str, str]]:
    """Numbers at a glance."""
    found = []
    greedy, scores = story.series(GREEDY)[1], story.series(EPISODE)[1]
    if greedy:
        found += [(f"{greedy[-1]:,.4g}", "last greedy evaluation")]
        found += [(f"{max(greedy):,.4g}", "best greedy evaluation")]
    if scores:
        last = scores[-10:]
        count = "last episode" if len(last) == 1 else f"mean of the last {len(last)} episodes"
        found.append((f"{np.mean(last):,.4g}", count))
    for name, what in (("env_step", STEPS), ("update", "updates")):
        if (value := story.last(name)) is not None:
            found.append((f"{value:,.0f}", what))
    if seconds := story.last("seconds"):
        found.append((clock(seconds), "wall-clock"))
        found.append((f"{(story.last('update') or 0) / seconds:.3g}", "updates a second"))
    return found


def curve(story: Story) -> str:
    """Episodes, their running mean, and evaluations."""
    steps, scores = story.series(EPISODE)
    lines = [Line("training episodes", steps, scores, "dots", 5)]
    if len(scores) >= 5:
        width, at, means = running_mean(np.array(steps), np.array(scores))
        lines.append(Line(f"mean of {width} episodes", at.tolist(), means.tolist()))
    lines += [story.line(SAMPLED, "evaluation, sampled actions", 2, "both")]
    lines += [story.line(GREEDY, "evaluation, greedy", 1, "both")]
    if not (wide := chart(lines, STEPS, 1080, 360, mark="wide")):
        return section("Learning curve", "<p>No episode has ended and no evaluation was played yet.</p>")
    narrow = chart(lines, STEPS, 360, 250, mark="narrow")
    return section("Learning curve", f'<div class="card">{legend(lines)}{wide}{narrow}</div>')


def evaluations(story: Story) -> str:
    """What ``evaluate`` found, where it was run."""
    rows = []
    for path in sorted(story.folder.glob("evaluation*.json")):
        try:
            found = json.loads(path.read_text("utf-8"))
            who = path.stem.partition("-")[2] or "policy"
            for kind in ("greedy", "sampled"):
                score, returns = found[kind], found[kind]["returns"]
                cells = [f"{score[name]:,.1f}" for name in ("mean", "std")]
                cells += [f"{min(returns):,.1f}", f"{max(returns):,.1f}", str(len(returns))]
                rows.append([f"{who}, {kind}", *cells])
        except (OSError, ValueError, KeyError, TypeError):  # half written, or someone else's
            continue
    heads = ["actions", "mean", "std", "lowest", "highest", "episodes"]
    return section("Evaluated afterwards", f'<div class="card scroll">{table(heads, rows)}</div>') if rows else ""


def pictures(story: Story) -> str:
    """The newest films and dreams."""
    return section("What it does and dreams", media(story.folder))


def gap(story: Story) -> str:
    """How far dreams hold: errors by steps dreamed, first and last evaluation, and promised against paid."""
    errors = sorted({name.partition("@")[0] for name in story.names if name.startswith("openloop/")})
    seen = [e for e in errors if e not in ("openloop/reward_error", "openloop/cont_error", "openloop/coverage")]
    panels = [
        panel(
            "Error of the dreamed reward",
            "Mean absolute error under the real actions.",
            [by_steps(story, "openloop/reward_error", 0, "first evaluation", 5)]
            + [by_steps(story, "openloop/reward_error", -1, "last evaluation", 0)],
            DEEP,
            log=True,
        ),
        panel(
            "Error of dreamed observations",
            "Mean absolute error, last evaluation; numbers in the environment's units, pixels in 0 to 1.",
            [
                by_steps(story, name, -1, name.removeprefix("openloop/").removesuffix("_error"), i)
                for i, name in enumerate(seen[:6])
            ],
            DEEP,
            log=True,
        ),
        panel(
            "Dreamed minus real return",
            "Last evaluation, summed over the steps dreamed; above 0 the dream promises too much.",
            [by_steps(story, "gap/return_actions", -1, "under the real actions", 2)]
            + [by_steps(story, "gap/return", -1, "under the policy", 1)],
            DEEP,
            log=True,
        ),
        panel(
            "Promised and paid",
            "Return over 50 steps: the mean real one, and what dreams add to it.",
            [story.line("gap/real_return", "real", 0, "both"), story.line("gap/return", "gap", 1, "both")],
            STEPS,
        ),
    ]
    if not any(panels):
        told = "Not measured: the gap is looked at in evaluations (<code>--evaluation.every</code>)."
        return section("How far its dreams hold", f"<p>{told}</p>")
    return section("How far its dreams hold", f'<div class="grid2">{"".join(panels)}</div>')


def by_steps(story: Story, base: str, which: int, label: str, color: int) -> Line:
    """One metric's values of one evaluation by the steps dreamed; a first one that is also the last is left out."""
    points = {}
    for name in story.names:
        if name.startswith(f"{base}@"):
            values = story.series(name)[1]
            if values and (which == -1 or len(values) > 1):
                points[float(name.partition("@")[2])] = values[which]
    return Line(label, sorted(points), [points[x] for x in sorted(points)], "both", color)


def diagnosis(story: Story) -> str:
    """The eight looks of ``diagnose``."""
    if not story.rows:
        return ""
    marks = {None: ("?", "soft"), True: ("!", "wrong"), False: ("ok", "ok")}
    rows = []
    for found in findings(story.folder):
        mark, look = marks[found.wrong]
        advice = f"try {found.advice}" if found.wrong else ""
        cells = (
            f'<b class="{look}">{mark}</b> {escape(found.name)}',
            *map(escape, (found.value, found.expected, advice)),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<thead><tr><th>what</th><th>value</th><th>expected</th><th>advice</th></tr></thead>"
    return section("Diagnosis", f'<div class="card"><table class="findings">{head}{"".join(rows)}</table></div>')


def learning(story: Story) -> str:
    """Losses and what the dreams say, as small charts."""
    recon = [name for name in story.names if name.startswith("loss/recon/")]
    panels = [
        panel(
            "Reconstruction",
            "Loss of each observation (the first six).",
            [story.line(name, name.removeprefix("loss/recon/"), i) for i, name in enumerate(recon[:6])],
        ),
        panel(
            "KL of posterior and prior", "Nats; flat at the free nats means nothing is left to predict.",
            [story.line("loss/dyn", "dynamics loss")],
        ),
        panel(
            "Reward and continuation", "Losses of the two heads.",
            [story.line("loss/reward", "reward"), story.line("loss/cont", "continuation", 1)],
        ),
        panel(
            "Dreamed returns", "What dreams pay, and what the critic expects.",
            [story.line("dream/return", "lambda-return"), story.line("dream/value", "value", 1)],
        ),
        panel("Entropy of the policy", "Share of the possible range: 1 acts at random.",
              [story.line("dream/entropy_norm", "entropy")]),
        panel("Gradient", "Norm before clipping.", [story.line("opt/grad_norm", "norm")]),
    ]  # fmt: skip
    return section("While it learned", f'<div class="grid2">{"".join(panels)}</div>') if any(panels) else ""


def speed(story: Story) -> str:
    """Rates over time, and where the time went."""
    shares = {}
    for name in (name for name in story.names if name.startswith("fps/share_")):
        values = story.series(name)[1]
        if values and np.mean(values) > 0.005:
            shares[name.removeprefix("fps/share_")] = float(np.mean(values))
    panels = [
        panel("Env steps a second", "", [story.line("fps/env", "env steps")]),
        panel("Updates a second", "", [story.line("fps/updates", "updates")]),
    ]
    if not any(panels):
        return ""
    known = sum(shares.values())
    shares |= {"other": 1 - known} if known < 0.995 else {}
    keys = [Line(f"{name} {share:.0%}", [0], [0], color=i) for i, (name, share) in enumerate(shares.items())]
    bars = "".join(
        f'<i class="c{i % 6}" style="width:{100 * share / max(1.0, known):.1f}%"></i>'
        for i, share in enumerate(shares.values())
    )
    memory = story.last("fps/ram_gb")
    told = f"<p>Peak memory {memory:.2f} GB.</p>" if memory else ""
    where = f'<div class="card"><h3>Where the time went</h3><div class="bar">{bars}</div>{legend(keys)}{told}</div>'
    return section("Speed", f'<div class="grid2">{"".join(panels)}{where if shares else ""}</div>')


def setting_table(story: Story) -> str:
    """What differs from the preset, and the whole config folded up."""
    found, asked = settings.changes(story.text), settings.asked(story.text)
    if asked is None:
        told = "<p>The run is from before configs kept what was asked for: below is all it ran with.</p>"
    else:
        names = " with ".join([asked.configs[0], ", ".join(asked.configs[1:])][: 1 + (len(asked.configs) > 1)])
        told = f"<p>From <code>{escape(names)}</code>, seed {story.config.get('seed')}."
        told += " These options differ from the preset:</p>" if found else " No option differs from the preset.</p>"
    rows = [[setting.option, setting.value, setting.preset or "default"] for setting in found]
    listed = (
        f'<div class="card scroll">{table(["option", "here", "preset"], rows, numbers=False)}</div>' if rows else ""
    )
    whole = f'<details class="card"><summary>The whole config</summary><pre>{escape(story.text)}</pre></details>'
    return section("Settings", f"{told}{listed}{whole}")


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def panel(title: str, told: str, lines: list[Line], x_label: str = STEPS, log: bool = False) -> str:
    """A small chart with its name, a sentence and a legend where it has several lines; nothing without values."""
    picture = chart(lines, x_label, log=log)
    if not picture:
        return ""
    keys = legend(lines) if len([line for line in lines if len(line.x)]) > 1 else ""
    sentence = f"<p>{told}</p>" if told else ""
    return f'<div class="card"><h3>{title}</h3>{sentence}{keys}{picture}</div>'


def table(heads: list[str], rows: list[list[str]], numbers: bool = True) -> str:
    """Rows of plain text under heads; all but the first column at the right if they are numbers."""
    look = [' class="n"' if numbers and i else "" for i in range(len(heads))]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(look, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(look, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def clock(seconds: float) -> str:
    """1 h 02 min, 3 min 04 s or 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

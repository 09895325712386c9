"""Draws the pictures of README and docs and writes the table of results, from the raw files in `benchmarks/results`.

python benchmarks/figures.py [--run RUN]    (RUN after `evaluate --run RUN` and `dream --run RUN`)
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import yaml

from dreamer_lightning.callbacks.curve import learning_curve
from dreamer_lightning.evaluation.gap import ERROR_STEPS
from dreamer_lightning.store.runfolder import class_of, read_config
from dreamer_lightning.workshop.compare import fewer, number
from dreamer_lightning.workshop.diagnose import read_metrics
from dreamer_lightning.workshop.results.comparison import MILESTONES, records
from dreamer_lightning.workshop.results.figure import comparison_figure
from dreamer_lightning.workshop.results.methods import Method, tasks_of
from dreamer_lightning.workshop.results.published import REFERENCE, WINDOWS, published
from dreamer_lightning.workshop.results.runs import load, rows_of

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results.md"
IMAGES = HERE.parent / "docs" / "images"
QUICKSTART = "quickstart.yaml: cartpole_balance, repeat 4, train ratio 512, 4 envs, training episodes"
BASE = "efficient"  # what the ablations change
PROTOCOLS = ("dmc", "imag16", "ppo", "sac")  # other agents, not changes to it
MAIN = (*PROTOCOLS, BASE, "mix", "corners-mix")  # overlays of the first picture and of the table
CALLED = yaml.safe_load((HERE / "overlays" / "names.yaml").read_text())
SHIPPED = ("corners-mix", "mix")  # dmc.yaml with held corners where that was run, else without
CHEAP = ("reacher_easy", "reacher_hard", "ball_in_cup_catch", "cartpole_balance", "walker_stand", "pendulum_swingup")
AT = 50_000  # env steps of the overview
BENCHMARK = "dmc_proprio"
BEGIN, END = "<!-- results: python benchmarks/figures.py -->", "<!-- end of results -->"


def rows(results: Path, main: bool) -> list[Method]:
    """Runs on vectors of DeepMind Control under `results`, beside the published ones; the main overlays or the others.

    Args:
        results: holds TASK/OVERLAY/seedK.
        main: the overlays of ``MAIN``; else all changes to ``BASE``, beside it.
    """
    known = {"dmc", *yaml.safe_load((HERE / "overlays" / "commands.yaml").read_text())}  # not other presets or repeats
    folders = {path.parent for path in results.glob("*/*/seed*") if path.parent.name in known}
    wanted = sorted(path for path in folders if (path.name in MAIN if main else path.name not in (*PROTOCOLS, BASE)))
    if not main:
        base = {path.parent: path for path in folders if path.name == BASE}
        wanted = [path for path in wanted if path.parent in base]
        wanted += sorted({base[path.parent] for path in wanted})
    series = [one for path in wanted for one in load([str(path)]) if one.benchmark == BENCHMARK]
    ours = rows_of(series, BENCHMARK)
    return sorted(ours + published(BENCHMARK, set(tasks_of(ours))), key=lambda row: tasks_of(ours).index(row.task))


def table(found: list[Method]) -> str:
    """A Markdown table of runs beside the published reference; milestones that a run of ours has reached."""
    made = [
        r
        for r, row in zip(records(found, WINDOWS[BENCHMARK]), found, strict=True)
        if row.ours or row.label == REFERENCE
    ]
    ours = [record for record in made if record["method"] != REFERENCE]
    steps = [step for step in MILESTONES if any(not math.isnan(record[f"score@{step}"]) for record in ours)]
    heads = [
        "task",
        "method",
        "seeds",
        *(f"{step // 1000}K" for step in steps),
        "env steps (episodes) to 50% / 75% / 90%",
    ]
    heads += ["hours a run", "repeat", "ratio", "size", "envs", "version"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for record in made:
        name = "DreamerV3, published" if record["method"] == REFERENCE else record["method"]
        cells = [record["task"], name, record["seeds"]]
        cells += [score(record, step) for step in steps]
        cells.append(" / ".join(reached(record, share) for share in (50, 75, 90)))
        cells += [
            number(record["hours"], 1),
            *(record[key] for key in ("repeat", "train_ratio", "size", "num_envs", "version")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def score(record: dict[str, Any], step: int) -> str:
    """Mean over seeds, with the bootstrap interval of the interquartile mean where there are several."""
    low, high = record[f"iqm_low@{step}"], record[f"iqm_high@{step}"]
    return (
        number(record[f"score@{step}"], 0)
        + fewer(record, step)
        + ("" if math.isnan(low) else f" [{low:.0f}-{high:.0f}]")
    )


def reached(record: dict[str, Any], share: int) -> str:
    steps, episodes = record[f"steps_to_{share}%"], record[f"episodes_to_{share}%"]
    return "-" if math.isnan(steps) else f"{steps / 1000:g}K ({episodes:.0f})"


def rewrite(page: Path, text: str) -> None:
    """Put a text between the two marks of a page."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def length_figure(folders: list[Path], path: Path) -> Path:
    """What the length of dreams costs and brings: return, wall-clock for an update, error of the last dreamed reward.

    Args:
        folders: runs of one task that differ by ``imag_length``; runs of one length are averaged.
        path: a .png file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points: dict[int, list[tuple[float, float, float]]] = {}
    for folder in folders:
        length = int(class_of(read_config(folder)["actor_critic"])[1]["imag_length"])
        measured = max(k for k in ERROR_STEPS if k <= length)
        found = read_metrics(folder)
        scores, error = found["episode/score"], found.get(f"openloop/reward_error@{measured}", np.array([np.nan]))
        updates = (found["seconds"].max() - found["seconds"][0]) / max(1.0, found["update"].max())
        points.setdefault(length, []).append((float(scores[-10:].mean()), float(updates), float(error[-1])))
    lengths = sorted(points)
    figure = Figure(figsize=(9, 2.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    names = ("return of the last 10 episodes", "wall-clock seconds for an update", "reward error at the horizon*")
    for i, (axis, name) in enumerate(zip(figure.subplots(1, 3), names, strict=True)):
        axis.plot(
            lengths, [np.mean([point[i] for point in points[length]]) for length in lengths], "o-", color="#0072b2"
        )
        axis.set(title=name, xlabel="imag_length", xticks=lengths, ylim=(0, None))
        axis.title.set_fontsize(10)
        axis.grid(color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("* mean absolute error after the most steps measured (1, 5, 15, 50) within the dream", fontsize=8)
    figure.savefig(path)
    return path


def overview_figure(found: list[Method], path: Path) -> Path:
    """Bars at 50K env steps: each cheap task and their mean, this package beside what was published.

    Args:
        found: runs and published curves.
        path: a .png file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = records(found, WINDOWS[BENCHMARK])
    scores = {(record["task"], record["method"]): record for record in made}

    def ours(task: str) -> dict[str, Any]:
        return next(scores[task, label] for label in SHIPPED if (task, label) in scores)

    methods: dict[str, tuple[str, Any]] = {"Dreamer Lightning": ("#0072b2", ours)}
    for label, name, color in (
        ("dreamerv3", "DreamerV3, published", "#444444"),
        ("dmpo", "DMPO, published", "#999999"),
        ("d4pg", "D4PG, published", "#bbbbbb"),
        ("ppo_fixhp", "PPO, published", "#dddddd"),
    ):
        methods[name] = (color, lambda task, label=label: scores[task, label])
    tasks = [task for task in CHEAP if any((task, label) in scores for label in SHIPPED)]
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis, width = figure.subplots(), 0.8 / len(methods)
    for i, (name, (color, record)) in enumerate(methods.items()):
        heights = [record(task)[f"score@{AT}"] for task in tasks]
        heights.append(float(np.mean(heights)))
        places = np.arange(len(heights)) + (i - (len(methods) - 1) / 2) * width
        bars = axis.bar(places, heights, 0.92 * width, color=color, label=name)
        if not i:
            axis.bar_label(bars, [f"{height:.0f}" for height in heights], fontsize=8, fontweight="bold", color=color)
    before = [task for task in tasks if ours(task)["method"] != SHIPPED[0]]
    names = [f"{task}{'*' * (task in before)}\n{seeds_of(ours(task))}" for task in tasks] + [f"mean of {len(tasks)}"]
    if before:
        figure.supxlabel("* run before held corners became the default", fontsize=8, x=0.99, ha="right")
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_ylabel(f"return at {AT // 1000}K env steps")
    axis.set_title("DeepMind Control from vectors, training episodes", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8, ncols=len(methods), loc="upper left")
    axis.set_ylim(0, 1180)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    figure.savefig(path)
    return path


def seeds_of(record: dict[str, Any]) -> str:
    count = len(record["seeds"].split(","))
    return f"{count} seed{'s' * (count > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder of the quickstart")
    run = parser.parse_args().run
    IMAGES.mkdir(parents=True, exist_ok=True)
    seeds = {path.name: path for path in sorted((RESULTS / "cartpole_balance/quickstart").glob("seed*"))}
    learning_curve(seeds, 300.0, QUICKSTART, IMAGES / "quickstart.png")
    first, others = rows(RESULTS, main=True), rows(RESULTS, main=False)
    title = "DeepMind Control from vectors, training episodes"
    comparison_figure(first, WINDOWS[BENCHMARK], IMAGES / "results.png", title, CALLED)
    if {row.task for row in first} >= set(CHEAP):
        overview_figure(first, IMAGES / "overview.png")
    rewrite(PAGE, table(first))
    if others:
        title = "What each change brings: DeepMind Control from vectors, training episodes"
        comparison_figure(others, WINDOWS[BENCHMARK], IMAGES / "ablation.png", title, CALLED)
    lengths = [path for name in (BASE, "length*") for path in sorted(RESULTS.glob(f"reacher_hard/{name}/seed*"))]
    if any(path.parent.name != BASE for path in lengths):
        length_figure(lengths, IMAGES / "imag_length.png")
    if run:
        frames = imageio.imread(run / "videos" / "evaluation.mp4")
        strip = frames[np.linspace(0, min(len(frames), 500) - 1, 6).astype(int)]
        imageio.imwrite(IMAGES / "agent.png", np.concatenate(list(strip), axis=1))
        shutil.copy(run / "plots" / "dream.png", IMAGES / "dream.png")


if __name__ == "__main__":
    main()

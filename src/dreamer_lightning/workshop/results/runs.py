"""Reads what is to be compared: run folders, folders of seeds, CSV files of other methods."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_lightning.errors import UserError
from dreamer_lightning.store.metrics import read_rows, series
from dreamer_lightning.store.runfolder import CONFIG, METRICS, class_of, read_config
from dreamer_lightning.types import Size
from dreamer_lightning.workshop.results.curves import LearningCurve, binned
from dreamer_lightning.workshop.results.methods import Method, Scores, Setting
from dreamer_lightning.workshop.results.published import EVALUATION, METHODS, TRAINING, WINDOWS

EPISODE, GREEDY = "episode/score", "eval/greedy_score"
PREFIXES = ("dmc_", "atari_")


@dataclass(frozen=True)
class Series:
    """One seed of one method.

    Args:
        label: the method.
        task: the task.
        seed: its seed.
        setting: what it ran with.
        benchmark: the published curves that it belongs to, or ``none``.
        training: returns of its training episodes (or of whatever a CSV file holds).
        greedy: means of its greedy evaluations.
        last: env steps played.
        seconds: wall-clock.
        together: seeds of this label are one row even where their settings differ.
    """

    label: str
    task: str
    seed: str
    setting: Setting
    benchmark: str
    training: Scores
    greedy: Scores
    last: float
    seconds: float
    together: bool


def load(sources: list[str]) -> list[Series]:
    """Everything that the command line names, in its order.

    Args:
        sources: run folders, folders with runs below them, or CSV files; ``LABEL=PATH`` gives a name.

    Raises:
        UserError: nothing there, or not readable as a run.
    """
    found: list[Series] = []
    for source in sources:
        label, equals, path = source.partition("=")
        named = equals and "/" not in label
        where = Path(path if named else source).expanduser()
        if where.is_file():
            found += read_csv(where, label if named else where.stem)
        elif (where / METRICS).is_file():
            found.append(read_run(where, label if named else None))
        else:
            runs = sorted(path.parent for path in where.rglob(METRICS) if (path.parent / CONFIG).is_file())
            if not runs:
                raise UserError(f"'{source}' holds no run (no {METRICS}); give run folders or CSV files")
            found += [read_run(run, label if named else None) for run in runs]
    return found


def read_run(folder: Path, label: str | None = None) -> Series:
    """One run folder."""
    config = read_config(folder)
    rows = read_rows(folder / METRICS)
    training, greedy, clock = (Scores(*map(np.array, series(rows, name))) for name in (EPISODE, GREEDY, "seconds"))
    env = config.get("env") or {}
    options = env.get("init_args") or {}
    task = str(options.get("task") or options.get("path") or "unknown")
    named = re.fullmatch(r"seed\d+", folder.name) is not None
    name = label or (folder.absolute().parent.name if named else short_name(folder.absolute().name, task))
    return Series(
        name,
        task.rpartition(":")[2],
        str(config.get("seed", "?")),
        setting_of(config),
        benchmark_of(env),
        training,
        greedy,
        float(clock.steps[-1]) if len(clock.steps) else 0.0,
        float(clock.scores.max()) if len(clock.steps) else 0.0,
        together=label is not None or named,
    )


def short_name(folder: str, task: str) -> str:
    """A run's name without task, seed and time: what runs of several seeds share."""
    name = re.sub(r"-s\d+-\d{8}-\d{6}$", "", folder)
    return re.sub(rf"^{re.escape(task)}-", "dreamer ", name)


def benchmark_of(env: dict[str, Any]) -> str:
    """The published curves that an environment belongs to."""
    name, options = str(env.get("class_path", "")).rpartition(".")[2], env.get("init_args") or {}
    if name == "DMC":
        return "dmc_vision" if options.get("pixels") else "dmc_proprio"
    return "atari100k" if name == "Atari" else "none"


def setting_of(config: dict[str, Any]) -> Setting:
    """The columns that a score is never shown without."""
    env = (config.get("env") or {}).get("init_args") or {}
    repeat = str(env.get("repeat", 1))
    if "algo" in config:
        return Setting(repeat, "", "", "1", f"{config['algo']} of {config.get('library', '?')}", TRAINING)
    size = Size(deter=int((config.get("size") or {}).get("deter", 0)))
    ratio = f"{config.get('train_ratio', 0):g}"
    return Setting(repeat, ratio, size.name, str(config.get("num_envs", "?")), version_of(config), TRAINING)


RATE = 4e-5  # learning rate of today's V3


def version_of(config: dict[str, Any]) -> str:
    """V1, V2, V3 or V3-2023, and what of the algorithm differs from today's V3."""
    critic, options = class_of(config.get("actor_critic"))
    match = re.search(r"V(\d)", critic)
    words = [f"V{match[1]}" if match else "V3"]
    if "2023" in critic:
        words = ["V3-2023"]
    gradient = class_of(options.get("gradient"))[0]
    words += [{"Pathwise": "dynamics", "Mix": "mix"}.get(gradient, gradient)] * (gradient not in ("", "ScoreFunction"))
    given = {**options, **class_of(config.get("world_model"))[1]}
    usual = {"imag_last": 0, "imag_length": 15, "value_aware": "latents", "standardize": False}
    words += [f"{name} {given[name]}" for name, value in usual.items() if given.get(name, value) != value]
    rate = class_of(config.get("optimizer"))[1].get("lr", RATE)
    if words[0] == "V3" and rate != RATE:
        words.append(f"lr {rate:g}")
    return " ".join(words)


def read_csv(path: Path, label: str) -> list[Series]:
    """Scores of another method: columns env_steps (or env_step), score, task, and, with several of them, seed.

    Raises:
        UserError: a column is missing, or a cell is no number.
    """
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark before the first name
        reader = csv.DictReader(file)
        names = set(reader.fieldnames or [])
        step = "env_steps" if "env_steps" in names else "env_step"
        if not {step, "score", "task"} <= names:
            raise UserError(f"{path}: needs the columns env_steps, score and task (seed if there are several)")
        for number, row in enumerate(reader, 2):
            task = row["task"] or ""
            for prefix in PREFIXES:
                task = task.removeprefix(prefix)
            try:
                point = float(row[step]), float(row["score"])
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}, line {number}: {error}") from error
            groups.setdefault((task.replace("-", "_"), row.get("seed") or "0"), []).append(point)
    nothing = Scores(np.array([]), np.array([]))
    setting = Setting("", "", "", "", "", "as in the file")
    return [
        Series(label, task, seed, setting, "none", Scores(*np.array(points).T), nothing, max(points)[0], 0.0, True)
        for (task, seed), points in groups.items()
    ]


def rows_of(series: list[Series], benchmark: str, scores: str = "training") -> list[Method]:
    """Seeds of one method on one task become one row.

    Args:
        series: what ``load`` found.
        benchmark: its bins are used.
        scores: ``training`` (episodes of the sampled policy), ``greedy`` (evaluations), or ``both`` in separate rows.
    """
    width = WINDOWS[benchmark].bin
    groups: dict[tuple, list[Series]] = {}
    for one in series:
        groups.setdefault((one.label, one.task, None if one.together else one.setting), []).append(one)
    rows: list[Method] = []
    for members in groups.values():
        if scores in ("training", "both"):
            rows += _row(members, [one.training for one in members], width, greedy=False)
        if scores in ("greedy", "both"):
            rows += _row(members, [one.greedy for one in members], width, greedy=True)
    return _distinct(rows)


def _row(members: list[Series], scores: list[Scores], width: int, greedy: bool) -> list[Method]:
    some = [i for i, episodes in enumerate(scores) if len(episodes.steps)]
    if not some:
        return []
    members, scores = [members[i] for i in some], [scores[i] for i in some]
    setting = members[0].setting
    for one in members[1:]:
        setting = setting.merged(one.setting)
    if greedy:
        setting = setting._replace(scored=EVALUATION)
    return [
        Method(
            members[0].label + (" (greedy)" if greedy else ""),
            members[0].task,
            [_curve(one, episodes, width) for episodes, one in zip(scores, members, strict=True)],
            setting,
            ",".join(one.seed for one in members),
            scores if not greedy else [one.training for one in members],
            [float(episodes.scores[-10:].mean()) for episodes in scores],
            [one.seconds for one in members],
            ours=True,
        )
    ]


def _curve(one: Series, episodes: Scores, width: int) -> LearningCurve:
    """The points of a file are scores already, so that the last one is not the end of a run."""
    curve = binned(*episodes, width, one.last)
    return replace(curve, last=None) if one.together else curve


def _distinct(rows: list[Method]) -> list[Method]:
    """Rows of one label and task that differ in their setting are numbered; none is called like a published method."""
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.label in METHODS:
            row.label = f"{row.label} (here)"
        count = seen[row.label, row.task] = seen.get((row.label, row.task), 0) + 1
        if count > 1:
            row.label = f"{row.label} #{count}"
    return rows

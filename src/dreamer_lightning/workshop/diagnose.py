"""``diagnose``: eight looks at a run's metrics, the range each should lie in, and what to try if it does not."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_lightning.commands.run import Outcome
from dreamer_lightning.errors import UserError
from dreamer_lightning.store.metrics import read_rows, series
from dreamer_lightning.store.runfolder import METRICS, class_of, read_config

ALIKE = 0.1  # spread of returns beside their size, below which no state is worth more than another
MODEL_LOSSES = ("loss/reward", "loss/cont", "loss/dyn", "loss/rep")  # and those of ``loss/recon/``
Metric = dict[str, np.ndarray]  # by name, the values that are there, oldest first


def diagnose(runs: list[str] | None = None) -> Outcome:
    """Look at a run's metrics: eight values, the range each should lie in, and what to try.

    Args:
        runs: run folders.

    Returns:
        Eight lines a run: ok, ! (outside its range), or ? (not measured).

    Raises:
        UserError: not a run folder.
    """
    if not runs:
        raise UserError("diagnose needs a run folder: diagnose RUN")
    texts = [report(Path(run).expanduser()) for run in runs]
    if len(texts) > 1:
        texts = [f"{run}\n{text}" for run, text in zip(runs, texts, strict=True)]
    return Outcome("\n".join(texts))


def closing(folder: Path) -> str:
    """The diagnosis with which a run ends; a file that cannot be read does not fail the run."""
    try:
        return f"diagnosis (diagnose {shlex.quote(str(folder))} repeats it)\n{report(folder)}"
    except Exception as error:  # the run itself is done
        return f"no diagnosis ({type(error).__name__}: {error})"


def report(folder: Path) -> str:
    """Eight lines about a run folder."""
    return "\n".join(finding.line() for finding in findings(folder))


def findings(folder: Path) -> list[Finding]:
    """Look at a run folder.

    Raises:
        UserError: it is no run folder.
    """
    config, metrics = read_config(folder), read_metrics(folder)
    return [judged(look, metrics, config) for look in LOOKS]


def judged(look: Callable[[Metric, dict[str, Any]], Finding], metrics: Metric, config: dict[str, Any]) -> Finding:
    """One look; an option of a class of the user's may be no number, which leaves the others be."""
    try:
        return look(metrics, config)
    except (TypeError, ValueError) as error:
        return Finding(look.__name__.replace("_", " "), f"not measured ({error})", "a number", "", None)


class Finding(NamedTuple):
    """One line; ``wrong`` is None where nothing could be measured."""

    name: str
    value: str
    expected: str
    advice: str
    wrong: bool | None

    def line(self) -> str:
        mark = {None: "?", True: "!", False: "ok"}[self.wrong]
        text = f"{mark:2} {self.name}: {self.value} (expected: {self.expected})"
        return f"{text}; try {self.advice}" if self.wrong else text


def read_metrics(folder: Path) -> Metric:
    """The columns of ``metrics.csv``; ``model``, ``updated`` and ``played`` are of the rows that have losses."""
    rows = read_rows(folder / METRICS)
    found = {name: np.array(series(rows, name)[1]) for name in (rows[0] if rows else ())}
    learned = [row for row in rows if row["loss/total"] is not None] if "loss/total" in found else []
    parts = [name for name in found if name in MODEL_LOSSES or name.startswith("loss/recon/")]
    found["model"] = np.array([sum(row[name] or 0.0 for name in parts) for row in learned])  # type: ignore[misc]
    found["updated"], found["played"] = (np.array(series(learned, name)[1]) for name in ("update", "agent_step"))
    return found


def late(metrics: Metric, name: str) -> float:
    """Mean of the last quarter of a metric; nan if it was never logged."""
    values = metrics.get(name, np.array([]))
    return float(values[-max(1, len(values) // 4) :].mean()) if len(values) else float("nan")


def reward(metrics: Metric, config: dict[str, Any]) -> Finding:
    scores = metrics.get("episode/score", np.array([]))
    seen = int((scores != 0).sum())
    value = f"in {seen} of {len(scores)} episodes" if len(scores) else "no episode has ended yet"
    value += f", last returns {', '.join(f'{score:.4g}' for score in scores[-3:])}" if len(scores) else ""
    advice = "more env steps, more envs (num_envs), a random start (prefill), more entropy (actor_critic.actent)"
    return Finding("reward seen", value, "in some", advice, (seen == 0) if len(scores) else None)


def kl(metrics: Metric, config: dict[str, Any]) -> Finding:
    value, floor = late(metrics, "loss/dyn"), free_nats(config)
    advice = "nothing if openloop/*_error is small; else a lower rssm.free_nats or a lower losses.rep"
    wrong = None if math.isnan(value) else value <= 1.01 * floor
    return Finding("KL of posterior and prior", shown(value, " nats"), f"above the {floor:g} free nats", advice, wrong)


def free_nats(config: dict[str, Any]) -> float:
    return float(((config.get("rssm") or {}).get("init_args") or {}).get("free_nats", 1.0))


def entropy(metrics: Metric, config: dict[str, Any]) -> Finding:
    value = late(metrics, "dream/entropy_norm")
    low = not math.isnan(value) and value < 0.005
    advice = (
        "a larger actor_critic.actent: the policy stopped exploring"
        if low
        else "a smaller actor_critic.actent, or more updates: it acts at random"
    )
    wrong = None if math.isnan(value) else low or value > 0.95
    return Finding("action entropy", shown(value), "0.005 to 0.95 of the possible range", advice, wrong)


def return_scale(metrics: Metric, config: dict[str, Any]) -> Finding:
    value = late(metrics, "dream/return_scale")
    advice = "larger rewards, or a larger discount.horizon: all dreams are worth the same, the actor has no direction"
    wrong = None if math.isnan(value) else value <= 1.0 + 1e-6
    if class_of(config.get("actor_critic"))[0] in ("ActorCriticV1", "ActorCriticV2"):
        return Finding("scale of returns", "not used by V1 and V2", "none", "", None)
    return Finding("scale of returns", shown(value), "above 1, its floor", advice, wrong)


def correlation(metrics: Metric, config: dict[str, Any]) -> Finding:
    values = metrics.get("gap/value_corr", np.array([]))
    value = float(values[-1]) if len(values) else float("nan")
    advice = "more updates (train_ratio), a larger losses.repval: the critic does not know good states from bad ones"
    spread = metrics.get("gap/value_spread", np.array([]))  # runs before 0.2 have none
    name, expected = "correlation of value and return", "above 0.3"
    if len(spread) and spread[-1] < ALIKE:
        told = f"{shown(value)}, but the returns are alike: they spread by {spread[-1]:.1%} of their size"
        return Finding(name, told, f"{expected} where they spread by {ALIKE:.0%}", advice, None)
    wrong = None if math.isnan(value) else value < 0.3
    return Finding(name, shown(value), expected, advice, wrong)


def train_ratio(metrics: Metric, config: dict[str, Any]) -> Finding:
    asked = float(config.get("train_ratio", 0))
    expected, advice = f"{asked:g} asked, within 5%", "a longer run or a smaller learning_starts: updates are missing"
    updated, played = metrics.get("updated", np.array([])), metrics.get("played", np.array([]))
    batch = config.get("batch_size", 16) * config.get("batch_length", 64)
    begins = max(config.get("learning_starts") or batch, config.get("prefill") or 0)
    if not asked:
        return Finding("train ratio", "no updates were asked for", "none", "", None)
    if not len(updated):
        steps = metrics.get("agent_step", np.array([0.0])).max()
        late = bool(steps > 2 * begins + batch)  # windows, environments: it may begin somewhat later than it says
        return Finding("train ratio", f"no update in {steps:.0f} agent steps", expected, advice, late or None)
    updates, steps = updated[-1] - updated[0], played[-1] - played[0]
    if updates < 20 and steps * asked < 20 * batch:
        return Finding("train ratio", "too few rows", expected, advice, None)
    reached = updates * batch / max(1.0, steps)
    slack = 0.05 + 2 * batch / max(1.0, steps * asked)  # up to one update is owed at each end
    return Finding("train ratio", f"{reached:.4g}", expected, advice, bool(abs(reached / asked - 1) > slack))


def dreams(metrics: Metric, config: dict[str, Any]) -> Finding:
    gap, real = (metrics.get(name, np.array([])) for name in ("gap/return", "gap/real_return"))
    advice = "a shorter imag_length, a higher train_ratio, a larger size: dreams and reality pay differently"
    if not len(gap):
        return Finding("dreamed minus real return", "not measured", "within half of the real one", advice, None)
    limit = max(0.5 * real[-1], 0.1)
    value = f"{gap[-1]:.3g} of {real[-1]:.3g}"
    return Finding("dreamed minus real return", value, "within half of the real one", advice, abs(gap[-1]) > limit)


def trend(metrics: Metric, config: dict[str, Any]) -> Finding:
    losses = metrics.get("model", np.array([]))
    expected, advice = "falling or flat", "a lower optimizer.lr; with new rewards or places just found, patience"
    if len(losses) and not np.isfinite(losses).all():
        return Finding(
            "loss of the world model", "not finite", expected, "a lower optimizer.lr, 32-true precision", True
        )
    if len(losses) < 8:
        return Finding("loss of the world model", "too few rows", expected, advice, None)
    quarter = len(losses) // 4
    before, now = losses[quarter : 2 * quarter].mean(), losses[-quarter:].mean()
    value = f"{before:.3g} in the second quarter, {now:.3g} in the last"
    return Finding("loss of the world model", value, expected, advice, bool(now > 1.1 * before))


LOOKS: tuple[Callable[[Metric, dict[str, Any]], Finding], ...] = (
    reward, kl, entropy, return_scale, correlation, train_ratio, dreams, trend,
)  # fmt: skip


def shown(value: float, unit: str = "") -> str:
    return "not measured" if math.isnan(value) else f"{value:.3g}{unit}"

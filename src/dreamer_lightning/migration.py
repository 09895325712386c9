"""What moved: runs, configs and checkpoints of earlier versions are brought to today's form here, and only here."""

from __future__ import annotations

from typing import Any


def loop_state(state: dict[str, Any]) -> dict[str, Any]:
    """The loop's part of a checkpoint; before 0.2 its cadences and its ratio were loose numbers.

    ``cadence`` held the env steps at which the next row and the next evaluation were due, later also that of the last
    evaluation. When the last row was written, each rank kept for itself, as ``logged``.
    """
    if "cadence" not in state:
        return state
    state = dict(state)
    next_row, next_evaluation, *last = state.pop("cadence")
    ratio = {"learning": state.pop("learning"), "owed": state.pop("credit"), "due": state.pop("paying", False)}
    evaluated = last[0] if last else next_evaluation - 1
    return state | {"ratio": ratio, "log_every": {"last": next_row - 1}, "evaluate_every": {"last": evaluated}}

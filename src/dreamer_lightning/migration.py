"""What moved: runs, configs and checkpoints of earlier versions are brought to today's form here, and only here."""

from __future__ import annotations

import copy
from typing import Any

# Options of fit that moved: the old place in a config, and the new one; below a class_path the new one has init_args.
MOVED: dict[str, str] = {}
EPISODES = ("replay.episodes", "replay.prioritize_ends")  # now a class of its own, and an option of that


def moved(option: str) -> str:
    """The name on today's command line of an option that moved, without dashes; empty if it did not."""
    return "replay EpisodeReplay" if option == EPISODES[0] else MOVED.get(option, "").replace(".init_args", "")


def config(values: dict[str, Any]) -> dict[str, Any]:
    """A config of an earlier version as today's options; the same object if nothing in it has moved."""
    found = {old: new for old, new in MOVED.items() if _holder(values, old, make=False)}
    episodes = any(_holder(values, name, make=False) for name in EPISODES)
    if not found and not episodes:
        return values
    values = copy.deepcopy(values)
    if episodes:
        values["replay"] = _replay(values["replay"])
    for old, new in found.items():
        value = _holder(values, old, make=False).pop(old.rpartition(".")[2])
        _holder(values, new, make=True)[new.rpartition(".")[2]] = value
    return values


def _replay(options: dict[str, Any]) -> dict[str, Any]:
    """A replay's options of before 0.2 as a factory: ``episodes`` chose the class, ``prioritize_ends`` went with it."""
    if options.pop("episodes", options.get("prioritize_ends")):
        return {"class_path": "dreamer_lightning.data.EpisodeReplay", "init_args": options}
    options.pop("prioritize_ends", None)
    return options


def _holder(values: dict[str, Any], name: str, make: bool) -> dict[str, Any]:
    """The mapping in which a dotted option lies; if it is not to be made, an empty one where the option is absent."""
    *groups, last = name.split(".")
    for group in groups:
        inner = values.setdefault(group, {}) if make else values.get(group)
        if not isinstance(inner, dict):
            return {}
        values = inner
    return values if make or last in values else {}


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


def replay_state(manifest: dict[str, Any]) -> dict[str, Any]:
    """A replay's state from its own manifest, ``replay-*.json``; since format 2 of checkpoints it lies with its rank.

    The random state was written as hexadecimal digits there.
    """
    import torch

    generator = torch.frombuffer(bytearray.fromhex(manifest["sampler"]["generator"]), dtype=torch.uint8)
    kept = {name: manifest[name] for name in ("streams", "slots", "total", "first", "entries")}
    return {**kept, "queue": manifest["sampler"]["queue"], "generator": generator}

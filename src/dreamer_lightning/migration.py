"""What moved: runs, configs and checkpoints of earlier versions are brought to today's form here, and only here."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from typing import Any

# Options of fit that moved: the old place in a config, and the new one; below a class_path the new one has init_args.
MOVED: dict[str, str] = {
    "gap_alarm": "evaluation.gap_alarm",
    "standardize": "world_model.init_args.standardize",
    "losses.reward_grad": "world_model.init_args.reward_grad",
    "losses.horizon": "discount.horizon",
    "losses.contdisc": "discount.contdisc",
    "imag_length": "actor_critic.init_args.imag_length",
    "imag_last": "actor_critic.init_args.imag_last",
    "value_aware": "actor_critic.init_args.value_aware",
    "actor_gradient": "actor_critic.init_args.gradient",
    "losses.gradient_mix": "actor_critic.init_args.gradient.init_args.share",
    "losses.lam": "actor_critic.init_args.lam",
    "losses.actent": "actor_critic.init_args.actent",
    "losses.entropy_weight": "actor_critic.init_args.entropy_weight",
    "losses.slowreg": "actor_critic.init_args.slowreg",
    "losses.slowtar": "actor_critic.init_args.slowtar",
    "losses.slow_rate": "actor_critic.init_args.slow_rate",
    "losses.slow_every": "actor_critic.init_args.slow_every",
}
# Shipped configs that are no more.
CONFIGS = {"efficient": "is part of dmc.yaml and gym.yaml now: leave it out (faithful.yaml goes back to the papers)"}
# Values that have another name now, by the old place of their option.
VALUES: dict[str, dict[Any, str]] = {
    "actor_gradient": {
        "reinforce": "dreamer_lightning.nets.gradients.ScoreFunction",
        "dynamics": "dreamer_lightning.nets.gradients.Pathwise",
        "mix": "dreamer_lightning.nets.gradients.Mix",
    }
}
# Old places that say nothing where an actor-critic is of this class, which never read them.
_SLOW = ("losses.slowreg", "losses.slowtar", "losses.slow_rate", "losses.slow_every")
UNREAD = {
    "ActorCriticV1": ("value_aware", "actor_gradient", "losses.gradient_mix", "losses.actent", *_SLOW),
    "ActorCriticV2": ("value_aware", "losses.slowreg"),
    "ActorCritic2023": ("value_aware",),
}
# Options that a class no longer has, by the option that names the class, and its name.
GONE = {("env", "DMC"): ("log_info",)}
# V2's preset set the share of a mix beside its gradient, which was another; now the two are one option.
V2_PRESETS, SHARE = {"dreamer_v2", "dreamer_v2.yaml"}, ("--losses.gradient_mix", "0.9")
EPISODES = ("replay.episodes", "replay.prioritize_ends")  # now a class of its own, and an option of that
NOISE, DISTURBED = "collector.noise", "dreamer_lightning.data.Disturbed"  # a number, now a class that explores


def moved(option: str) -> str:
    """The name on today's command line of an option that moved, without dashes; empty if it did not."""
    classes = {EPISODES[0]: "replay EpisodeReplay", NOISE: "collector.explore Disturbed"}
    return classes.get(option) or MOVED.get(option, "").replace(".init_args", "")


def flags(words: Iterable[tuple[str, str | None]]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Options of an earlier version, as typed, as today's; and a line for each that moved.

    Args:
        words: options with their dashes and their values.
    """
    words, notes = list(words), []
    today: list[tuple[str, str | None]] = []
    named = {value for _, value in words}
    if ("--actor_gradient", "mix") in words and V2_PRESETS & named and SHARE[0] not in dict(words):
        words.append(SHARE)
    for option, value in words:
        old = option.removeprefix("--")
        if old in MOVED:
            option, value = f"--{moved(old)}", VALUES.get(old, {}).get(value, value) or "true"
            notes.append(f"--{old} is {option} now")
        if old == NOISE:
            notes.append(f"--{old} is --{moved(old)} now")
            today.append(("--collector.explore", DISTURBED))
            option = "--collector.explore.amount"
        today.append((option, value))
    kinds = [f"--{moved(old)}" for old in VALUES] + ["--collector.explore"]  # a class comes before its options
    return sorted(today, key=lambda word: word[0] not in kinds) if notes else today, notes


def listing(values: dict[str, Any], most: int = 3) -> str:
    """Some of the options of a config that moved, with their new places."""
    found = [f"{old} is {moved(old)} now" for old in MOVED if _holder(values, old, make=False)]
    return ", ".join(found[:most]) + (f", and {len(found) - most} more" if len(found) > most else "")


def config(values: dict[str, Any]) -> dict[str, Any]:
    """A config of an earlier version as today's options; the same object if nothing in it has moved."""
    found = {old: new for old, new in MOVED.items() if _holder(values, old, make=False)}
    gone = [
        f"{part}.init_args.{name}"
        for (part, kind), names in GONE.items()
        if _is(values.get(part), kind)
        for name in names
    ]
    gone = [name for name in gone if _holder(values, name, make=False)]
    episodes = any(_holder(values, name, make=False) for name in EPISODES)
    noise = bool(_holder(values, NOISE, make=False))
    if not found and not gone and not episodes and not noise:
        return values
    values = copy.deepcopy(values)
    if noise:
        values["collector"] = _collector(values["collector"])
    if episodes:
        values["replay"] = _replay(values["replay"])
    for name in gone:
        del _holder(values, name, make=False)[name.rpartition(".")[2]]
    unread = {old for kind, names in UNREAD.items() if _is(values.get("actor_critic"), kind) for old in names}
    if values.get("actor_gradient", "mix") != "mix":
        unread.add("losses.gradient_mix")
    for old, new in found.items():
        value = _holder(values, old, make=False).pop(old.rpartition(".")[2])
        if old not in unread:
            named = VALUES.get(old, {}).get(value, value) if isinstance(value, (str, bool)) else value
            _holder(values, new, make=True)[new.rpartition(".")[2]] = named
    return values


def _replay(options: dict[str, Any]) -> dict[str, Any]:
    """A replay's options of before 0.2 as a factory: ``episodes`` chose the class, ``prioritize_ends`` went with it."""
    if options.pop("episodes", options.get("prioritize_ends")):
        return {"class_path": "dreamer_lightning.data.EpisodeReplay", "init_args": options}
    options.pop("prioritize_ends", None)
    return options


def _collector(options: dict[str, Any]) -> dict[str, Any]:
    """A collector's options of before 0.2, whose ``noise`` was a number, 0 for none."""
    amount = options.pop("noise")
    if amount:
        return options | {"explore": {"class_path": DISTURBED, "init_args": {"amount": amount}}}
    return {"explore": None} | options


def _is(part: Any, kind: str) -> bool:
    """Whether a part of a config names a class of that name."""
    path = part.get("class_path") if isinstance(part, dict) else part
    return str(path).rpartition(".")[2] == kind


def _holder(values: dict[str, Any], name: str, make: bool) -> dict[str, Any]:
    """The mapping in which a dotted option lies; if it is not to be made, an empty one where the option is absent."""
    *groups, last = name.split(".")
    for group in groups:
        inner = values.setdefault(group, {}) if make else values.get(group)
        if make and isinstance(inner, str):  # a class without options
            inner = values[group] = {"class_path": inner}
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


def weights(saved: dict[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The weights of a checkpoint by name, without the slow critic that V1 kept and never read.

    Args:
        saved: weights by name.
        own: names of the agent's.
    """
    slow = "actor_critic.slow_critic."
    if any(name.startswith(slow) for name in own):
        return saved
    return {name: value for name, value in saved.items() if not name.startswith(slow)}

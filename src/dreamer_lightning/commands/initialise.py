"""Start a run from weights that another run, or ``L.Trainer``, has trained: whatever fits is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreamer_lightning import migration
from dreamer_lightning.commands.networks import misfits
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.types import UserError

MODEL_PARTS, AGENT_PARTS = ("encoder", "rssm", "decoder", "reward", "cont"), ("policy", "value")
PARTS = {
    **{name: (f"world_model.{name}.",) for name in MODEL_PARTS},
    **{name: (f"actor_critic.{name}.",) for name in AGENT_PARTS},
    "encoder": ("world_model.encoder.", "world_model.standardize."),  # the scale of what it reads
    "value": ("actor_critic.value.", "actor_critic.slow_critic."),
    "world_model": ("world_model.",),
    "actor_critic": ("actor_critic.",),
}  # names of their tensors begin so


def read_weights(source: str) -> dict[str, Tensor]:
    """The weights of a run folder (newest complete checkpoint), a ``model.pt`` or a Lightning checkpoint, by name.

    Raises:
        UserError: there is nothing to load.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = path if (path / runfolder.MODEL).is_file() else runfolder.latest_complete(path, replay=False)
        if found is None:
            raise UserError(f"--init_from: no complete checkpoint in '{source}'; name a run or a checkpoint file")
        path = found / runfolder.MODEL
    if not path.is_file():
        raise UserError(f"--init_from: no file or run folder '{source}'")
    try:
        state = atomic.load_tensors(path)
    except Exception as error:  # torch raises many kinds for files that are no checkpoints
        raise UserError(f"--init_from: '{source}' is not a checkpoint of plain tensors") from error
    weights = state.get("loop", state)
    weights = weights.get("dreamer", weights.get("state_dict", weights))
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def load_fitting(dreamer: nn.Module, source: str, parts: Sequence[str] | None = None) -> tuple[str, set[str]]:
    """Copy every tensor whose name and shape fit.

    Args:
        dreamer: the agent, changed in place.
        source: see ``read_weights``; a lone ``WorldModel`` or ``ActorCritic`` is recognised by its names.
        parts: those that are loaded, by the names of ``PARTS`` and of further losses; None: all.

    Returns:
        One line: how much of each part was loaded, and what was skipped; and the names of the loaded tensors.

    Raises:
        UserError: nothing fits, or there is no such part.
    """
    weights, own = read_weights(source), dreamer.state_dict()
    for prefix in ("world_model.", "actor_critic."):
        if weights and not any(name in own for name in weights):
            named = {prefix + name: value for name, value in weights.items()}
            weights = named if any(name in own for name in named) else weights
    weights = {name: weights[name] for name in of_parts(dreamer, weights, parts, "init_parts")}
    fits = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    other = {name: value for name, value in weights.items() if name in own and name not in fits}
    if not fits:
        examples = list(other.items())[:2]
        shapes = "; ".join(f"{name} {tuple(v.shape)} there, {tuple(own[name].shape)} here" for name, v in examples)
        raise UserError(f"--init_from: nothing in '{source}' fits these networks ({shapes or 'other names'})")
    dreamer.load_state_dict(fits, strict=False)
    wanted = of_parts(dreamer, own, parts, "init_parts")
    skipped = [f"{name} {tuple(value.shape)}, here {tuple(own[name].shape)}" for name, value in other.items()]
    skipped += [name for name in weights if name not in own]
    text = f"initialised {len(fits)} of {len(wanted)} tensors{' of ' + ', '.join(parts) if parts else ''} from {source}"
    return text + (f", skipped {', '.join(skipped[:5])}{' ...' if len(skipped) > 5 else ''}" if skipped else ""), set(
        fits
    )


def of_parts(dreamer: nn.Module, names: Iterable[str], parts: Sequence[str] | None, option: str) -> list[str]:
    """The names that belong to some parts; None: all names.

    Raises:
        UserError: there is no such part; names those that there are.
    """
    if parts is None:
        return list(names)
    known = PARTS | {name: (f"extra.{name}.",) for name in getattr(dreamer, "extra", {})}
    if wrong := [part for part in parts if part not in known]:
        raise UserError(f"--{option}: no part is called '{wrong[0]}'; there are {', '.join(known)}")
    begins = tuple(begin for part in parts for begin in known[part])
    return [name for name in names if name.startswith(begins)]


def freeze(dreamer: Dreamer, parts: Sequence[str], loaded: set[str] | None) -> tuple[str, list[str]]:
    """Take parts out of training: no gradient reaches them, and the statistics of observations stay what they are.

    Args:
        dreamer: the agent, changed in place.
        parts: by the names of ``PARTS`` and of further losses.
        loaded: names of the tensors that were loaded; what else the parts have is trained. None: nothing was loaded,
            and the parts stay as they were drawn.

    Returns:
        One line: what is frozen, and what of it is trained all the same; and the names of the frozen tensors.

    Raises:
        UserError: there is no such part, or nothing is left to train.
    """
    names = of_parts(dreamer, dreamer.state_dict(), parts, "freeze")
    frozen = [name for name in names if loaded is None or name in loaded]
    anew = [name for name in names if name not in frozen]
    hold(dreamer, frozen)
    text = f"frozen: {len(frozen)} of {len(names)} tensors of {', '.join(parts)}"
    return text + (f"; trained all the same, for want of weights: {', '.join(anew[:5])}" if anew else ""), frozen


def hold(dreamer: Dreamer, frozen: Iterable[str]) -> None:
    """Freeze tensors by name.

    Raises:
        UserError: nothing is left to train.
    """
    frozen = set(frozen)
    for name, parameter in dreamer.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    standardize: Any = dreamer.world_model.standardize
    if standardize is not None and "world_model.standardize.moments" in frozen:
        standardize.fixed = True
    if not any(parameter.requires_grad for parameter in dreamer.parameters()):
        raise UserError("--freeze: nothing is left to train; leave a part out, such as policy")


def hold_again(dreamer: Dreamer, folder: Path) -> None:
    """Freeze what a resumed run has frozen."""
    file = folder / runfolder.FROZEN
    if file.is_file():
        hold(dreamer, json.loads(file.read_text("utf-8")))


def check_shapes(dreamer: Dreamer, checkpoint: Path) -> None:
    """Refuse to resume networks of other shapes than these.

    Raises:
        UserError: names tensors and both shapes.
    """
    wrong = misfits(dreamer, migration.weights(read_weights(str(checkpoint)), dreamer.state_dict()))
    if wrong:
        raise UserError(
            f"--resume: {checkpoint.name} has other shapes ({wrong}); drop the options that change the networks, or "
            "start a new run with --init_from"
        )

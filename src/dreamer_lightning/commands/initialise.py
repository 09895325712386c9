"""Start a run from weights that another run, or ``L.Trainer``, has trained: whatever fits is loaded."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dreamer_lightning import migration
from dreamer_lightning.commands.networks import misfits
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.types import UserError


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


def load_fitting(dreamer: nn.Module, source: str) -> str:
    """Copy every tensor whose name and shape fit.

    Args:
        dreamer: the agent, changed in place.
        source: see ``read_weights``; a lone ``WorldModel`` or ``ActorCritic`` is recognised by its names.

    Returns:
        One line: how much was loaded, and what was skipped.

    Raises:
        UserError: nothing fits.
    """
    weights, own = read_weights(source), dreamer.state_dict()
    for prefix in ("world_model.", "actor_critic."):
        if weights and not any(name in own for name in weights):
            named = {prefix + name: value for name, value in weights.items()}
            weights = named if any(name in own for name in named) else weights
    fits = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    other = {name: value for name, value in weights.items() if name in own and name not in fits}
    if not fits:
        examples = list(other.items())[:2]
        shapes = "; ".join(f"{name} {tuple(v.shape)} there, {tuple(own[name].shape)} here" for name, v in examples)
        raise UserError(f"--init_from: nothing in '{source}' fits these networks ({shapes or 'other names'})")
    dreamer.load_state_dict(fits, strict=False)
    skipped = [f"{name} {tuple(value.shape)}" for name, value in other.items()]
    skipped += [name for name in weights if name not in own]
    text = f"initialised {len(fits)} of {len(own)} tensors from {source}"
    return text + (f", skipped {', '.join(skipped[:5])}{' ...' if len(skipped) > 5 else ''}" if skipped else "")


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

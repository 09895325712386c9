"""What a sweep varies: options with lists or ranges, read from one text and drawn by Optuna."""

from __future__ import annotations

import re
from itertools import product
from typing import Any, NamedTuple

from dreamer_lightning.types import UserError

NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
EXAMPLE = '--vary "train_ratio=32,64 optimizer.lr=1e-5..1e-3:log"'


class Dial(NamedTuple):
    """One option that a sweep varies.

    Args:
        option: of fit, without dashes.
        values: as typed; of a range its two ends.
        ranged: anything between the ends, which are both in it.
        log: drawn evenly in the logarithm.
    """

    option: str
    values: tuple[str, ...]
    ranged: bool = False
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether both ends of a range are whole numbers, and so all that is drawn."""
        return all(re.fullmatch(r"[-+]?\d+", value) for value in self.values)

    def draw(self, trial: Any) -> str:
        """A value that an Optuna trial suggests, as typed."""
        if not self.ranged:
            return str(trial.suggest_categorical(self.option, list(self.values)))
        if self.whole:
            return str(trial.suggest_int(self.option, int(self.values[0]), int(self.values[1]), log=self.log))
        return repr(trial.suggest_float(self.option, float(self.values[0]), float(self.values[1]), log=self.log))


def read_space(text: str) -> list[Dial]:
    """The options that ``train_ratio=32,64 optimizer.lr=1e-5..1e-3:log`` names.

    Commas within brackets and braces belong to a value.

    Raises:
        UserError: not such a text, an option twice, or one that the sweep itself sets.
    """
    dials = [read_dial(word) for word in text.split()]
    names = [dial.option for dial in dials]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--vary: {name} is there twice; list its values once, joined by commas")
        if name in ("seed", "run_dir", "resume"):
            raise UserError(f"--vary: a sweep sets {name} itself" + "; list the seeds in --seeds" * (name == "seed"))
    return dials


def read_dial(word: str) -> Dial:
    """One option with its values."""
    option, equals, text = word.removeprefix("--").partition("=")
    if not (option and equals and text):
        raise UserError(f"--vary: expected OPTION=VALUES, got '{word}'; for example {EXAMPLE}")
    found = re.fullmatch(rf"({NUMBER})\.\.({NUMBER})(:log)?", text)
    if not found:
        values = tuple(re.split(r",(?![^\[{]*[\]}])", text))
        if not all(values) or len(set(values)) < len(values):
            raise UserError(f"--vary: {option} has an empty value, or one twice: '{text}'")
        return Dial(option, values)
    low, high, log = float(found[1]), float(found[2]), bool(found[3])
    if low >= high or (log and low <= 0):
        raise UserError(f"--vary: {option} needs a smaller and a larger end" + ", both above 0 for log" * log)
    return Dial(option, (found[1], found[2]), ranged=True, log=log)


def grid(dials: list[Dial]) -> list[dict[str, str]]:
    """Every combination of the lists, the last option changing fastest.

    Raises:
        UserError: one of them is a range.
    """
    for dial in dials:
        if dial.ranged:
            raise UserError(f"--vary: a grid needs a list for {dial.option}; a range is for --method random or tpe")
    names = [dial.option for dial in dials]
    return [dict(zip(names, values, strict=True)) for values in product(*(dial.values for dial in dials))]

"""How annotations are checked while tests run: an int is a float, and ranges are the command line's business."""

import beartype
from jsonargparse import typing

RANGES = {
    **dict.fromkeys((typing.PositiveInt, typing.NonNegativeInt), int),
    **dict.fromkeys((typing.PositiveFloat, typing.NonNegativeFloat), float | int),
    **dict.fromkeys((typing.OpenUnitInterval, typing.ClosedUnitInterval), float | int),
}
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, hint_overrides=beartype.FrozenDict(RANGES)))

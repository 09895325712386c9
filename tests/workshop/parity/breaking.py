"""Runs single groups of the parity checks, to show that a known mistake is found."""

from dreamer_lightning.workshop.parity.record import Vectors
from dreamer_lightning.workshop.parity.run import FILES
from golden import DATA


def wrong(file: str, *groups: str) -> set[str]:
    """Keys of the arrays that do not hold in these groups of a file (``losses``, ``imag_cont``, ...)."""
    vectors = Vectors.load(DATA / f"{file}.npz")
    ran = [job() for label, job in FILES[vectors.name](vectors) if label in groups]
    assert len(ran) == len(groups), f"{file} has not all of {groups}"
    assert vectors.checks
    return {check.key for check in vectors.checks if not check.ok}


def with_options(cls: type, **options):
    """An ``__init__`` of ``cls`` that overrides these options."""
    original = cls.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **{**kwargs, **options})

    return init


def made_with(cls: type, **options):
    """A maker of ``cls`` that overrides these options."""
    return lambda *args, **kwargs: cls(*args, **{**kwargs, **options})

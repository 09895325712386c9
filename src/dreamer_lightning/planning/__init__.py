"""Planning in latents: candidate plans are dreamed, and the best first action is played."""

from dreamer_lightning.planning.acting import Lookahead
from dreamer_lightning.planning.climb import GradientPlanner
from dreamer_lightning.planning.explore import Planned
from dreamer_lightning.planning.foresight import Plan, Planner, foresee
from dreamer_lightning.planning.sampling import CEM, MPPI, Shooting
from dreamer_lightning.types import UserError

SHORT = {"shooting": Shooting, "cem": CEM, "mppi": MPPI, "gradient": GradientPlanner}


def named(planner: Planner | str) -> Planner:
    """The planner itself, or the one of a short name with its defaults.

    Raises:
        UserError: there is none of that name.
    """
    if isinstance(planner, Planner):
        return planner
    if planner not in SHORT:
        raise UserError(f"planner: {planner!r} is none of {', '.join(SHORT)}, nor a class by its path")
    return SHORT[planner]()


__all__ = [
    "CEM",
    "MPPI",
    "SHORT",
    "GradientPlanner",
    "Lookahead",
    "Plan",
    "Planned",
    "Planner",
    "Shooting",
    "foresee",
    "named",
]

"""The commands, as records: the command line knows no other names.

A package of yours adds one by an entry point of the group ``dreamer_lightning.commands`` that leads to a ``Command``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from dreamer_lightning.errors import UserError
from dreamer_lightning.explain import nearest

GROUP = "dreamer_lightning.commands"
EXAMPLES = """examples:
  dreamer-lightning fit quickstart.yaml
  dreamer-lightning fit dmc.yaml size/12m.yaml --env.task cheetah_run --seed 3
  dreamer-lightning evaluate runs/NAME --episodes 10"""


@dataclass(frozen=True)
class Command:
    """A command: a function whose signature is its command line and whose docstring is its help.

    Args:
        name: as typed.
        help: one line for the list of commands.
        target: ``module:function``, imported when the command runs.
        words: the parameter that words without an option fill; if it is a list, it takes all of them.
        rest: the parameter, a list, that takes everything that is not among the function's own options, as typed.
        takes: another command whose options it takes too; its function gets them as one dict, ``options``.
        configs: the configs that it starts from when none is named; empty: one must be named; None: it takes none.
        resumes: whether it can go on with a run.
        names_env: whether a word that is no config names an environment: an id of gymnasium's, or module:Class.
    """

    name: str
    help: str
    target: str
    words: str = ""
    rest: str = ""
    takes: str = ""
    configs: tuple[str, ...] | None = None
    resumes: bool = False
    names_env: bool = False


_HERE = "dreamer_lightning.commands"
_SHOP = "dreamer_lightning.workshop"
_EXPORT = "dreamer_lightning.export.command:export"
_RECORD = "dreamer_lightning.offline.command:record"
_DEMO = "dreamer_lightning.demo.command:demo"
_REPORT = f"{_SHOP}.report.command:report"
_OWN = (
    Command("fit", "train an agent, or go on with a run (--resume DIR)", f"{_HERE}.fit:fit", configs=(), resumes=True),
    Command(
        "evaluate",
        "play episodes with a trained agent: table, video, evaluation.json",
        f"{_HERE}.evaluate:evaluate",
        words="run",
    ),
    Command("dream", "imagine from a trained agent's world model, beside reality", f"{_HERE}.dream:dream", words="run"),
    Command("demo", "watch an agent and its dreams in the browser, and take the controls", _DEMO, words="run"),
    Command("export", "write a trained agent's acting step to a file of its own (ONNX, torch)", _EXPORT, words="run"),
    Command(
        "check-env",
        "play an environment against what training asks of it: CONFIG, ID or module:Class",
        f"{_HERE}.check_env:check_env",
        takes="fit",
        configs=(),
        names_env=True,
    ),
    Command("record", "write a run's replay, or its agent's play, as a Minari data set", _RECORD, words="run"),
    Command("agents", "list the trained agents that come with the package", f"{_HERE}.agents:agents"),
    Command(
        "parity",
        "compare every number with recordings of the reference implementation",
        f"{_SHOP}.parity.command:parity",
        words="folder",
    ),
    Command(
        "compare",
        "show runs beside published learning curves: tables, figure, CSV",
        f"{_SHOP}.compare:compare",
        words="runs",
    ),
    Command(
        "diagnose",
        "look at a run's metrics: values, expected ranges, what to try",
        f"{_SHOP}.diagnose:diagnose",
        words="runs",
    ),
    Command("report", "tell a run's story in one page of HTML that opens from disk", _REPORT, words="run"),
    Command(
        "yardstick",
        "train PPO, SAC, DQN or MBPO by stable-baselines3 on the same environment",
        f"{_SHOP}.yardstick:yardstick",
        takes="fit",
        configs=(),
    ),
    Command(
        "sweep",
        "run fit for several seeds (--seeds 0,1,2) and settings (--vary), and the options of fit",
        f"{_SHOP}.sweep:sweep",
        rest="fit",
    ),
    Command(
        "bench",
        "measure how fast this machine trains, and where the time goes",
        f"{_SHOP}.bench.command:bench",
        takes="fit",
        configs=("dmc.yaml", "faithful.yaml", "size/1m.yaml"),
        resumes=True,
    ),
)
COMMANDS = {command.name: command for command in _OWN}


def find(name: str) -> Command:
    """The command of a name.

    Raises:
        UserError: there is none, or another package's cannot be loaded.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    added = others()
    if name not in added:
        names = [*COMMANDS, *added]
        raise UserError(f"unknown command '{name}'{nearest(name, names)}; one of {', '.join(names)}")
    return loaded(added[name])


def others() -> dict[str, EntryPoint]:
    """Entry points of commands that other packages add; a name of the package's own stays its own."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in COMMANDS}


def loaded(point: EntryPoint) -> Command:
    """The command that an entry point leads to.

    Raises:
        UserError: it cannot be imported, or is something else.
    """
    try:
        command = point.load()
    except Exception as error:  # whatever someone else's package does when it is imported
        raise UserError(f"command {point.name}: {point.value} cannot be imported: {error}") from error
    if not isinstance(command, Command):
        raise UserError(f"command {point.name}: {point.value} is a {type(command).__name__}, no Command")
    return command

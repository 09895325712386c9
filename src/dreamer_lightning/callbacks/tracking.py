"""Weights & Biases, through Lightning's logger: the only file that imports wandb."""

from __future__ import annotations

import netrc
import os
import re
import secrets
import shlex
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.parse import urlsplit

from torch import Tensor

from dreamer_lightning.callbacks.base import Callback, LoopView, say, warn
from dreamer_lightning.store import package, runfolder
from dreamer_lightning.store.runfolder import SECRET

AXES = ("env_step", "agent_step", "update")
BEST = ("episode/score", "eval/greedy_score", "eval/sampled_score")
Mode = Literal["auto", "online", "offline", "disabled"]


class Tracking(Callback):
    """Sends every row, the config, videos and pictures to W&B; on a machine without a login it writes them to disk.

    ``env_step`` is the x axis of everything, ``agent_step`` and ``update`` can be selected. The summary holds the last
    value of every metric and ``best/<name>`` of the scores. A resumed run goes on under the same id.

    What an evaluation measured by steps dreamed (``openloop/reward_error@15``) is one chart, ``openloop/horizon``, and
    its numbers have no panels of their own. The agent is an artifact of the type ``agent``, which ``Agent.load`` reads.

    Args:
        mode: auto is online when logged in, else offline; the variable WANDB_MODE wins over this option.
        project: W&B project.
        entity: user or team, None for the default one.
        name: run name, None for task, size, settings and seed (walker_walk-1m-dmc-imag_last=16-s0).
        group: group of runs, None for the same without the seed.
        tags: added to task, version and size.
        task: name of the task.
        size: name of the size, such as 1m.
        settings: what it learns by, in short, such as ``dmc-imag_last=16``.
        seed: seed of the run.
        config: the resolved config; entries that look like keys or passwords are left out.
    """

    def __init__(
        self,
        mode: Mode = "auto",
        project: str = "dreamer-lightning",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        task: str = "",
        size: str = "",
        settings: str = "",
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ):
        from dreamer_lightning import __version__

        parts = [part for part in (task, size, settings) if part]
        self.mode, self.project, self.entity = mode, project, entity
        self.name = name or "-".join([*parts, f"s{seed}"])
        self.group = group or "-".join(parts) or None
        self.tags = [tag for tag in (task, f"v{__version__}", size, *(tags or [])) if tag]
        self.config = without_secrets(config or {})
        self.id = secrets.token_hex(4)
        self.best: dict[str, float] = {}
        self.logger: Any = None
        self.offline = False
        self.hidden: set[str] = set()

    def on_fit_start(self, loop: LoopView) -> None:
        mode = resolve_mode(self.mode)
        if mode == "disabled" or not loop.fabric.is_global_zero:
            return
        after = {"online": "writing offline", "offline": "going on without it"}
        for attempt in (mode, "offline")[: 2 if mode == "online" else 1]:
            try:
                self._open(Path(loop.run_dir), attempt)
                return
            except Exception as error:  # no network, a key that is refused, a server that is down, a full disk
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                warn(f"wandb does not start {attempt} ({reason}); {after[attempt]}")

    def _open(self, run_dir: Path, mode: Any) -> None:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name,
            group=self.group,
            tags=self.tags,
            id=self.id,
            resume="allow" if mode != "offline" else None,
            dir=str(run_dir),
            mode=mode,
            settings=wandb.Settings(console="off", silent=True, save_code=False, init_timeout=60),
        )
        self.offline = mode == "offline"
        self.logger = WandbLogger(experiment=run, project=self.project, save_dir=str(run_dir), name=self.name)
        for axis in AXES:
            run.define_metric(axis, hidden=axis != "env_step")
        run.define_metric("*", step_metric="env_step", step_sync=True)
        self.logger.log_hyperparams(self.config)

    def on_log(self, row: dict[str, Any]) -> None:
        if self.logger is None:
            return
        row = {k: v.item() if isinstance(v, Tensor) else v for k, v in row.items() if v is not None}
        self._guard(self._log, row)
        better = {k: row[k] for k in BEST if k in row and row[k] > self.best.get(k, float("-inf"))}
        if better:
            self.best |= better
            self._guard(self.logger.experiment.summary.update, {f"best/{k}": v for k, v in better.items()})

    def _log(self, row: dict[str, Any]) -> None:
        by_steps = [name for name in row if "@" in name]
        for name in [name for name in by_steps if name not in self.hidden]:
            self.hidden.add(name)
            self.logger.experiment.define_metric(name, step_metric="env_step", hidden=True)
        self.logger.log_metrics(row | horizons({name: row[name] for name in by_steps}))

    def on_media(self, loop: LoopView, name: str, path: Path) -> None:
        """Upload one file: mp4 and gif as video, png as picture."""
        if self.logger is None:
            return
        import wandb

        kind: Any = wandb.Video if path.suffix in (".mp4", ".gif") else wandb.Image
        options: dict[str, Any] = {"format": path.suffix[1:]} if kind is wandb.Video else {}
        media = kind(str(path), **options)
        clocks = {axis: int(getattr(loop.clocks, axis)) for axis in AXES}
        self._guard(self.logger.log_metrics, {name: media, **clocks})

    def _keep_agent(self, loop: LoopView) -> None:
        """The agent as ``Agent.save`` writes it, an artifact of the run; its config goes whole or not at all."""
        import wandb

        config = runfolder.read_config(Path(loop.run_dir)) if runfolder.is_run(Path(loop.run_dir)) else {}
        if without_secrets(config) != config:
            warn("wandb does not get the agent: its config has entries that look like keys or passwords")
            return
        clocks = {axis: int(getattr(loop.clocks, axis)) for axis in AXES}
        name = re.sub(r"[^\w.-]", "_", self.name)[:120]
        artifact = wandb.Artifact(name, type="agent", metadata={**clocks, **self.best})
        with TemporaryDirectory() as folder:
            package.save(Path(folder), loop.dreamer, clocks, Path(loop.run_dir))
            artifact.add_dir(folder)
        self.logger.experiment.log_artifact(artifact)

    def _guard(self, function, *args) -> None:
        """Tracking never stops training: the first failure is told, and ends tracking."""
        try:
            function(*args)
        except Exception as error:
            warn(f"wandb stopped ({type(error).__name__}: {error}); training goes on without it")
            self.logger = None

    def on_exception(self) -> None:
        self._finish(1)

    def on_fit_end(self, loop: LoopView) -> None:
        if self.logger is not None:
            self._guard(self._keep_agent, loop)
        folder = self._finish(0)
        if folder is not None and self.offline:
            others = sorted(folder.parent.glob(f"offline-run-*-{self.id}"))
            say(loop, "wandb sync " + shlex.join(str(path) for path in others or [folder]))

    def _finish(self, code: int) -> Path | None:
        if self.logger is None:
            return None
        run, self.logger = self.logger.experiment, None
        folder = Path(run.settings.sync_dir)
        try:
            run.finish(exit_code=code)
        except Exception as error:  # the run itself is saved
            line = shlex.join(["wandb", "sync", str(folder)])
            warn(f"wandb did not finish ({type(error).__name__}: {error}); {line} sends what is there")
        return folder

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.id, "best": dict(self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.id, self.best = state["id"], dict(state["best"])


def horizons(values: dict[str, float]) -> dict[str, Any]:
    """One chart for each section of metrics by steps dreamed, a line for each metric.

    Args:
        values: by name, such as ``gap/return@15``.
    """
    import wandb

    sections: dict[str, dict[str, dict[int, float]]] = {}
    for name, value in values.items():
        section, _, metric = name.partition("/")
        metric, _, steps = metric.partition("@")
        sections.setdefault(section, {}).setdefault(metric, {})[int(steps)] = value
    charts = {}
    for section, lines in sections.items():
        xs = [sorted(line) for line in lines.values()]
        ys = [[line[x] for x in sorted(line)] for line in lines.values()]
        charts[f"{section}/horizon"] = wandb.plot.line_series(
            xs, ys, keys=list(lines), title=f"{section} by steps dreamed", xname="steps dreamed"
        )
    return charts


def resolve_mode(mode: Mode) -> str:
    """online, offline or disabled: WANDB_MODE, then the option, then whether there is a login."""
    asked = os.environ.get("WANDB_MODE") or mode
    asked = {"dryrun": "offline", "run": "online"}.get(asked, asked)
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "disabled"
    if asked == "disabled" or asked == "offline":
        return asked
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Whether an API key is at hand (environment or netrc); asks nobody, neither the user nor the network."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    path = Path(os.environ.get("NETRC") or next((p for p in map(_home, (".netrc", "_netrc")) if p.exists()), ""))
    try:
        entries = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return False
    return any(entries.hosts.get(host) for host in _hosts())


def _home(name: str) -> Path:
    return Path("~").expanduser() / name


def _hosts() -> set[str]:
    """Host names under which a key for the W&B server may be filed."""
    import wandb

    urls = {"https://api.wandb.ai", wandb.Settings().base_url, os.environ.get("WANDB_BASE_URL", "")}
    settings = ConfigParser()
    try:
        settings.read([_home(".config/wandb/settings"), Path("wandb/settings")])
        urls.add(settings.get("default", "base_url", fallback=""))
    except ConfigError:
        pass
    return {host for url in urls if url and (host := urlsplit(url).netloc)}


def without_secrets(config: Any) -> Any:
    """A copy of nested dicts and lists without entries whose names look like keys or passwords."""
    if isinstance(config, dict):
        return {str(k): without_secrets(v) for k, v in config.items() if not SECRET.search(str(k))}
    if isinstance(config, list | tuple):
        return [without_secrets(value) for value in config]
    if isinstance(config, str):
        known = [v for k, v in os.environ.items() if SECRET.search(k) and len(v) > 7]
        return "(removed)" if any(value in config for value in known) else config
    return config if isinstance(config, int | float | bool | None) else str(config)

"""Sets of recorded episodes by name: Minari's, and the replay that another run has saved."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from gymnasium import spaces

from dreamer_lightning.errors import UserError
from dreamer_lightning.offline.tables import Table, read_episode, spaces_of
from dreamer_lightning.store import runfolder
from dreamer_lightning.store.checkpoint import saved_replay
from dreamer_lightning.store.replay_files import saved_episodes
from dreamer_lightning.types import OBS, PREV_ACTION, Specs

MINARI = "minari:"


class EpisodeSet(ABC):
    """Recorded episodes.

    Args:
        source: as the user names it.
    """

    def __init__(self, source: str):
        self.source = source

    @abstractmethod
    def spaces(self) -> tuple[spaces.Space, spaces.Space]:
        """Gymnasium's spaces of observations and actions."""

    @abstractmethod
    def tables(self, specs: Specs) -> Iterator[Table]:
        """The records of each episode.

        Raises:
            UserError: they have other observations or actions than these.
        """


class MinariSet(EpisodeSet):
    """A data set of Minari: on this machine by name, or by the folder that holds it."""

    @cached_property
    def data(self) -> Any:
        name = self.source.removeprefix(MINARI)
        library = minari()
        folder = Path(name).expanduser()
        try:
            if (folder / "data").is_dir() or (folder / "metadata.json").is_file():
                return library.MinariDataset(folder / "data" if (folder / "data").is_dir() else folder)
            return library.load_dataset(name)
        except FileNotFoundError:
            known = ", ".join(library.list_local_datasets()) or "none"
            raise UserError(
                f"--data: no Minari data set '{name}' on this machine ({known}); minari download {name} fetches it"
            ) from None
        except ValueError as error:
            raise UserError(f"--data: {error}") from error

    def spaces(self) -> tuple[spaces.Space, spaces.Space]:
        return self.data.observation_space, self.data.action_space

    def tables(self, specs: Specs) -> Iterator[Table]:
        for episode in self.data.iterate_episodes():
            try:
                yield read_episode(specs, self.data.action_space, episode)
            except UserError as error:
                raise UserError(f"--data: {self.source}: {error}") from error


class RunSet(EpisodeSet):
    """The replay in a run's newest checkpoint; an episode whose beginning was overwritten begins where it is left."""

    @cached_property
    def folder(self) -> Path:
        return Path(self.source).expanduser()

    @cached_property
    def specs(self) -> Specs:
        try:
            return Specs.from_dict(json.loads((self.folder / runfolder.SPECS).read_text("utf-8")))
        except FileNotFoundError:
            raise UserError(f"--data: '{self.source}' is no run folder with {runfolder.SPECS}") from None

    def spaces(self) -> tuple[spaces.Space, spaces.Space]:
        return spaces_of(self.specs)

    def tables(self, specs: Specs) -> Iterator[Table]:
        checkpoint = runfolder.latest_complete(self.folder)
        shards = saved_replay(checkpoint) if checkpoint else []
        if not any(shard.files for shard in shards):
            raise UserError(f"--data: '{self.source}' holds no checkpoint with a replay (checkpoint.replay)")
        for rows in saved_episodes(shards):
            for name, one in specs.obs.items():
                found = rows.get((OBS, name))
                if found is None or tuple(found.shape[1:]) != one.shape:
                    there = "missing" if found is None else tuple(found.shape[1:])
                    raise UserError(f"--data: {self.source}: observation {name} is {there} there, {one.shape} here")
            if rows[PREV_ACTION].shape[1] != specs.action_dim or self.specs.action != specs.action:
                raise UserError(f"--data: {self.source}: actions are {self.specs.action} there, {specs.action} here")
            yield {key: value for key, value in rows.items() if key[0] != OBS or key[1] in specs.obs}


def open_set(source: str) -> EpisodeSet:
    """The set of a name: ``minari:NAME``, a folder that Minari wrote, or a run folder.

    Raises:
        UserError: there is no such folder.
    """
    if source.startswith(MINARI):
        return MinariSet(source)
    folder = Path(source).expanduser()
    if (folder / "data").is_dir() or (folder / "metadata.json").is_file():
        return MinariSet(source)
    if not folder.is_dir():
        raise UserError(f"--data: no folder '{source}'; name a run, or a Minari data set as minari:NAME")
    return RunSet(source)


def minari() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import h5py  # noqa: F401 (its files)
        import minari as library
    except ImportError as error:
        raise UserError(f'Minari: {error.name} is not installed; pip install ".[minari]"') from error
    return library

"""Write a run's replay, or its agent's play, as a data set of Minari."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from dreamer_lightning.agent import Agent
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.evaluation.rollout import Episode, device_of, own_randomness, rollout
from dreamer_lightning.offline.sets import MINARI, RunSet, minari
from dreamer_lightning.offline.tables import Table, spaces_of, table, write_episode
from dreamer_lightning.types import REWARD, Specs, UserError

LONGEST = 30_000  # agent steps after which an endless episode is cut


def record(
    run: str,
    out: str | None = None,
    episodes: int = 0,
    checkpoint: Literal["latest", "best"] = "latest",
    greedy: bool = False,
    seed: int = 1,
) -> str:
    """Write a run's replay, or episodes that its agent plays, as a Minari data set, which fit --data reads.

    Args:
        run: run folder; to play, also the name of an agent that comes with the package.
        out: name of the data set, such as cartpole/played-v0; None: dreamer/RUN-v0.
        episodes: episodes that the agent plays; 0: those in the replay of the newest checkpoint.
        checkpoint: which agent plays, the newest or the one with the best evaluation.
        greedy: play the most likely action instead of a draw.
        seed: of the environments and draws.

    Raises:
        UserError: not a run folder, no replay in it, a data set of that name exists, or Minari is not installed.
    """
    library = minari()
    if episodes:
        agent = Agent.load(run, checkpoint, seed=seed)
        specs, tables = agent.specs, played(agent, episodes, greedy, seed)
    else:
        kept = RunSet(run)
        specs, tables = kept.specs, kept.tables(kept.specs)
    name = out or f"dreamer/{re.sub(r'[^-0-9A-Za-z_]', '-', Path(run).name)}-v0"
    observed, acted = spaces_of(specs)
    buffers = (library.data_collector.EpisodeBuffer(**write_episode(specs, rows)) for rows in tables if _moves(rows))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it wants an author and an address
            data = library.create_dataset_from_buffers(
                name,
                buffers,
                observation_space=observed,
                action_space=acted,
                algorithm_name="Dreamer",
                description="recorded by dreamer-lightning",
                jpeg_encoding=False,  # pictures stay what they are
            )
    except ValueError as error:
        raise UserError(f"--out: {' '.join(str(error).split())}") from error
    return f"wrote {MINARI}{name}: {data.total_episodes} episodes, {data.total_steps} steps"


def _moves(rows: Table) -> bool:
    return len(rows[REWARD]) > 1


def played(agent: Agent, episodes: int, greedy: bool, seed: int) -> Iterator[Table]:
    """The records of episodes that an agent plays."""
    factory, generator = agent.env_factory, torch.Generator(device_of(agent.dreamer)).manual_seed(seed)
    factory.prepare()
    with own_randomness():
        env = make_batched(factory, min(episodes, 8), seed)
        try:
            done = rollout(agent.dreamer, env, episodes, greedy, generator, keep=LONGEST + 1, max_length=LONGEST)
        finally:
            env.close()
    for episode in done:
        yield as_table(agent.specs, episode)


def as_table(specs: Specs, episode: Episode) -> Table:
    """The records of a played episode."""
    action = torch.from_numpy(episode.action)
    prev_action = torch.cat([torch.zeros_like(action[:1]), action])
    obs = {name: torch.from_numpy(episode.obs[name]) for name in specs.obs}
    return table(obs, prev_action, torch.from_numpy(episode.reward), episode.terminated)

"""Imagine from a trained agent's world model, beside reality."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from dreamer_lightning.agent import Agent
from dreamer_lightning.commands.fan import Witness, fan, fan_figure, fan_strip
from dreamer_lightning.commands.outputs import place
from dreamer_lightning.commands.tables import metric_table, render
from dreamer_lightning.evaluation.evaluator import EVALUATION_SEED, Evaluator, compare
from dreamer_lightning.evaluation.openloop import OpenLoop, open_loop
from dreamer_lightning.evaluation.pictures import (
    dream_figure,
    dream_video,
    film_strip,
    image_keys,
    save_figure,
    write_video,
)
from dreamer_lightning.evaluation.rollout import Episode, own_randomness, rollout
from dreamer_lightning.planning import Planner, named
from dreamer_lightning.store.runfolder import PLOTS, VIDEOS
from dreamer_lightning.types import UserError


def dream(
    run: str,
    samples: int = 8,
    length: int = 50,
    context: int = 5,
    start: int = 0,
    episodes: int = 4,
    checkpoint: Literal["latest", "best"] = "latest",
    seed: int = 1,
    device: str | None = None,
    planner: Planner | str | None = None,
    out: str | None = None,
) -> str:
    """Imagine from a trained agent's world model, beside reality: videos for images, plots for vectors, in DIR.

    With a planner, the futures that it considered at one moment, the one that it chose, and what then happened.

    Args:
        run: run folder, or the name of an agent that comes with the package.
        samples: futures drawn from the same moment.
        length: agent steps dreamed; past the episode's end the policy acts and the truth is missing.
        context: agent steps that the model sees before it dreams.
        start: agent step of the episode at which it begins to look.
        episodes: real episodes played for the pictures and the error table.
        checkpoint: the newest one, or the one with the best evaluation.
        seed: of the environments and draws.
        device: where it computes; None: the GPU if there is one.
        planner: plays in place of the policy, and is looked at: shooting, cem, mppi, gradient, or a class by its path
            with options below it, such as --planner MPPI --planner.horizon 15.
        out: folder for what is drawn; None: the run folder.

    Returns:
        The report: errors by steps dreamed, and the files written.

    Raises:
        UserError: not a run folder, no complete checkpoint, or nothing to dream.
    """
    for name, value in (("samples", samples), ("length", length), ("context", context), ("episodes", episodes)):
        if value < 1:
            raise UserError(f"--{name}: {value} is too small; give 1 or more")
    agent = Agent.load(run, checkpoint, device, seed)
    folder, unwritten = place(run, out)
    if planner is not None:
        return render(*(write_fan(agent, named(planner), start, context, seed, folder) if folder else [unwritten]))
    with own_randomness():
        generator = torch.Generator(agent.dreamer.device).manual_seed(seed)
        evaluator = Evaluator(agent.env_factory, episodes, seed + EVALUATION_SEED)
        played = evaluator.play(agent.dreamer, generator, greedy=False)
        longest = max(episode.kept for episode in played)
        if start < 0 or start >= longest:
            raise UserError(f"--start: step {start} lies outside the episode ({longest - 1} steps); give 0 or more")
        reached = [episode for episode in played if start < episode.kept - 1] or played[:1]
        errors = compare(agent.dreamer, played, 128, generator)
        futures = open_loop(agent.dreamer, reached[0], start, context, length, samples, generator)
        lines = write_pictures(agent, futures, reached, length, generator, folder) if folder else [unwritten]
    table = metric_table({name: value for name, value in errors.items() if name.startswith("openloop/")})
    return render(table, *lines)


def write_pictures(
    agent: Agent, futures: OpenLoop, episodes: list[Episode], length: int, generator: torch.Generator, folder: Path
) -> list[str]:
    """Plots and videos of the futures, and a video with one dream of each episode; a line for each."""
    start, context = futures.start, futures.context
    samples = len(futures.dream["reward"])
    title = f"{agent.env_factory.name}: {samples} futures of {length} steps, after {context} seen (green)"
    figure = dream_figure(agent.specs, futures, title)
    lines = [f"wrote {save_figure(folder / PLOTS / 'dream.png', figure)}"]
    keys = image_keys(agent.specs, futures)
    if not futures.decoded:
        lines.append("no picture of what is seen: the decoder decodes nothing (decoder.keys); rewards and values stay")
    if not keys:
        return lines
    fitting = [e for e in episodes if start + context <= e.kept]
    each = [open_loop(agent.dreamer, e, start, context, length, 1, generator) for e in fitting]
    for key in keys:
        name = key.replace("/", "_")
        for kind, dreams in (("futures", [futures]), ("episodes", each)):
            video = dream_video(dreams, key)
            lines.append(f"wrote {write_video(folder / VIDEOS / f'dream_{name}_{kind}.mp4', video)}")
        strip = save_figure(folder / PLOTS / f"dream_{name}.png", film_strip(each[0], key))
        lines.append(f"wrote {strip}")
    return lines


def write_fan(agent: Agent, planner: Planner, start: int, context: int, seed: int, folder: Path) -> list[str]:
    """Pictures of what a planner considered after ``context`` seen steps of an episode; a line for each.

    Raises:
        UserError: the episode ends before that.
    """
    with own_randomness():
        witness = Witness(agent.dreamer, planner, start + context - 1)
        evaluator = Evaluator(agent.env_factory, 1, seed + EVALUATION_SEED)
        generator = torch.Generator(agent.dreamer.device).manual_seed(seed)
        enough = witness.at + planner.horizon + 1
        with evaluator.environment() as env:
            episode = rollout(witness, env, 1, True, generator, keep=enough, max_length=enough)[0]
        if episode.length <= witness.at:
            raise UserError(f"--start: the episode ends after {episode.length} steps, before the planner's moment")
        found = fan(witness, episode, context, generator)
    name = type(planner).__name__
    title = f"{agent.env_factory.name}: what {name} considered at step {witness.at}"
    figures = {f"plan-{name}.png": fan_figure(agent.specs, found, title)}
    for key in (key for key in found.decoded if agent.specs.obs[key].image):
        figures[f"plan-{name}-{key.replace('/', '_')}.png"] = fan_strip(found, key, title)
    return [f"wrote {save_figure(folder / PLOTS / file, figure)}" for file, figure in figures.items()]

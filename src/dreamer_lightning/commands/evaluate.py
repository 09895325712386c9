"""Play episodes with a trained agent, and dream them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dreamer_lightning.agent import Agent
from dreamer_lightning.commands.outputs import place
from dreamer_lightning.commands.tables import metric_table, render, score_table
from dreamer_lightning.evaluation.evaluator import EVALUATION_SEED, Evaluator
from dreamer_lightning.evaluation.film import film
from dreamer_lightning.evaluation.pictures import write_video
from dreamer_lightning.evaluation.rollout import Episode
from dreamer_lightning.planning import Lookahead, Planner, named
from dreamer_lightning.store.atomic import write_atomic
from dreamer_lightning.store.runfolder import VIDEOS
from dreamer_lightning.types import UserError


def evaluate(
    run: str,
    episodes: int = 10,
    checkpoint: Literal["latest", "best"] = "latest",
    seed: int = 1,
    video: bool = True,
    starts: int = 128,
    device: str | None = None,
    planner: Planner | str | None = None,
    out: str | None = None,
) -> str:
    """Play episodes with a trained agent: a table, a video and DIR/evaluation.json (evaluation-PLANNER.json).

    Args:
        run: run folder, or the name of an agent that comes with the package.
        episodes: greedy episodes, and as many with sampled actions.
        checkpoint: the newest one, or the one with the best evaluation.
        seed: of the environments and draws; other starts than those of the evaluations during training.
        video: write a video of one greedy episode where rendering works.
        starts: states from which the sampled episodes are dreamed; 0: no dreams.
        device: where it computes; None: the GPU if there is one.
        planner: looks ahead at every step in place of the policy: shooting, cem, mppi, gradient, or a class by its
            path with options below it, such as --planner MPPI --planner.horizon 3.
        out: folder for what is written; None: the run folder.

    Returns:
        The report: scores, dreams against reality, and the files written.

    Raises:
        UserError: not a run folder, or it holds no complete checkpoint.
    """
    if episodes < 1:
        raise UserError(f"--episodes: {episodes} plays nothing; give 1 or more")
    agent = Agent.load(run, checkpoint, device, seed)
    folder, unwritten = place(run, out)
    evaluator = Evaluator(agent.env_factory, episodes, seed + EVALUATION_SEED, starts=starts)
    player = agent.dreamer if planner is None else Lookahead(agent.dreamer, named(planner))
    evaluated = evaluator.evaluate(player)
    assert evaluated is not None  # nobody stops it
    metrics, played = evaluated
    name = type(player.planner).__name__ if isinstance(player, Lookahead) else ""
    found = summary(agent, metrics, played, checkpoint)
    if isinstance(player, Lookahead):
        found["planner"] = {"name": name, **vars(player.planner)}
    lines = [unwritten] if folder is None else []
    if folder is not None:
        path = folder / f"evaluation{f'-{name}' * bool(name)}.json"
        write_atomic(path, json.dumps(found, indent=1) + "\n")
        lines.append(f"wrote {path}")
        if video:
            lines.append(write_film(agent, player, path.with_suffix(".mp4").name, folder, seed))
    title = f"{agent.env_factory.name}, {checkpoint} checkpoint at env step {agent.clocks.get('env_step', '?')}"
    title += f", actions of {name}" * bool(name)
    kinds = {kind: [e for e in played if e.greedy == (kind == "greedy")] for kind in ("greedy", "sampled")}
    return render(score_table(title, kinds, agent.env_factory.repeat), metric_table(metrics), *lines)


def summary(agent: Agent, metrics: dict[str, float], played: list[Episode], checkpoint: str) -> dict[str, Any]:
    """What evaluation.json holds; ``lengths`` count env steps."""
    kinds: dict[str, Any] = {}
    for kind in ("greedy", "sampled"):
        found = [episode for episode in played if episode.greedy == (kind == "greedy")]
        scores = [episode.score for episode in found]
        kinds[kind] = {
            "mean": float(np.mean(scores)),
            "std": float(np.std(scores)),
            "returns": scores,
            "lengths": [episode.length * agent.env_factory.repeat for episode in found],
        }
    rest = {name: value for name, value in metrics.items() if not name.startswith("eval/")}
    clocks = {name: agent.clocks.get(name) for name in ("env_step", "agent_step", "update")}
    return {"episodes": len(played) // 2, **kinds, "metrics": rest, "checkpoint": checkpoint, **clocks}


def write_film(agent: Agent, player: Any, name: str, folder: Path, seed: int) -> str:
    """Writes a video of one greedy episode; one line that says where, or why not."""
    try:
        episode = film(player, agent.env_factory, seed + EVALUATION_SEED)
    except Exception as error:  # a picture is never worth the scores
        return f"no video: {type(error).__name__}: {error}"
    if episode is None:
        why = agent.env_factory.no_picture or "no working GL, or the task has no picture"
        return f"no video: pictures cannot be drawn on this machine ({why})"
    try:
        path = write_video(folder / VIDEOS / name, episode.frames, fps=30)
    except (ValueError, OSError) as error:
        return f"no video: {error}"
    return f"wrote {path} (greedy, score {episode.score:.1f})"

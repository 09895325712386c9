"""Packs a run's agent for the wheel: weights without the optimizer's, config, specs, card, and one greedy episode.

python benchmarks/pack_agent.py runs/NAME NAME --checkpoint best --configs quickstart.yaml --commit HASH
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from dreamer_lightning import agents
from dreamer_lightning.agent import Agent
from dreamer_lightning.envs.base import random_score
from dreamer_lightning.evaluation.evaluator import EVALUATION_SEED, Evaluator
from dreamer_lightning.store.runfolder import CONFIG, SPECS

PRIVATE = ("run_dir", "resume", "init_from", "import_from", "wandb", "fabric")  # of the machine that trained it


def main() -> None:
    """Write the agent's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--configs", nargs="+", required=True)
    parser.add_argument("--options", default="", help="options beside the configs, as typed")
    parser.add_argument("--commit", required=True)
    parser.add_argument("--episodes", type=int, default=20)
    asked = parser.parse_args()
    agent = Agent.load(asked.run, asked.checkpoint, "cpu")
    folder = agents.FOLDER / asked.name
    folder.mkdir(exist_ok=True)
    weights = {name: value.contiguous().clone() for name, value in agent.dreamer.state_dict().items()}
    save_file(weights, folder / agents.WEIGHTS)
    config = yaml.safe_load((asked.run / CONFIG).read_text())
    for name in PRIVATE:
        config.pop(name, None)
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.copy(asked.run / SPECS, folder / SPECS)
    (folder / agents.CARD).write_text(json.dumps(card(agent, config, asked, folder), indent=1) + "\n")


def card(agent: Agent, config: dict, asked: argparse.Namespace, folder: Path) -> dict:
    """Where the agent comes from, and how well it plays in episodes that training did not see."""
    evaluator = Evaluator(agent.env_factory, asked.episodes, 1 + EVALUATION_SEED, num_envs=4)
    generator = torch.Generator().manual_seed(1)
    played = evaluator.play(agent.dreamer, generator, greedy=True)
    scores = [episode.score for episode in played]
    best = max(played, key=lambda episode: episode.score)
    record = {f"obs/{name}": values for name, values in best.obs.items()}
    np.savez_compressed(
        folder / agents.EPISODE, action=best.action, reward=best.reward, terminated=best.terminated, **record
    )
    described = {name: ", ".join(space.words for space in spaces.values()) for name, spaces in spaces_of(agent)}
    return {
        "task": config["env"]["init_args"]["task"],
        "sees": described["sees"],
        "acts": described["acts"],
        "seed": config["seed"],
        "configs": asked.configs,
        "options": asked.options,
        **{name: int(agent.clocks[name]) for name in ("env_step", "agent_step", "update")},
        "score": round(float(np.mean(scores)), 1),
        "score_min": round(min(scores), 1),
        "score_std": round(float(np.std(scores)), 1),
        "episodes": asked.episodes,
        "random_score": round(random_score(agent.env_factory, 0, 10)[0], 1),
        "commit": asked.commit,
        "licence": "MIT",
    }


def spaces_of(agent: Agent):
    return (("sees", agent.specs.obs), ("acts", agent.specs.action))


if __name__ == "__main__":
    main()

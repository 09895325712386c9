"""A trained agent's actor beside planners in its dreams: return, milliseconds a decision, steps a second of dreams.

    OMP_NUM_THREADS=1 python benchmarks/planners.py RUN [--episodes 8] [--seed 1] [--horizons 3 5 8 15]

RUN is a run folder, or the name of an agent that comes with the package. Episodes are greedy, four at once; a decision
is timed for one environment, the median of 20 after 5. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import platform
import time
from typing import Any

import numpy as np
import torch

from dreamer_lightning.agent import Agent
from dreamer_lightning.evaluation.evaluator import EVALUATION_SEED, Evaluator
from dreamer_lightning.planning import CEM, MPPI, GradientPlanner, Lookahead, Planner, Shooting

LIGHT = {"samples": 64, "policy_plans": 16}
ROUNDS = {"rounds": 2, "elites": 16, **LIGHT}


def planners(horizon: int) -> dict[str, Planner]:
    """Those of one horizon, by name."""
    return {
        "MPPI, 64 plans, 2 rounds": MPPI(horizon=horizon, **ROUNDS),
        "CEM, 64 plans, 2 rounds": CEM(horizon=horizon, **ROUNDS),
        "shooting, 64 plans": Shooting(horizon=horizon, **LIGHT),
        "gradient, 5 steps from 8 plans": GradientPlanner(horizon=horizon),
    }


def milliseconds(player: Any, agent: Agent) -> float:
    """A decision of one environment."""
    obs = {name: torch.zeros(1, *space.shape) for name, space in agent.specs.obs.items()}
    state, first, generator = player.initial(1), torch.ones(1, dtype=torch.bool), torch.Generator().manual_seed(0)
    times = []
    for _ in range(25):
        begun = time.perf_counter()
        _, state = player.act(obs, state, first, generator, True)
        times.append(time.perf_counter() - begun)
        first = torch.zeros_like(first)
    return 1000 * float(np.median(times[5:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--horizons", type=int, nargs="+", default=[3, 5, 8, 15])
    asked = parser.parse_args()
    agent = Agent.load(asked.run, device="cpu")
    evaluator = Evaluator(agent.env_factory, asked.episodes, asked.seed + EVALUATION_SEED, num_envs=4, starts=0)
    print(f"{asked.run}, {asked.episodes} greedy episodes, seed {asked.seed}; {platform.machine()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| | horizon | return | standard deviation | ms a decision |\n|---|--:|--:|--:|--:|")
    cases: list[tuple[str, int | str, Any]] = [("actor alone", "", agent.dreamer)]
    for horizon in asked.horizons:
        found = planners(horizon).items()
        numbers = not any(space.discrete for space in agent.specs.action.values())
        cases += [(name, horizon, Lookahead(agent.dreamer, each)) for name, each in found if each.discrete or numbers]
    cases.append(("MPPI, 512 plans, 6 rounds", 5, Lookahead(agent.dreamer, MPPI())))
    for name, horizon, player in cases:
        took = milliseconds(player, agent)
        if name.startswith("MPPI, 512"):
            print(f"| {name} | {horizon} | not played | | {took:.1f} |")
            continue
        generator = torch.Generator().manual_seed(asked.seed)
        scores = [episode.score for episode in evaluator.play(player, generator, greedy=True)]
        print(f"| {name} | {horizon} | {np.mean(scores):.0f} | {np.std(scores):.0f} | {took:.1f} |", flush=True)
    for count in (1, 64):
        env = agent.dream_env(num_envs=count)
        env.reset(seed=0)
        actions = [env.action_space.sample() for _ in range(300)]
        begun = time.perf_counter()
        for action in actions:
            env.step(action)
        print(f"\ndreams of {count}: {count * len(actions) / (time.perf_counter() - begun):,.0f} steps a second")


if __name__ == "__main__":
    main()

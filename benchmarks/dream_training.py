"""PPO trains in an agent's dream; the same policy is played in the dream and in the real task as it learns.

    python benchmarks/dream_training.py AGENT [AGENT ...] [--steps 409600] [--seeds 0 1 2]

Does what is learned in a dream hold in reality, and for how long? A policy that is trained in a dream for too long may
learn the dream's errors. Draws the figure, and writes every number to benchmarks/results/dream_training.csv. Needs
stable-baselines3. AGENT is the name of a shipped agent or a run folder, of a gymnasium task with one observation.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from dreamer_lightning import Agent
from dreamer_lightning.evaluation.evaluator import Evaluator

BLUE, ORANGE = "#0072b2", "#d55e00"


class Bridge(VecEnv):
    """A gymnasium ``VectorEnv`` of autoreset mode NEXT_STEP for stable-baselines3, which begins anew at once.

    Args:
        env: the environments.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv):
        self.env, self.actions = env, None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        return self.env.reset()[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        obs, reward, terminated, truncated, _ = self.env.step(self.actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in done]
        for i in np.flatnonzero(done):
            infos[i] = {"terminal_observation": obs[i], "TimeLimit.truncated": bool(truncated[i] and not terminated[i])}
        if done.any():
            obs = self.restarted(obs, done)
        return obs, reward.astype(np.float32), done, infos

    def restarted(self, obs: np.ndarray, done: np.ndarray) -> np.ndarray:
        """What is seen where new dreams begin in the rows that ended."""
        self.env.dreams.reset(torch.from_numpy(done))
        self.env.time[done], self.env.over[:] = 0, False
        return np.where(done[:, None], self.env._look(), obs)

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self.env, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def returns(policy: PPO, env: gymnasium.Env, episodes: int, seed: int) -> list[float]:
    """Greedy episodes."""
    found = []
    for episode in range(episodes):
        (obs, _), total, over = env.reset(seed=seed + episode), 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy.predict(obs, deterministic=True)[0])
            total, over = total + float(reward), terminated or truncated
        found.append(total)
    return found


def trained(
    agent: Agent, task: str, seed: int, steps: int, every: int, length: int, episodes: int
) -> list[list[float]]:
    """Rows of seed, PPO's steps in the dream, mean return in the dream, mean return in reality."""
    many = Bridge(agent.dream_env(num_envs=64, length=length, seed=seed))
    dream, real = agent.dream_env(length=length, seed=seed), gymnasium.make(task)
    learner = PPO("MlpPolicy", many, n_steps=64, batch_size=512, seed=seed, device="cpu")
    rows = []
    for done in range(0, steps + 1, every):
        if done:
            learner.learn(every, reset_num_timesteps=False)
        means = [float(np.mean(returns(learner, env, episodes, 10_000 + seed))) for env in (dream, real)]
        rows.append([seed, done, *means])
        print(f"seed {seed}, {done:7} steps: in the dream {means[0]:6.1f}, in reality {means[1]:6.1f}", flush=True)
    return rows


def draw(rows: dict[str, list[list[float]]], own: dict[str, float], path: Path) -> None:
    """A panel for each agent: dream and reality over PPO's steps, seeds as thin lines, their mean in front."""
    figure, axes = plt.subplots(
        1, len(rows), figsize=(5.2 * len(rows), 3.8), layout="constrained", squeeze=False, sharey=True
    )
    for axis, (name, found) in zip(axes[0], rows.items(), strict=True):
        data = np.array(found)
        seeds, steps = np.unique(data[:, 0]), np.unique(data[:, 1])
        for column, what, color in ((2, "in the dream", BLUE), (3, "in reality", ORANGE)):
            lines = np.array([data[data[:, 0] == seed, column] for seed in seeds])
            axis.plot(steps, lines.T, color=color, lw=0.8, alpha=0.5)
            axis.plot(steps, lines.mean(0), color=color, lw=2.4, label=f"the same policy {what}")
        axis.axhline(own[name], color="#777777", ls=":", label=f"Dreamer's own actor in reality ({own[name]:.0f})")
        axis.set_xlabel("PPO's steps in the dream")
        axis.set_title(f"{name}: {len(seeds)} seeds", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("return of an episode")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="+", metavar="AGENT")
    parser.add_argument("--steps", type=int, default=409_600)
    parser.add_argument("--every", type=int, default=40_960, help="steps between two measurements")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--length", type=int, default=500, help="steps after which a dream is cut")
    parser.add_argument("--episodes", type=int, default=10, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("docs/images/dream-training.png"))
    given = parser.parse_args()
    rows: dict[str, list[list[float]]] = {}
    own: dict[str, float] = {}
    for name in given.agents:
        agent = Agent.load(name)
        title = f"{agent.env_factory.name}, a model of {agent.clocks['env_step']:,} env steps"
        own[title], rows[title] = own_score(agent, given.episodes), []
        for seed in given.seeds:
            task = agent.env_factory.name
            rows[title] += trained(agent, task, seed, given.steps, given.every, given.length, given.episodes)
    draw(rows, own, given.out)
    with Path("benchmarks/results/dream_training.csv").open("w", newline="") as file:
        heads = ["agent", "seed", "dream_steps", "dream", "reality"]
        csv.writer(file, lineterminator="\n").writerows(
            [heads, *([name, *row] for name, found in rows.items() for row in found)]
        )
    print(f"wrote {given.out}")


def own_score(agent: Agent, episodes: int) -> float:
    """Mean return of the agent's greedy actor in its own task."""
    generator = torch.Generator().manual_seed(0)
    played = Evaluator(agent.env_factory, episodes, seed=10_000).play(agent.dreamer, generator, greedy=True)
    return float(np.mean([episode.score for episode in played]))


if __name__ == "__main__":
    main()

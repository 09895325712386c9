"""Share of episodes of dm_control's pendulum in which a policy that learned nothing sees a reward after 3 seconds.

    python benchmarks/exploration.py --episodes 200

White noise stands for a fresh policy: a normal of standard deviation 0.89, drawn anew at each decision. Held corners
are those of ``HeldCorners``. Episodes have 1000 env steps of 0.02 seconds, the action is repeated for 2.
"""

from __future__ import annotations

import argparse
import math
from types import SimpleNamespace

import torch
from dm_control import suite

from dreamer_lightning.data import Decision, HeldCorners
from dreamer_lightning.types import Space, Specs

DECISIONS, REPEAT, LATE = 500, 2, 150
SPECS = Specs({}, {"action": Space((1,))})


def actions(kind: str, episodes: int, seed: int) -> torch.Tensor:
    """Actions [episodes, decisions, 1]."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "white noise":
        return 0.89 * torch.randn(episodes, DECISIONS, 1, generator=generator)
    explore = HeldCorners(SPECS, episodes, generator, first=1)
    norm = SimpleNamespace(stats=lambda: (torch.zeros(()), torch.ones(())))
    agent = SimpleNamespace(actor_critic=SimpleNamespace(return_norm=norm))
    begins, own = torch.ones(episodes, dtype=torch.bool), torch.zeros(episodes, 1)
    played = [explore(Decision({}, {}, own, begins & (t == 0), agent=agent)) for t in range(DECISIONS)]
    return torch.stack(played, 1)


def late_reward(env, episode: torch.Tensor) -> float:
    """Return after the first env steps of one episode [decisions, 1]."""
    env.reset()
    total, step = 0.0, 0
    for action in episode.clamp(-1, 1).numpy():
        for _ in range(REPEAT):
            reward, step = env.step(action).reward or 0.0, step + 1
            total += reward * (step > LATE)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for kind in ("white noise", "held corners"):
        env = suite.load("pendulum", "swingup", task_kwargs={"random": options.seed})
        played = actions(kind, options.episodes, options.seed)
        found = torch.tensor([late_reward(env, episode) for episode in played])
        share = (found > 0).float().mean().item()
        error = math.sqrt(share * (1 - share) / options.episodes)
        print(f"{kind:12}  late reward in {share:.1%} (+-{error:.1%}) of episodes, mean late return {found.mean():.2f}")


if __name__ == "__main__":
    main()

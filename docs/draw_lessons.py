"""Draws docs/learn/images/*.png: what a shipped agent sees, dreams and expects; and docs/howto/curves.png.

python docs/draw_lessons.py
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from dreamer_lightning import Agent
from dreamer_lightning.ops.returns import dream_weight, lambda_return
from dreamer_lightning.types import Carried

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "learn" / "images"
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
PUSHED = range(40, 43)  # decisions at which the cart is pushed the wrong way


class Seen(NamedTuple):
    """An episode of CartPole-v1 in which the cart is pushed, and the latents [1, t, .] that the agent made of it."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    latent: Carried
    post: Tensor
    prior: Tensor


@torch.no_grad()
def watch(agent: Agent, steps: int = 120) -> Seen:
    env, state = gym.make("CartPole-v1"), agent.initial(1)
    obs, _ = env.reset(seed=3)
    rows: dict[str, list[Any]] = {"obs": [], "action": [], "before": [], "reward": [0.0]}
    for t in range(steps):
        rows["obs"].append(obs)
        rows["before"].append(state["prev_action"][0])
        action, state = agent.act(obs[None], state, greedy=True)
        if t in PUSHED:
            action, state["prev_action"] = 1 - action, 1 - state["prev_action"]
        obs, reward, ended, _, _ = env.step(int(action[0]))
        rows["action"].append(int(action[0]))
        rows["reward"].append(reward)
        assert not ended, "the pushes are too strong for the pictures"
    dreamer, (name,) = agent.dreamer, agent.specs.obs
    seen = {name: torch.from_numpy(np.stack(rows["obs"]))[None]}
    first = torch.zeros(1, steps, dtype=torch.bool)
    first[0, 0] = True
    latent = dreamer.observe(seen, torch.stack(rows["before"])[None], first, generator=agent.generator)
    model = dreamer.world_model
    post, prior = model.rssm.post(latent.deter, model.embed(seen)), model.rssm.prior(latent.deter)
    return Seen(np.stack(rows["obs"]), np.array(rows["action"]), np.array(rows["reward"][:-1]), latent, post, prior)


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(OUT / f"{name}.png", dpi=110)
    plt.close(figure)


def axes(rows: int = 1, columns: int = 1, height: float = 3.0) -> tuple[plt.Figure, Any]:
    return plt.subplots(rows, columns, figsize=(8, height), layout="constrained", squeeze=False)


def pushed(axis: plt.Axes) -> None:
    axis.axvspan(PUSHED.start, PUSHED.stop, color=GREY, alpha=0.25, lw=0)


@torch.no_grad()
def world_model(agent: Agent, seen: Seen) -> None:
    """What is seen, and what the decoder restores from the latent."""
    (decoded,) = agent.dreamer.reconstruct(seen.latent).values()
    figure, grid = axes(1, 2)
    for axis, i, name in zip(grid[0], (0, 2), ("cart's position", "pole's angle"), strict=True):
        axis.plot(seen.obs[:, i], color=BLUE, lw=3, alpha=0.5, label="seen")
        axis.plot(decoded[0, :, i], color=ORANGE, lw=1.2, label="restored from the latent")
        axis.set(title=name, xlabel="decision")
        pushed(axis)
    grid[0, 0].legend()
    save(figure, "world-model")


def rssm(agent: Agent, seen: Seen) -> None:
    """The deterministic state as it changes."""
    deter = seen.latent.deter[0].numpy().T
    order = np.argsort(-deter.std(1))[:48]
    figure, grid = axes(1, 1)
    image = grid[0, 0].imshow(deter[order], aspect="auto", cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
    grid[0, 0].set(xlabel="decision", ylabel="unit of deter", title="48 units that change most")
    figure.colorbar(image, ax=grid[0, 0])
    save(figure, "rssm")


def latents(agent: Agent, seen: Seen) -> None:
    """Probabilities of all classes at one moment, before and after the look."""
    figure, grid = axes(2, 1, 3.4)
    t = PUSHED.start + 1
    for axis, logits, name in zip(
        grid[:, 0], (seen.prior, seen.post), ("prior: dreamed", "posterior: seen"), strict=True
    ):
        axis.imshow(torch.softmax(logits[0, t], -1).numpy().T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axis.set(title=name, ylabel="class", yticks=range(seen.prior.shape[-1]))
    grid[1, 0].set_xlabel("group")
    save(figure, "latents")


def kl(agent: Agent, seen: Seen) -> None:
    """Surprise over time."""
    divergence = agent.dreamer.world_model.rssm.latents.divergence(seen.post, seen.prior).dyn[0]
    figure, grid = axes(1, 1)
    grid[0, 0].plot(divergence.numpy(), color=BLUE)
    grid[0, 0].axhline(agent.dreamer.world_model.rssm.free_nats, color=GREY, ls="--", label="free nats")
    grid[0, 0].set(xlabel="decision", ylabel="KL(post || prior), nats", ylim=(0, None))
    grid[0, 0].legend()
    pushed(grid[0, 0])
    save(figure, "kl")


@torch.no_grad()
def predictions(agent: Agent, seen: Seen) -> None:
    """The critic's bins at a calm moment and at the push."""
    figure, grid = axes(1, 1)
    critic = agent.dreamer.actor_critic.value
    for t, color, name in ((20, BLUE, "calm"), (PUSHED.stop, ORANGE, "pushed")):
        output = critic(seen.latent.feat[:, t])
        probs = torch.softmax(output.logits, -1)[0].numpy()
        bins = output.bins.numpy()
        near = (bins > 80) & (bins < 600)
        label = f"{name}: mean {float(output.pred()):.0f}"
        grid[0, 0].stem(bins[near], probs[near], linefmt=color, markerfmt=".", basefmt=" ", label=label)
    grid[0, 0].set(xlabel="bin: a return", ylabel="probability")
    grid[0, 0].legend()
    save(figure, "predictions")


def dream(agent: Agent, seen: Seen, start: int, samples: int, length: int, real: bool = True) -> dict[str, np.ndarray]:
    """Dreams from one moment; under the actions that were really taken, or the policy's."""
    packed = agent.dreamer.world_model.rssm.pack(seen.latent)
    state = {**agent.initial(1), **{name: value[:, start] for name, value in packed.items()}}
    actions = seen.action[start : start + length] if real else None
    return agent.imagine(None, length, samples, state, actions)


def imagination(agent: Agent, seen: Seen) -> None:
    """Reality and eight dreams under the same actions."""
    start, length = 25, 60
    found = dream(agent, seen, start, 8, length)
    (name,) = agent.specs.obs
    figure, grid = axes(1, 2)
    for axis, i, title in zip(grid[0], (0, 2), ("cart's position", "pole's angle"), strict=True):
        axis.plot(range(start, start + length + 1), found[name][:, :, i].T, color=ORANGE, alpha=0.5, lw=1)
        axis.plot(seen.obs[:100, i], color=BLUE, lw=2)
        axis.axvline(start, color=GREY, ls="--")
        axis.set(title=title, xlabel="decision")
        pushed(axis)
    save(figure, "imagination")


def returns(agent: Agent, seen: Seen) -> None:
    """Lambda-returns of one dream."""
    found = dream(agent, seen, PUSHED.stop, 1, 15, real=False)
    reward, cont, value = (torch.from_numpy(found[name][0]) for name in ("reward", "cont", "value"))
    figure, grid = axes(1, 1)
    grid[0, 0].plot(value.numpy(), color=GREY, ls="--", label="critic")
    gamma = agent.dreamer.world_model.discount.gamma
    for lam, color in ((0.0, GREEN), (0.95, BLUE), (1.0, ORANGE)):
        grid[0, 0].plot(lambda_return(reward, cont * gamma, value, lam).numpy(), color=color, label=f"lambda {lam:g}")
    grid[0, 0].set(xlabel="dreamed step", ylabel="return")
    grid[0, 0].legend()
    save(figure, "returns")


@torch.no_grad()
def critic(agent: Agent, seen: Seen) -> None:
    """The critic along the episode."""
    value = agent.dreamer.actor_critic.value(seen.latent.feat).pred()[0]
    figure, grid = axes(1, 1)
    grid[0, 0].plot(value.numpy(), color=BLUE)
    grid[0, 0].set(xlabel="decision", ylabel="value")
    pushed(grid[0, 0])
    save(figure, "critic")


@torch.no_grad()
def actor(agent: Agent, seen: Seen) -> None:
    """Probability of pushing right beside the pole's angle and speed."""
    policy = agent.dreamer.actor_critic.policy(seen.latent.feat)
    right = policy.log_prob(torch.tensor([0.0, 1.0]).expand(1, len(seen.obs), 2)).exp()[0].numpy()
    figure, grid = axes(1, 1)
    points = grid[0, 0].scatter(seen.obs[:, 2], seen.obs[:, 3], c=right, cmap="RdBu", vmin=0, vmax=1, s=25, ec=GREY)
    grid[0, 0].set(xlabel="pole's angle, rad", ylabel="pole's angular velocity, rad/s")
    figure.colorbar(points, ax=grid[0, 0], label="probability to push right")
    save(figure, "actor")


def horizon(agent: Agent, seen: Seen) -> None:
    """How much a later reward counts."""
    steps = torch.arange(400)
    figure, grid = axes(1, 1)
    for length, color in ((33, GREEN), (100, ORANGE), (333, BLUE)):
        weight = dream_weight(torch.ones(len(steps)), 1 - 1 / length).numpy()
        grid[0, 0].plot(steps, weight, color=color, label=f"horizon {length}")
    grid[0, 0].axvspan(0, agent.dreamer.actor_critic.imag_length, color=GREY, alpha=0.3, lw=0, label="dreamed")
    grid[0, 0].set(xlabel="steps ahead", ylabel="weight of a reward", ylim=(0, 1.02))
    grid[0, 0].legend()
    save(figure, "horizon")


def coadaptation(agent: Agent, seen: Seen) -> None:
    """How far dreams under the real actions are off, by the number of steps."""
    (name,) = agent.specs.obs
    starts, length = range(0, 60, 4), 50
    errors = []
    for start in starts:
        found = dream(agent, seen, start, 8, length)[name]
        errors.append(np.abs(found - seen.obs[start : start + length + 1]).mean(0) / seen.obs.std(0))
    figure, grid = axes(1, 1)
    for i, (title, color) in enumerate((("position", BLUE), ("velocity", GREEN), ("angle", ORANGE))):
        grid[0, 0].plot(np.mean(errors, 0)[:, i], color=color, label=title)
    grid[0, 0].axhline(1, color=GREY, ls="--", label="spread of what was seen")
    grid[0, 0].set(xlabel="steps dreamed", ylabel="error / spread", ylim=(0, None))
    grid[0, 0].legend()
    save(figure, "coadaptation")


def efficiency(agent: Agent, seen: Seen) -> None:
    """The runs of the preset that trained the shipped agent."""
    figure, grid = axes(1, 1)
    runs = sorted((ROOT / "benchmarks" / "results" / "CartPole-v1" / "gym-small-slow").glob("*/metrics.csv"))
    for path, color in zip(runs, (BLUE, ORANGE, GREEN), strict=True):
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["episode/score"]]
        steps, scores = ([float(row[name]) for row in rows] for name in ("env_step", "episode/score"))
        grid[0, 0].plot(steps, scores, ".-", color=color, lw=0.8, ms=4, label=path.parent.name)
    grid[0, 0].set(xlabel="env steps", ylabel="return of an episode")
    grid[0, 0].legend()
    save(figure, "efficiency")


CURVES = (
    *("episode/score", "loss/reward", "loss/dyn", "loss/value", "dream/entropy_norm", "dream/return_scale"),
    *("dream/action_std", "gap/return", "openloop/reward_error@15"),
)


def curves() -> None:
    """Metrics of a run that learns and of one that does not, for the page that tells how to read them."""
    results = ROOT / "benchmarks" / "results"
    runs = (("reacher_easy/mix/seed0", BLUE, "reacher_easy"), ("pendulum_swingup/efficient/seed0", ORANGE, "pendulum"))
    figure, grid = axes(3, 3, 6.5)
    for folder, color, label in runs:
        with (results / folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for axis, name in zip(grid.flat, CURVES, strict=True):
            points = [(float(row["env_step"]) / 1000, float(row[name])) for row in rows if row[name]]
            axis.plot(*zip(*points, strict=True), color=color, lw=1.2, label=label)
            axis.set_title(name, fontsize=10)
    for axis in grid[-1]:
        axis.set_xlabel("thousand env steps")
    grid[0, 0].legend()
    figure.savefig(ROOT / "docs" / "howto" / "curves.png", dpi=110)
    plt.close(figure)


PICTURES: tuple[Callable[[Agent, Seen], None], ...] = (
    world_model, rssm, latents, kl, predictions, imagination, returns, critic, actor, horizon, coadaptation, efficiency,
)  # fmt: skip


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10})
    agent = Agent.load("CartPole-v1")
    seen = watch(agent)
    for draw in PICTURES:
        draw(agent, seen)
    curves()


if __name__ == "__main__":
    main()

"""What a planner considered at one moment: candidate futures, the one that it chose, and what then happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.evaluation.pictures import NOW, vector_lines
from dreamer_lightning.evaluation.rollout import Episode
from dreamer_lightning.planning import Lookahead, Plan, Planner, foresee
from dreamer_lightning.types import Specs

SHOWN = 24  # candidates that are drawn, evenly from the worst to the best
STRIP = 4  # candidates of a strip of images


class Witness(Lookahead):
    """Plays one environment by planning, and keeps what it considered at one agent step of its first episode.

    Args:
        dreamer: the agent.
        planner: chooses the actions.
        at: the agent step.

    Attributes:
        seen: the latent, packed [1, .], and the plan of that moment; None: the episode has not come so far.
    """

    def __init__(self, dreamer: Dreamer, planner: Planner, at: int):
        super().__init__(dreamer, planner)
        self.at, self.step = at, -1
        self.seen: tuple[dict[str, Tensor], Plan] | None = None

    def act(self, obs: Any, state: Any, is_first: Tensor, generator: Any = None, greedy: bool = False) -> Any:
        action, state = super().act(obs, state, is_first, generator, greedy)
        self.step += 1
        if self.step == self.at and self.last is not None:
            carried: Any = self.dreamer.world_model.rssm.carried
            self.seen = {name: state[name].clone() for name in carried._fields}, self.last
        return action, state


@dataclass
class Fan:
    """Futures [k + 1, T, ...] from one moment, the chosen one last, beside the truth [T, ...].

    Args:
        context: steps of ``T`` that were seen; the last of them is the moment.
        seen: observations by decoded key, images in [0, 1]; NaN where the episode had ended.
        decoded: what is dreamed instead; NaN before the moment.
        paid: rewards [T].
        reward: dreamed rewards [k + 1, T].
        worth: returns that were promised [k + 1].
    """

    context: int
    seen: dict[str, np.ndarray]
    decoded: dict[str, np.ndarray]
    paid: np.ndarray
    reward: np.ndarray
    worth: np.ndarray


@torch.no_grad()
def fan(witness: Witness, episode: Episode, context: int, generator: torch.Generator) -> Fan:
    """What the witness saw, dreamed and judged again with a new draw, the same for all plans.

    Args:
        witness: after the episode.
        episode: which it played.
        context: agent steps shown before the moment, itself included.
        generator: draws the dreams.
    """
    assert witness.seen is not None
    dreamer, (packed, plan) = witness.dreamer, witness.seen
    order = plan.values[0].argsort()
    shown = order[torch.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().long()]
    chosen = torch.cat([plan.action[:, None], plan.actions[:, 1:]], 1)
    plans = torch.cat([plan.candidates[0, shown], chosen]).float()
    rssm: Any = dreamer.world_model.rssm
    (count, length, _), latent = plans.shape, rssm.unpack(packed)
    noise = rssm.noise(1, length, generator=generator)
    worth = foresee(dreamer, latent, plans[None], noise, witness.planner.lam)[0]
    dream = rssm.unroll(latent.map(lambda x: x.expand(count, -1)), plans, noise.expand(count, *noise.shape[1:]))
    reward = dreamer.world_model.predict(dream.feat)[0]
    begin, total = witness.at - context + 1, context + length
    decoded = {name: later(value, context) for name, value in dreamer.reconstruct(dream).items()}
    seen = {
        name: cut(episode.obs[name], begin, total) / (255.0 if dreamer.specs.obs[name].image else 1.0)
        for name in decoded
    }
    paid = cut(episode.reward, begin, total)
    return Fan(context, seen, decoded, paid, later(reward, context), worth.cpu().numpy())


def cut(values: np.ndarray, begin: int, length: int) -> np.ndarray:
    """A stretch [length, ...] of an episode; NaN behind its end."""
    values = values[begin : begin + length].astype(np.float32)
    return np.concatenate([values, np.full((length - len(values), *values.shape[1:]), np.nan, np.float32)])


def later(values: Tensor, context: int) -> np.ndarray:
    """Dreams [n, h + 1, ...] from the moment on as [n, context + h, ...]; NaN before it."""
    dreamed = values.float().cpu().numpy()
    return np.concatenate([np.full((len(dreamed), context - 1, *dreamed.shape[2:]), np.nan, np.float32), dreamed], 1)


def fan_figure(specs: Specs, fan: Fan, title: str, dims: int = 5) -> Figure:
    """Candidates as thin lines coloured by what they promised, the chosen one and the truth in front of them.

    Args:
        specs: of the environment.
        fan: what was considered.
        title: above.
        dims: numbers of the observation that are drawn, the liveliest ones.
    """
    lines = vector_lines(specs, fan.seen, fan.decoded, dims)
    lines.append(("reward", fan.paid, fan.reward))
    columns = min(3, len(lines))
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(4.2 * columns + 0.8, 2.4 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    colors = ScalarMappable(Normalize(fan.worth[:-1].min(), fan.worth[:-1].max()), "viridis")
    steps = np.arange(len(fan.paid)) - (fan.context - 1)
    for axis, (name, truth, model) in zip(axes, lines, strict=False):
        axis.axvspan(steps[0], 0, color="tab:green", alpha=0.12, lw=0, label="seen")
        for worth, line in zip(fan.worth[:-1], model[:-1], strict=True):
            axis.plot(steps, line, color=colors.to_rgba(worth), lw=0.8, alpha=0.8)
        axis.plot(steps, model[-1], color="tab:red", lw=2.2, label=f"chosen (promises {fan.worth[-1]:.3g})")
        axis.plot(
            steps,
            truth.reshape(-1),
            color="black",
            lw=1.3,
            ls="--",
            label="what then happened (planned anew at each step)",
        )
        axis.set_title(name, fontsize=10)
        axis.tick_params(labelsize=8)
    for axis in axes[: len(lines)][-columns:]:
        axis.set_xlabel(NOW, fontsize=8)
    for axis in axes[len(lines) :]:
        axis.set_visible(False)
    figure.colorbar(colors, ax=axes, label="return that a candidate promises", fraction=0.04, pad=0.02)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    return figure


def fan_strip(fan: Fan, key: str, title: str, moments: int = 6) -> Figure:
    """An image over time: what happened, the chosen plan, and candidates from the best to the worst.

    Args:
        fan: what was considered.
        key: the image's name.
        title: above.
        moments: columns.
    """
    picked = np.linspace(len(fan.worth) - 2, 0, min(STRIP, len(fan.worth) - 1)).round().astype(int)
    rows = [("happened", fan.seen[key]), (f"chosen\n{fan.worth[-1]:.3g}", fan.decoded[key][-1])]
    rows += [(f"candidate\n{fan.worth[i]:.3g}", fan.decoded[key][i]) for i in picked]
    first, last = fan.context - 1, len(fan.paid) - 1
    times = np.unique(np.linspace(first, last, min(moments, last - first + 1)).round().astype(int))
    figure = Figure(figsize=(1.35 * len(times) + 1.0, 1.35 * len(rows) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(times), squeeze=False)
    for line, (name, images) in zip(axes, rows, strict=True):
        for axis, time in zip(line, times, strict=True):
            image = np.nan_to_num(images[time]).clip(0, 1)
            axis.imshow(image if image.shape[-1] == 3 else image[..., -1], cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, fontsize=8)
    for axis, time in zip(axes[-1], times, strict=True):
        axis.set_xlabel(str(time - first), fontsize=8)
    figure.supxlabel(NOW, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure

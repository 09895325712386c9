"""The acting step as one module of plain tensors: observations, state and noise in, action and state out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dreamer_lightning import kernels
from dreamer_lightning.data.arrays import to_native
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.nets.latents import Categorical
from dreamer_lightning.types import Specs

PREV = "prev_action"


class ActingStep(nn.Module):
    """``Dreamer.act`` with every draw as an input, and actions in the environment's own numbers.

    Inputs in order: each observation [n, ...], each part of the packed latent [n, .], ``prev_action`` [n, a],
    ``is_first`` [n], ``latent_noise`` [n, .], and ``action_noise`` [n, a] if the action is drawn.
    Outputs: ``action``, ``next_prev_action`` [n, a], and the next packed latent.

    Args:
        dreamer: the agent; a copy of it is kept, without its fast twins.
        greedy: the most likely action instead of a draw.
    """

    low: Tensor
    high: Tensor

    def __init__(self, dreamer: Dreamer, greedy: bool = False):
        super().__init__()
        self.dreamer, self.greedy = copy.deepcopy(dreamer).cpu().eval(), greedy
        kernels.restore(self.dreamer)
        state = self.dreamer.initial(1)
        self.obs, self.latent = list(dreamer.specs.obs), [name for name in state if name != PREV]
        low, high = bounds(dreamer.specs)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    @property
    def inputs(self) -> list[str]:
        seen = [f"obs/{name}" for name in self.obs]
        return [*seen, *self.latent, PREV, "is_first", "latent_noise", *([] if self.greedy else ["action_noise"])]

    @property
    def outputs(self) -> list[str]:
        return ["action", f"next_{PREV}", *(f"next_{name}" for name in self.latent)]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        parts = dict(zip(self.inputs, given, strict=True))
        model, packed = self.dreamer.world_model, {name: parts[name] for name in self.latent}
        embed = model.embed({name: parts[f"obs/{name}"] for name in self.obs})
        feat, packed = model.rssm.observe_packed(packed, parts[PREV], embed, parts["is_first"], parts["latent_noise"])
        policy = self.dreamer.actor_critic.policy(feat)
        flat = (policy.pred() if self.greedy else policy.sample(parts["action_noise"])).float()
        return (self.native(flat), flat, *(packed[name] for name in self.latent))

    def native(self, flat: Tensor) -> Tensor:
        """Classes as numbers from the environment's own start; numbers within its bounds; both: the flat action."""
        spaces = self.dreamer.specs.actions
        kinds = {space.discrete for space in spaces.values()}
        if kinds == {True}:
            numbers = spaces.numbers(flat)
            chosen = [numbers[name] + int(np.asarray(space.start).flat[0]) for name, space in spaces.items()]
            return chosen[0] if len(chosen) == 1 else torch.stack(chosen, -1)
        if kinds == {False}:
            return self.low + (flat.clamp(-1.0, 1.0) + 1.0) * 0.5 * (self.high - self.low)
        return flat

    def example(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Inputs of ``n`` environments whose episodes begin: random observations, the empty state, draws."""
        dreamer, state, found = self.dreamer, self.dreamer.initial(n), []
        for space in dreamer.specs.obs.values():
            draws = torch.rand(n, *space.shape, generator=generator)
            if space.image:
                draws = (draws * 255).to(torch.uint8)
            elif space.discrete:
                draws = (draws * space.classes).to(torch.int32)
            found.append(draws)
        found += [state[name] for name in self.latent]
        found += [state[PREV], torch.ones(n, dtype=torch.bool)]
        found.append(dreamer.world_model.rssm.noise(n, generator=generator))
        if not self.greedy:
            found.append(dreamer.actor_critic.policy.noise((n,), generator, dreamer.device))
        return tuple(found)

    def card(self) -> dict[str, Any]:
        """What whoever runs the file must know: names, shapes, types, and how noise is drawn."""
        example = self.example(1)
        latents = self.dreamer.world_model.rssm.latents
        drawn = ["gumbel" if space.discrete else "normal" for space in self.dreamer.specs.actions.values()]
        return {
            "inputs": {
                name: {"shape": ["n", *value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch.")}
                for name, value in zip(self.inputs, example, strict=True)
            },
            "outputs": self.outputs,
            "noise": {
                "latent_noise": "uniform in [0, 1)" if isinstance(latents, Categorical) else "normal",
                **({} if self.greedy else {"action_noise": dict(zip(self.dreamer.specs.actions, drawn, strict=True))}),
            },
            "state": "zeros at first, then each next_NAME is the next step's NAME; is_first: an episode begins",
        }


def bounds(specs: Specs) -> tuple[Tensor, Tensor]:
    """The environment's own least and greatest continuous action, flat; -1 and 1 where they are not known."""
    size = specs.action_dim
    ends = []
    for sign in (-1.0, 1.0):
        flat = torch.full((1, size), sign)
        known = specs.native and not any(space.discrete for space in specs.action.values())
        native = np.asarray(to_native(specs, flat)[0], np.float64).reshape(-1) if known else flat[0].numpy()
        ends.append(torch.as_tensor(native, dtype=torch.float32) if native.size == size else flat[0])
    return ends[0], ends[1]

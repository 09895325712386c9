"""Gives recorded draws to a whole agent, and collects what is recorded of it; losses and training steps share this."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dreamer_lightning import interop
from dreamer_lightning.dreamer import Dreamer, Noise, TrainOutput
from dreamer_lightning.nets.actions import PolicyOutput
from dreamer_lightning.types import Latent, Specs
from dreamer_lightning.workshop.parity.record import SEQUENCE, Vectors

FLAGS = ("reward", "is_first", "is_last", "is_terminal")


@contextmanager
def injected(dreamer: Dreamer) -> Iterator[None]:
    """Let the policy's samples be the noise itself, so that recorded actions can be given in its place."""

    class Recorded(PolicyOutput):
        def sample(self, noise: Tensor) -> Tensor:
            return noise

    def recorded(module: Any, inputs: Any, output: PolicyOutput) -> PolicyOutput:
        return Recorded(output.by_key, output.spaces)

    hook = dreamer.actor_critic.policy.register_forward_hook(recorded)
    try:
        yield
    finally:
        hook.remove()


def records_of(v: Vectors, prefix: str, specs: Specs) -> dict[str, Any]:
    """Observations, rewards and flags as records; the caller adds the previous actions."""
    records: dict[str, Any] = {key: v.tensor(f"{prefix}/{key}") for key in FLAGS}
    return records | {"obs": {key: v.tensor(f"{prefix}/{key}") for key in specs.obs}}


def latent_of(v: Vectors, prefix: str) -> Latent:
    return Latent(v.tensor(f"{prefix}/deter"), v.tensor(f"{prefix}/stoch").flatten(-2))


def noise_of(v: Vectors, prefix: str, specs: Specs) -> Noise:
    """The recorded draws; the actions themselves stand for their noise (see ``injected``)."""
    action = specs.actions.one_hot(v.under(f"{prefix}/imag_act"), v.dtype)
    return Noise(v.tensor(f"{prefix}/post_idx"), v.tensor(f"{prefix}/imag_idx"), action)


def loss_metrics(dreamer: Dreamer, out: TrainOutput) -> dict[str, tuple[Tensor, Tensor]]:
    """The scalars that the reference logs of the world model and of every loss, and what each is a mean of."""
    found = {f"loss/{interop.loss_name(key)}": (x.mean(), x.abs().mean()) for key, x in out.losses.items()}
    for theirs, ours in {"dyn_ent": "model/prior_entropy", "rep_ent": "model/post_entropy"}.items():
        found[theirs] = out.metrics[ours], out.metrics[ours].abs()
    return {key: (value.detach(), scale.detach()) for key, (value, scale) in found.items()}


def carry_after(v: Vectors, key: str, dreamer: Dreamer, latent: Latent) -> None:
    """The state after the last step."""
    rssm = dreamer.world_model.rssm
    v.close(f"{key}/deter", latent.deter[:, -1], SEQUENCE)
    v.exact(f"{key}/stoch", latent.stoch[:, -1].unflatten(-1, (rssm.stoch, rssm.classes)))

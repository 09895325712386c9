"""World model and actor-critic as one agent: the training forward, the acting step, the state that acting carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamer_lightning.actor_critic import AbstractActorCritic
from dreamer_lightning.nets.totals import Total
from dreamer_lightning.types import Carried, Losses, Metrics, UserError
from dreamer_lightning.world_model import SCALES as MODEL_SCALES
from dreamer_lightning.world_model import ExtraLoss, WorldModel

SCALES = {**MODEL_SCALES, "policy": 1.0, "value": 1.0, "repval": 0.3}
State = dict[str, Tensor]  # what acting carries: the packed latent by its parts' names, and "prev_action"


class Noise(NamedTuple):
    """All draws of a training forward: posterior latents [b, t, .], dreamed latents [n, h, .], actions [n, h+1, a],
    and the choice of further start states [b t], empty where there is none."""

    post: Tensor
    imag: Tensor
    action: Tensor
    start: Tensor = torch.empty(0)


class TrainOutput(NamedTuple):
    """The scalar to minimise, its unreduced parts, the new latents [b, t, .] for replay (packed), and metrics."""

    loss: Tensor
    losses: Losses
    latents: dict[str, Tensor]
    metrics: Metrics


class Imagined(NamedTuple):
    """A dream in the environment's units; index 0 is the start state, all are [n, h+1, ...]."""

    latent: Carried
    action: Tensor
    reward: Tensor
    cont: Tensor
    value: Tensor
    obs: dict[str, Tensor]


class Dreamer(nn.Module):
    """The agent.

    Args:
        world_model: learns to predict.
        actor_critic: learns to act in its predictions.
        scales: factor on each mean loss; keys as in ``SCALES`` (``recon`` covers every ``recon/<key>``). A loss that
            has none, which only classes of your own return, counts as it is.
        total: makes one scalar of all losses; None: their sum.
        extra: further losses by name, each with a scale of its own.

    Raises:
        UserError: a further loss has the name of another.
    """

    def __init__(
        self,
        world_model: WorldModel,
        actor_critic: AbstractActorCritic,
        scales: dict[str, float] | None = None,
        total: Total | None = None,
        extra: dict[str, ExtraLoss] | None = None,
    ):
        super().__init__()
        self.specs = world_model.specs
        self.world_model, self.actor_critic = world_model, actor_critic
        self.extra, self.total = nn.ModuleDict(extra or {}), total or Total()
        taken = sorted(set(self.extra) & set(SCALES))
        if taken:
            raise UserError(f"--losses.extra: {taken[0]} is a loss already; name yours otherwise")
        self.scales = {**SCALES, **(scales or {}), **{name: loss.scale for name, loss in self.extra.items()}}

    def forward(self, batch: Any, generator: torch.Generator | None = None, noise: Noise | None = None) -> TrainOutput:
        """One training forward: observe, dream, and every loss.

        Args:
            batch: records [b, 1+t]; the first step of each sequence only supplies its stored latent.
            generator: source of the noise.
            noise: draws made elsewhere, instead.
        """
        carry = self.world_model.rssm.unpack({key: value[:, 0] for key, value in batch["latent"].items()})
        records = {key: batch[key][:, 1:] for key in ("prev_action", "reward", "is_first", "is_last", "is_terminal")}
        records["obs"] = {key: value[:, 1:] for key, value in batch["obs"].items()}
        return self.losses(records, carry, noise or self.noise(*records["is_first"].shape, generator))

    def losses(self, records: dict[str, Any], carry: Carried, noise: Noise) -> TrainOutput:
        """``forward`` on sequences [b, t] whose latent before the first step is given."""
        model_losses, observed, metrics = self.world_model(records, carry, noise.post)
        ac_losses, ac_metrics = self.actor_critic(observed.latent, records, self.world_model, tuple(noise[1:]))
        extra = {name: loss(records, observed) for name, loss in self.extra.items()}
        assert all(loss.shape == records["is_first"].shape for loss in extra.values())
        losses = {**model_losses, **ac_losses, **extra}
        means = {key: value.float().mean() for key, value in losses.items()}
        loss = self.total({key: self.scales.get(key.split("/")[0], 1.0) * value for key, value in means.items()})
        logged = {**means, "total": loss, **self.total.metrics()}
        metrics = {f"loss/{key}": value.detach() for key, value in logged.items()} | {
            f"model/{key}": value for key, value in metrics.items()
        }
        metrics |= {f"dream/{key}": value for key, value in ac_metrics.items()}
        return TrainOutput(loss, losses, self.world_model.rssm.pack(observed.latent), metrics)

    def noise(self, b: int, t: int, generator: torch.Generator | None = None) -> Noise:
        """Every draw that a batch of ``b`` sequences of ``t`` steps needs."""
        rssm, n = self.world_model.rssm, self.actor_critic.starts(b, t)
        return Noise(
            rssm.noise(b, t, generator=generator),
            rssm.noise(n, self.actor_critic.imag_length, generator=generator),
            self.actor_critic.noise(n, generator),
            self.actor_critic.start_noise(b * t, generator),
        )

    # Acting.

    @property
    def device(self) -> torch.device:
        return self.actor_critic.updates.device

    def initial(self, n: int) -> State:
        """The state of ``n`` environments before their first step: zeros."""
        packed = self.world_model.rssm.pack(self.world_model.rssm.initial(n))
        return {**packed, "prev_action": torch.zeros(n, self.specs.action_dim, device=self.device)}

    @torch.no_grad()
    def act(
        self,
        obs: dict[str, Tensor],
        state: State,
        is_first: Bool[Tensor, " n"],
        generator: torch.Generator | None = None,
        greedy: bool = False,
    ) -> tuple[Float[Tensor, "n a"], State]:
        """Choose actions; the latent is always sampled, the action unless ``greedy``.

        Args:
            obs: observations [n, ...] by name.
            state: what the step before returned.
            is_first: environments whose episode begins here.
            generator: source of the noise.
            greedy: take the most likely action.
        """
        with torch.inference_mode():  # a tenth faster than no_grad: hundreds of tiny operations (benchmarks/notes.md)
            feat, packed = self.observe_step(obs, state, is_first, generator)
            action = self.choose(feat, generator, greedy).float()
            found = {**packed, "prev_action": action}
        found = {key: value.clone() for key, value in found.items()}  # which may be changed in place
        return found["prev_action"], found

    def observe_step(
        self, obs: dict[str, Tensor], state: State, is_first: Tensor, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "n f"], dict[str, Tensor]]:
        """What acting knows after an observation: ``feat``, and the packed latent [n, .]; arguments as for ``act``."""
        rssm = self.world_model.rssm
        noise, embed = rssm.noise(len(is_first), generator=generator), self.world_model.embed(obs)
        return rssm.observe_packed(state, state["prev_action"], embed, is_first, noise)

    def choose(self, feat: Float[Tensor, "n f"], generator: torch.Generator | None, greedy: bool) -> Tensor:
        """An action of the policy at each state."""
        policy = self.actor_critic.policy
        return (
            policy(feat).pred() if greedy else policy(feat).sample(policy.noise((len(feat),), generator, self.device))
        )

    # Looking into the model.

    @torch.no_grad()
    def observe(
        self,
        obs: dict[str, Tensor],
        prev_action: Float[Tensor, "b t a"],
        is_first: Bool[Tensor, "b t"],
        state: State | None = None,
        generator: torch.Generator | None = None,
    ) -> Carried:
        """Filter real sequences into posterior latents [b, t, .]."""
        rssm, (b, t) = self.world_model.rssm, is_first.shape
        carry = rssm.unpack(state) if state else rssm.initial(b)
        noise = rssm.noise(b, t, generator=generator)
        return rssm.observe(carry, prev_action, self.world_model.embed(obs), is_first, noise)[0]

    @torch.no_grad()
    def imagine(
        self,
        state: State | Carried,
        length: int,
        actions: Float[Tensor, "n h a"] | None = None,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        decode: bool = True,
    ) -> Imagined:
        """Dream ``length`` steps from states [n, .], under the policy or under given actions; decode what is seen."""
        model = self.world_model
        start = state if isinstance(state, Carried) else model.rssm.unpack(state)

        def policy(feat: Tensor, step: int) -> Tensor:
            if actions is None:
                return self.choose(feat, generator, greedy)
            return actions[:, step] if step < length else torch.zeros_like(actions[:, 0])

        latent, action = model.imagine(start, policy, model.rssm.noise(len(start.stoch), length, generator=generator))
        reward, cont = model.predict(latent.feat)
        value = self.actor_critic.value(latent.feat).pred()
        return Imagined(latent, action, reward, cont, value, self.reconstruct(latent) if decode else {})

    @torch.no_grad()
    def reconstruct(self, latent: Carried) -> dict[str, Tensor]:
        """What the decoder sees in latents, in the environment's units (images in [0, 1])."""
        return self.world_model.reconstruct(latent)


def by_module(dreamer: Dreamer) -> dict[str, Callable[[], Any]]:
    """Parameters by the names that tables of gradients use: encoder, rssm, decoder, reward, cont, policy, value,
    and those of further losses by theirs."""
    model, agent = dreamer.world_model, dreamer.actor_critic
    modules = {name: getattr(model, name) for name in ("encoder", "rssm", "decoder", "reward", "cont")}
    modules |= {"policy": agent.policy, "value": agent.value, **dreamer.extra}
    return {name: module.parameters for name, module in modules.items()}

"""The actor and the critic: trained in dreams, the critic on replayed steps too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dreamer_lightning.nets.entropy import ConstantWeight, EntropyWeight
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.gradients import ActorGradient, ScoreFunction
from dreamer_lightning.nets.heads import Head, PolicyHead, TwoHotHead
from dreamer_lightning.nets.normalizers import Normalizer, PercentileNorm
from dreamer_lightning.nets.outputs import Output
from dreamer_lightning.ops.returns import dream_weight, lambda_return
from dreamer_lightning.optim import LaProp
from dreamer_lightning.types import Latent, Losses, Metrics, Specs, UserError

ValueAware = Literal["latents", "critic", "off"]


class Dynamics(Protocol):
    """What imagination needs of a world model."""

    def imagine(
        self, latent: Latent, policy: Callable[[Tensor, int], Tensor], noise: Tensor
    ) -> tuple[Latent, Tensor]: ...

    def retrace(self, latent: Latent, action: Tensor) -> Latent: ...

    def predict(self, feat: Tensor) -> tuple[Tensor, Tensor]: ...


class Dream(NamedTuple):
    """Imagined trajectories; index 0 is the replayed start state."""

    feat: Float[Tensor, "n h+1 f"]
    action: Float[Tensor, "n h+1 a"]
    reward: Float[Tensor, "n h+1"]
    cont: Float[Tensor, "n h+1"]


class ActorCritic(L.LightningModule):
    """Policy and value heads with their losses, in dreams and on replay.

    Args:
        specs: observations and actions (or the dict that ``save_hyperparameters`` made of them).
        feat_dim: size of the model's ``feat``.
        policy: from the size of ``feat`` and the specs, the policy head.
        value: from the size of ``feat``, the value head.
        imag_length: steps dreamed from each start state, 1 or more.
        imag_last: start states per sequence, taken from its end; 0 takes all. The replay value loss sees the same
            states, so that 1 leaves none of it.
        gradient: how the actor learns: ``ScoreFunction``, ``Pathwise`` (backpropagation through the dream), ``Mix``.
        value_aware: what the replay value loss trains: ``latents`` (critic and world model), ``critic`` alone,
            or ``off``, no such loss.
        horizon: effective horizon 1/(1-gamma), in agent steps.
        contdisc: predicted continuation holds the discount already.
        lam: trace decay of lambda-returns in dreams.
        replay_lam: trace decay on replay.
        actent: weight of the policy's entropy, per nat.
        entropy_weight: from ``actent``, what gives the weight at each update.
        slowreg: weight of the pull towards the slow critic, in dreams.
        replay_slowreg: the same on replay.
        slowtar: returns bootstrap from the slow critic (in dreams).
        start_grad: the dream's losses at its first state, which is a replayed one, shape the latents too.
        slow_rate: share of the critic that the slow critic takes over at each update of it.
        slow_every: updates between two of them.
        return_norm: normaliser of returns; its scale divides the advantage.
        value_norm: normaliser of the critic's targets.
        advantage_norm: normaliser of advantages.
        optimizer: used by ``L.Trainer`` alone.
    """

    def __init__(
        self,
        specs: Specs | dict[str, Any],
        feat_dim: int,
        *,
        policy: Callable[[int, Specs], PolicyHead] = PolicyHead,
        value: Callable[[int], Head] = TwoHotHead,
        imag_length: int = 15,
        imag_last: int = 0,
        gradient: Callable[[], ActorGradient] = ScoreFunction,
        value_aware: ValueAware = "latents",
        horizon: float = 333.0,
        contdisc: bool = True,
        lam: float = 0.95,
        replay_lam: float = 0.95,
        actent: float = 3e-4,
        entropy_weight: Callable[[float], EntropyWeight] = ConstantWeight,
        slowreg: float = 1.0,
        replay_slowreg: float = 1.0,
        slowtar: bool = False,
        start_grad: bool = False,
        slow_rate: float = 0.02,
        slow_every: int = 1,
        return_norm: Callable[[], Normalizer] = PercentileNorm,
        value_norm: Callable[[], Normalizer] = Normalizer,
        advantage_norm: Callable[[], Normalizer] = Normalizer,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = LaProp,
    ):
        super().__init__()
        if imag_length < 1:
            raise UserError(f"imag_length={imag_length} dreams nothing: give 1 or more steps")
        if imag_last < 0:
            raise UserError(f"imag_last={imag_last} is not a number of start states: give 0 (all of them) or more")
        specs = specs if isinstance(specs, Specs) else Specs.from_dict(specs)
        self.save_hyperparameters(
            {
                "specs": asdict(specs),
                "feat_dim": feat_dim,
                "imag_length": imag_length,
                "imag_last": imag_last,
                "value_aware": value_aware,
                **{"horizon": horizon, "contdisc": contdisc, "lam": lam, "replay_lam": replay_lam, "actent": actent},
                **{"slowreg": slowreg, "replay_slowreg": replay_slowreg, "slowtar": slowtar, "start_grad": start_grad},
                **{"slow_rate": slow_rate, "slow_every": slow_every},
            }
        )
        self.specs = specs
        self.imag_length, self.imag_last = imag_length, imag_last
        self.gradient, self.value_aware = gradient(), value_aware
        self.discount = 1 - 1 / horizon
        self.dream_discount = 1.0 if contdisc else self.discount
        self.lam, self.replay_lam, self.entropy_weight = lam, replay_lam, entropy_weight(actent)
        self.slowreg, self.replay_slowreg, self.slowtar = slowreg, replay_slowreg, slowtar
        self.slow_rate, self.slow_every, self.start_grad = slow_rate, slow_every, start_grad
        self.policy, self.value = policy(feat_dim, specs), value(feat_dim)
        self.slow_critic = copy.deepcopy(self.value).requires_grad_(False)
        self.return_norm, self.value_norm, self.advantage_norm = return_norm(), value_norm(), advantage_norm()
        self.optimizer = optimizer
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        latent: Latent,
        records: dict[str, Any],
        dynamics: Dynamics,
        noise: tuple[Shaped[Tensor, "n h ..."], Float[Tensor, "n h+1 a"]],
    ) -> tuple[Losses, Metrics]:
        """Losses from the latents [b, t, .] of replayed records, with gradients into them as ``value_aware`` says.

        Args:
            latent: posterior latents of the records.
            records: records [b, t, ...]: rewards and flags of the replay value loss.
            dynamics: dreams.
            noise: draws for the latents and for the actions of the dreams, ``n = b * k``.

        Returns:
            ``policy`` and ``value`` [b, k], ``repval`` [b, k-1], and metrics.
        """
        b, t = records["is_first"].shape
        k = min(self.imag_last or t, t)
        start = latent.map(lambda x: x[:, -k:].reshape(b * k, -1))
        dream = self.imagine(start.detach(), dynamics, *noise)
        losses, metrics, ret = self.dream_losses(dream, start=start.feat if self.start_grad else None)
        losses = {key: value.mean(-1).view(b, k) for key, value in losses.items()}
        if self.value_aware != "off" and k > 1:
            feat = latent.map(lambda x: x[:, -k:]).feat
            feat = feat if self.value_aware == "latents" else feat.detach()
            records = {key: records[key][:, -k:] for key in ("reward", "is_last", "is_terminal")}
            losses["repval"], replayed = self.replay_loss(feat, records, ret[:, 0].view(b, k))
            metrics["replay_return"] = replayed.mean()
        assert all(loss.shape == (b, k - 1 if key == "repval" else k) for key, loss in losses.items())
        return losses, metrics

    def starts(self, b: int, t: int) -> int:
        """Number ``n`` of dreams begun from a batch of ``b`` sequences of ``t`` steps."""
        return b * min(self.imag_last or t, t)

    def imagine(self, start: Latent, dynamics: Dynamics, stoch_noise: Tensor, action_noise: Tensor) -> Dream:
        """Dream from start states [n, .]. Where the actor learns through the dynamics, the finished dream is then
        retraced as a function of its actions: autograd need not watch every step of it."""
        policy = self.policy
        with torch.no_grad():
            act = lambda feat, step: policy(feat).sample(action_noise[:, step])  # noqa: E731
            latent, action = dynamics.imagine(start, act, stoch_noise)
            feat = latent.feat
            if not self.gradient.needs_gradient:
                return Dream(feat, action, *dynamics.predict(feat))
        action = policy(feat).sample(action_noise)
        feat = dynamics.retrace(latent, action).feat
        return Dream(feat, action, *frozen(dynamics, "predict")(feat))

    def dream_losses(
        self, dream: Dream, update: bool = True, start: Float[Tensor, "n f"] | None = None
    ) -> tuple[Losses, Metrics, Float[Tensor, "n h"]]:
        """Policy and value losses [n, h] of dreams, and their lambda-returns.

        Args:
            dream: imagined trajectories.
            update: let the normalisers learn from this batch.
            start: ``feat`` of the first states, if the losses there are to shape it.
        Source: DreamerV3, equations 8 to 12.
        """
        feat = dream.feat.detach()
        feat = feat if start is None else torch.cat([start.unsqueeze(1), feat[:, 1:]], 1)
        policy, value = self.policy(feat[:, :-1]), self.value(feat)
        slow = self.slow_critic(feat).pred().detach()
        offset, scale = self.value_norm.stats()
        tar = (slow if self.slowtar else value.pred().detach()) * scale + offset
        boot = tar
        if dream.feat.requires_grad:  # the actor's gradient also runs through the critic at each dreamed state
            critic = frozen(self.slow_critic if self.slowtar else self.value)
            boot = critic(dream.feat).pred() * scale + offset
        ret = lambda_return(dream.reward, dream.cont * self.dream_discount, boot, self.lam)
        weight = dream_weight(dream.cont.detach(), self.dream_discount)[:, :-1]

        _, ret_scale = self.return_norm(ret, update)
        adv = (ret.detach() - tar[:, :-1]) / ret_scale
        adv_offset, adv_scale = self.advantage_norm(adv, update)
        entropy = policy.entropy()
        gain = self.policy_gain(dream, policy, ret / ret_scale, (adv - adv_offset) / adv_scale)
        actent = self.entropy_weight(self.entropy_norm(entropy.detach()), update)
        losses = {"policy": -weight * (gain + actent * entropy)}
        offset, scale = self.value_norm(ret, update)
        target = torch.nn.functional.pad((ret.detach() - offset) / scale, (0, 1))  # the last state's loss is cut off
        to_return, to_slow = value.losses(target, slow)
        losses["value"] = weight * (to_return + self.slowreg * to_slow)[:, :-1]
        return losses, self.metrics(dream, ret, adv, tar, weight, entropy, ret_scale), ret.detach()

    def policy_gain(self, dream: Dream, policy: Output, ret: Tensor, adv: Tensor) -> Float[Tensor, "n h"]:
        """What the actor climbs, see ``ActorGradient``."""
        return self.gradient(policy, dream.action[:, :-1].detach(), ret, adv.detach())

    def entropy_norm(self, entropy: Tensor) -> Tensor | None:
        """The mean of entropies in the policy's range: 0 is as little choice as possible, 1 as much as possible.

        None where the policy has no range.
        """
        bounds = self.policy.entropy_range
        return (entropy.mean() - bounds[0]) / (bounds[1] - bounds[0]) if bounds else None

    def replay_loss(
        self, feat: Float[Tensor, "b k f"], records: dict[str, Tensor], boot: Float[Tensor, "b k"], update: bool = True
    ) -> tuple[Float[Tensor, "b k-1"], Float[Tensor, "b k-1"]]:
        """The critic's loss on real rewards, bootstrapped from dreams begun at the same states; and the returns.

        Args:
            feat: replayed states, with gradient if the loss is to shape them.
            records: ``reward``, ``is_last``, ``is_terminal`` [b, k].
            boot: imagined return from each state.
            update: let the value normaliser learn from this batch.
        """
        last, terminal = records["is_last"].float(), records["is_terminal"].float()
        value, slow = self.value(feat[:, :-1]), self.slow_critic(feat[:, :-1].detach()).pred()
        reward, live = records["reward"].float(), (1 - terminal) * self.discount
        ret = lambda_return(reward, live, boot, (1 - last) * self.replay_lam)
        offset, scale = self.value_norm(ret, update)
        to_return, to_slow = value.losses((ret - offset) / scale, slow)
        return (1 - last[:, :-1]) * (to_return + self.replay_slowreg * to_slow), ret

    def noise(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n h+1 a"]:
        """Draws for the actions of ``n`` dreams."""
        return self.policy.noise((n, self.imag_length + 1), generator, self.updates.device)

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow critic towards the critic; call after each optimizer step."""
        slow, fast = list(self.slow_critic.parameters()), list(self.value.parameters())
        if self.slow_every == 1:
            torch._foreach_lerp_(slow, [p.detach() for p in fast], self.slow_rate)
        else:  # the first update counts; as a factor, so that no host waits for the counter
            rate = (self.updates % self.slow_every == 0) * self.slow_rate
            for old, new in zip(slow, fast, strict=True):
                old.lerp_(new, rate.to(old.dtype))
        self.updates += 1

    @torch.no_grad()
    def metrics(self, dream, ret, adv, tar, weight, entropy, ret_scale) -> Metrics:
        """Means that tell how the dreams go; all 0-d tensors."""
        return {
            "entropy": entropy.mean(),
            "return": ret.mean(),
            "return_scale": ret_scale,
            "advantage": adv.mean(),
            "advantage_mag": adv.abs().mean(),
            "advantage_std": adv.std(),
            "reward": dream.reward.mean(),
            "cont": dream.cont.mean(),
            "value": tar.mean(),
            "weight": weight.mean(),
            "action_std": dream.action.detach().std(),
            **self.entropy_weight.metrics(),
        }

    # For L.Trainer: an actor-critic alone, in the dreams of a world model, on a dataset of their inputs.

    def training_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Sum of the mean losses; the batch holds what ``forward`` takes, by name."""
        losses, metrics = self(batch["latent"], batch["records"], batch["dynamics"], batch["noise"])
        loss = sum(value.mean() for value in losses.values())
        self.log_dict({"loss/total": loss, **{f"loss/{key}": value.mean() for key, value in losses.items()}, **metrics})
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        self.update_slow_critic()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])

"""The actor and the critic: trained in dreams, the critic on replayed steps too."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dreamer_lightning.nets.entropy import ConstantWeight, EntropyWeight
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.gradients import ActorGradient, ScoreFunction
from dreamer_lightning.nets.heads import Head, PolicyHead, TwoHotHead
from dreamer_lightning.nets.normalizers import Normalizer, PercentileNorm
from dreamer_lightning.nets.outputs import Output
from dreamer_lightning.nets.starts import ExtraStarts
from dreamer_lightning.ops.returns import dream_weight, lambda_return
from dreamer_lightning.types import (
    Carried,
    ClosedUnitInterval,
    Discount,
    Losses,
    Metrics,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Specs,
    UserError,
)

# Draws for the latents [n, h, .] and the actions [n, h+1, a] of dreams, and for the choice of further starts [b t].
Noise = tuple[Tensor, ...]


@runtime_checkable
class Dynamics(Protocol):
    """What imagination needs of a world model."""

    def imagine(
        self, latent: Carried, policy: Callable[[Tensor, int], Tensor], noise: Tensor
    ) -> tuple[Carried, Tensor]: ...

    def retrace(self, latent: Carried, action: Tensor) -> Carried: ...

    def predict(self, feat: Tensor) -> tuple[Tensor, Tensor]: ...


class Dream(NamedTuple):
    """Imagined trajectories; index 0 is the replayed start state."""

    feat: Float[Tensor, "n h+1 f"]
    action: Float[Tensor, "n h+1 a"]
    reward: Float[Tensor, "n h+1"]
    cont: Float[Tensor, "n h+1"]


class AbstractActorCritic(nn.Module, ABC):
    """What all versions share: the two heads, dreams under the policy, and what is logged of them.

    Args:
        specs: observations and actions.
        feat_dim: size of the model's ``feat``.
        policy: from the size of ``feat`` and the specs, the policy head.
        value: from the size of ``feat``, the value head.
        discount: how much a later reward counts, and whether the predicted continuation holds that already.
        imag_length: agent steps dreamed from each start state.
        imag_last: start states per sequence, taken from its end; 0: all.
        lam: trace decay of lambda-returns in dreams, 0 (one step) to 1 (the whole dream).
    """

    gradient: ActorGradient  # how the actor learns from its dreams
    extra_starts: ExtraStarts | None  # where dreams begin beside the last states

    def __init__(
        self,
        specs: Specs,
        feat_dim: int,
        *,
        policy: Callable[[int, Specs], PolicyHead] = PolicyHead,
        value: Callable[[int], Head] = TwoHotHead,
        discount: Discount = Discount(),
        imag_length: PositiveInt = 15,
        imag_last: NonNegativeInt = 0,
        lam: ClosedUnitInterval = 0.95,
    ):
        super().__init__()
        if imag_length < 1:
            raise UserError(f"imag_length={imag_length} dreams nothing: give 1 or more steps")
        if imag_last < 0:
            raise UserError(f"imag_last={imag_last} is not a number of start states: give 0 (all of them) or more")
        self.specs, self.imag_length, self.imag_last, self.lam = specs, imag_length, imag_last, lam
        self.extra_starts = None
        self.discount = discount.gamma
        self.dream_discount = 1.0 if discount.contdisc else discount.gamma
        self.policy, self.value = policy(feat_dim, specs), value(feat_dim)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def forward(
        self, latent: Carried, records: dict[str, Any], dynamics: Dynamics, noise: Noise
    ) -> tuple[Losses, Metrics]:
        """Losses from replayed records and the dreams that begin at them.

        Args:
            latent: posterior latents [b, t, .] of the records.
            records: records [b, t, ...]: rewards and flags.
            dynamics: dreams.
            noise: draws for the latents and for the actions of the dreams, and for what chooses further starts.

        Returns:
            Unreduced losses [b, .], ``policy`` and ``value`` among them, and metrics.
        """

    @abstractmethod
    def dream_losses(self, dream: Dream, update: bool = True) -> tuple[Losses, Metrics, Float[Tensor, "n h"]]:
        """Policy and value losses [n, .] of dreams, metrics, and the lambda-returns without a gradient.

        Args:
            dream: imagined trajectories.
            update: let running statistics learn from this batch.
        """

    def update_slow_critic(self) -> None:
        """Called after each optimizer step: counts it; a version with a slow critic moves that towards the critic."""
        self.updates += 1

    def last(self, t: int) -> int:
        """Number ``k`` of start states in a sequence of ``t`` steps."""
        return min(self.imag_last or t, t)

    def starts(self, b: int, t: int) -> int:
        """Number ``n`` of dreams begun from a batch of ``b`` sequences of ``t`` steps."""
        return b * (self.last(t) + (self.extra_starts.count if self.extra_starts else 0))

    def start(self, latent: Carried) -> Carried:
        """Where dreams begin: the last ``k`` latents of each sequence [b, t, .], as [n, .]."""
        return latent.map(lambda x: x[:, -self.last(x.shape[1]) :].flatten(0, 1))

    def imagine(self, start: Carried, dynamics: Dynamics, stoch_noise: Tensor, action_noise: Tensor) -> Dream:
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

    def noise(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "{n} {self.imag_length+1} a"]:
        """Draws for the actions of ``n`` dreams."""
        return self.policy.noise((n, self.imag_length + 1), generator, self.updates.device)

    def start_noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws for a choice of further start states among ``n``; empty where none are chosen."""
        device = self.updates.device
        return self.extra_starts.noise(n, generator, device) if self.extra_starts else torch.empty(0, device=device)

    def entropy_norm(self, entropy: Tensor) -> Tensor | None:
        """The mean of entropies in the policy's range: 0 is as little choice as possible, 1 as much as possible.

        None where the policy has no range, or no choice.
        """
        bounds = self.policy.entropy_range
        return (entropy.mean() - bounds[0]) / (bounds[1] - bounds[0]) if bounds and bounds[1] > bounds[0] else None

    @torch.no_grad()
    def metrics(self, dream, ret, adv, tar, weight, entropy, ret_scale) -> Metrics:
        """Means that tell how the dreams go; all 0-d tensors."""
        entropy_norm = self.entropy_norm(entropy)
        return {
            "entropy": entropy.mean(),
            **({} if entropy_norm is None else {"entropy_norm": entropy_norm}),
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
        }


class NormalizedActorCritic(AbstractActorCritic):
    """DreamerV3's losses in dreams: normalised returns, and a critic that is held near a slow copy of itself.

    Args:
        gradient: how the actor learns: ``ScoreFunction``, ``Pathwise`` (backpropagation through the dream) or ``Mix``.
        actent: weight of the policy's entropy, per nat.
        entropy_weight: from ``actent``, what gives the weight at each update.
        slowreg: weight of the pull towards the slow critic, in dreams.
        slowtar: returns bootstrap from the slow critic (in dreams).
        slow_rate: share of the critic that the slow critic takes over at each update of it.
        slow_every: updates between two of them.
        return_norm: normaliser of returns; its scale divides the advantage.
        value_norm: normaliser of the critic's targets.
        advantage_norm: normaliser of advantages.
    """

    def __init__(
        self,
        *args: Any,
        gradient: Callable[[], ActorGradient] = ScoreFunction,
        actent: NonNegativeFloat = 3e-4,
        entropy_weight: Callable[[float], EntropyWeight] = ConstantWeight,
        slowreg: NonNegativeFloat = 1.0,
        slowtar: bool = False,
        slow_rate: ClosedUnitInterval = 0.02,
        slow_every: PositiveInt = 1,
        return_norm: Callable[[], Normalizer] = PercentileNorm,
        value_norm: Callable[[], Normalizer] = Normalizer,
        advantage_norm: Callable[[], Normalizer] = Normalizer,
        **options: Any,
    ):
        super().__init__(*args, **options)
        self.gradient, self.entropy_weight = gradient(), entropy_weight(actent)
        self.slowreg, self.slowtar, self.slow_rate, self.slow_every = slowreg, slowtar, slow_rate, slow_every
        self.slow_critic = copy.deepcopy(self.value).requires_grad_(False)
        self.return_norm, self.value_norm, self.advantage_norm = return_norm(), value_norm(), advantage_norm()

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
        metrics = self.metrics(dream, ret, adv, tar, weight, entropy, ret_scale) | self.entropy_weight.metrics()
        return losses, metrics, ret.detach()

    def policy_gain(self, dream: Dream, policy: Output, ret: Tensor, adv: Tensor) -> Float[Tensor, "n h"]:
        """What the actor climbs, see ``ActorGradient``."""
        return self.gradient(policy, dream.action[:, :-1].detach(), ret, adv.detach())

    def update_slow_critic(self) -> None:
        """Move the slow critic towards the critic; call after each optimizer step."""
        follow(self.slow_critic, self.value, self.slow_rate, self.slow_every, self.updates)
        super().update_slow_critic()


class ActorCritic(NormalizedActorCritic):
    """DreamerV3's actor and critic, as published with the code of today: the critic also learns on replayed steps.

    Args:
        value_aware: what the replay value loss trains: ``latents`` (critic and world model), ``critic`` alone,
            or ``off``, no such loss. It sees the start states of dreams, so that ``imag_last: 1`` leaves none of it.
        replay_lam: trace decay on replay; None: ``lam``.
        replay_slowreg: weight of the pull towards the slow critic on replay; None: ``slowreg``.
        start_grad: the dream's losses at its first state, which is a replayed one, shape the latents too.
        extra_starts: chooses further states of the batch where dreams begin, beside the last ones (not in the papers).
    """

    def __init__(
        self,
        *args: Any,
        value_aware: Literal["latents", "critic", "off"] = "latents",
        replay_lam: ClosedUnitInterval | None = None,
        replay_slowreg: NonNegativeFloat | None = None,
        start_grad: bool = False,
        extra_starts: Callable[[], ExtraStarts] | None = None,
        **options: Any,
    ):
        super().__init__(*args, **options)
        self.value_aware, self.start_grad = value_aware, start_grad
        self.extra_starts = extra_starts() if extra_starts else None
        self.replay_lam = self.lam if replay_lam is None else replay_lam
        self.replay_slowreg = self.slowreg if replay_slowreg is None else replay_slowreg

    def forward(
        self, latent: Carried, records: dict[str, Any], dynamics: Dynamics, noise: Noise
    ) -> tuple[Losses, Metrics]:
        """Losses from the latents [b, t, .] of replayed records, with gradients into them as ``value_aware`` says.

        Args: as ``AbstractActorCritic.forward``.

        Returns:
            ``policy`` and ``value`` [b, starts], the last states' first, ``repval`` [b, k-1], and metrics.
        """
        b, t = records["is_first"].shape
        k, start = self.last(t), self.start(latent)
        if self.extra_starts is not None:
            places = self.choose_starts(latent, records, noise[2])
            more = latent.map(lambda x: x.flatten(0, 1)[places])
            start = type(start)(*(torch.cat(pair) for pair in zip(start, more, strict=True)))
        dream = self.imagine(start.detach(), dynamics, *noise[:2])
        losses, metrics, ret = self.dream_losses(dream, start=start.feat if self.start_grad else None)
        losses = {key: _by_sequence(value.mean(-1), b, k) for key, value in losses.items()}
        if self.value_aware != "off" and k > 1:
            feat = latent.map(lambda x: x[:, -k:]).feat
            feat = feat if self.value_aware == "latents" else feat.detach()
            records = {key: records[key][:, -k:] for key in ("reward", "is_last", "is_terminal")}
            losses["repval"], replayed = self.replay_loss(feat, records, ret[: b * k, 0].view(b, k))
            metrics["replay_return"] = replayed.mean()
        assert all(len(loss) == b for loss in losses.values())
        return losses, metrics

    @torch.no_grad()
    def choose_starts(self, latent: Carried, records: dict[str, Tensor], noise: Tensor) -> Int64[Tensor, " m"]:
        """Places of the further start states among the ``b t`` replayed ones, see ``ExtraStarts``."""
        offset, scale = self.value_norm.stats()
        value = self.value(latent.feat).pred() * scale + offset
        reward, live = records["reward"].float(), (~records["is_terminal"]).float() * self.discount
        error = (reward[:, 1:] + live[:, 1:] * value[:, 1:] - value[:, :-1]).abs() * ~records["is_last"][:, :-1]
        error = torch.nn.functional.pad(error, (0, 1))  # of the last step no successor is known
        return self.extra_starts(len(error) * self.extra_starts.count, reward, error, noise)

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


def _by_sequence(x: Float[Tensor, " n"], b: int, k: int) -> Float[Tensor, "b starts"]:
    """What belongs to the ``b k`` last states as [b, k], and behind it what belongs to the further ones."""
    return x.view(b, k) if len(x) == b * k else torch.cat([part.view(b, -1) for part in x.split(b * k)], 1)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float, every: int, updates: Tensor) -> None:
    """Move a slow copy a share of the way to its original, at the first update and each ``every``-th after it.

    Args:
        slow: the copy, changed in place.
        fast: the original.
        rate: the share.
        every: updates between two moves.
        updates: those made before this one, 0-d.
    """
    old, new = list(slow.parameters()), [p.detach() for p in fast.parameters()]
    if every == 1:
        torch._foreach_lerp_(old, new, rate)
        return
    share = (updates % every == 0) * rate  # a factor, so that no host waits for the counter
    for mine, theirs in zip(old, new, strict=True):
        mine.lerp_(theirs, share.to(mine.dtype))

"""The world model: observations become latents, from which it predicts observations, rewards and continuation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamer_lightning.nets.decoders import Decoder, DictDecoder
from dreamer_lightning.nets.encoders import DictEncoder, Encoder
from dreamer_lightning.nets.heads import BinaryHead, Head, TwoHotHead
from dreamer_lightning.nets.outputs import Output
from dreamer_lightning.nets.rssm import BlockRSSM, Policy
from dreamer_lightning.nets.standardize import Standardize
from dreamer_lightning.optim import LaProp
from dreamer_lightning.types import Carried, Discount, Losses, Metrics, Specs

RewardHead = partial(TwoHotHead, layers=1)
SCALES = {"recon": 1.0, "reward": 1.0, "cont": 1.0, "dyn": 1.0, "rep": 0.1}


class Observed(NamedTuple):
    """What the world model made of a batch [b, t].

    Args:
        latent: posterior latents [b, t, .]; ``latent.feat`` is what the heads see.
        post_logits: parameters of the posterior.
        prior_logits: parameters of the prior.
        embed: the encoder's output [b, t, e].
        outputs: predictions by the name of their loss: ``recon/NAME``, ``reward``, ``cont``.
    """

    latent: Carried
    post_logits: Tensor
    prior_logits: Tensor
    embed: Tensor
    outputs: dict[str, Output]


class ExtraLoss(nn.Module, ABC):
    """A loss beside the world model's own, which trains the latents and its own parameters.

    Args:
        specs: observations and actions.
        feat_dim: size of ``feat``.
        embed_dim: size of the encoder's output.
        scale: factor on the mean loss.
    """

    def __init__(self, specs: Specs, feat_dim: int, embed_dim: int, *, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    @abstractmethod
    def forward(self, records: dict[str, Any], observed: Observed) -> Float[Tensor, "b t"]:
        """The loss of each step, not reduced.

        Args:
            records: records [b, t, ...]: ``obs`` by name, ``prev_action``, ``reward`` and flags.
            observed: what the world model made of them.
        """


class WorldModel(L.LightningModule):
    """Encoder, RSSM, decoder, reward and continue heads, with their losses.

    Args:
        specs: observations and actions (or, as for ``discount``, the dict that ``L.Trainer`` saves).
        encoder: from specs, a network that turns observations into ``embed``.
        rssm: from the sizes of action and ``embed``, the recurrent model.
        decoder: from specs and the sizes of ``deter`` and ``stoch``, a network that gives an output per observation.
        reward: from the size of ``feat``, the reward head.
        cont: from the size of ``feat``, the continue head.
        discount: with ``contdisc``, the continue head's target is ``(1 - is_terminal) gamma``.
        reward_grad: the reward loss shapes the latents.
        standardize: bring vectors to mean 0 and standard deviation 1 by running statistics (not in the papers).

    Attributes:
        optimizer: from parameters, the optimizer of ``L.Trainer``; the training loop has one for everything.
        scales: factor on each loss for ``L.Trainer``; the training loop takes the agent's.
    """

    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

    def __init__(
        self,
        specs: Specs | dict[str, Any],
        *,
        encoder: Callable[[Specs], Encoder] = DictEncoder,
        rssm: Callable[[int, int], nn.Module] = BlockRSSM,
        decoder: Callable[[Specs, int, int], Decoder] = DictDecoder,
        reward: Callable[[int], Head] = RewardHead,
        cont: Callable[[int], Head] = BinaryHead,
        discount: Discount | dict[str, Any] = Discount(),
        reward_grad: bool = True,
        standardize: bool = False,
    ):
        super().__init__()
        specs = specs if isinstance(specs, Specs) else Specs.from_dict(specs)
        discount = discount if isinstance(discount, Discount) else Discount(**discount)
        self.save_hyperparameters("reward_grad", "standardize")
        self.hparams.update(specs=asdict(specs), discount=asdict(discount))
        self.specs, self.discount, self.reward_grad = specs, discount, reward_grad
        self.standardize = Standardize(specs) if standardize else None
        self.encoder = encoder(specs)
        self.rssm = rssm(specs.action_dim, self.encoder.embed_dim)
        self.decoder = decoder(specs, self.rssm.deter_dim, self.rssm.stoch_dim)
        self.recompute = False  # of the decoder's activations: the same numbers in less memory
        self.feat_dim = self.rssm.deter_dim + self.rssm.stoch_dim
        self.reward, self.cont = reward(self.feat_dim), cont(self.feat_dim)
        self.optimizer, self.scales = LaProp, dict(SCALES)

    def forward(
        self, records: dict[str, Any], carry: Carried, noise: Shaped[Tensor, "b t ..."]
    ) -> tuple[Losses, Observed, Metrics]:
        """Losses of a batch of sequences.

        Args:
            records: records [b, t, ...] (architecture, section 4).
            carry: latents [b, .] of the step before the sequences.
            noise: draws for the posterior, from ``rssm.noise(b, t)``.

        Returns:
            Unreduced losses [b, t], the latents with their logits, and metrics.
        """
        obs, is_first = self.scaled(records["obs"]), records["is_first"]
        embed = self.encoder(obs)
        latent, post_logits = self.rssm.observe(carry, records["prev_action"], embed, is_first, noise)
        prior_logits = self.rssm.prior(latent.deter)
        losses, metrics = self.rssm.loss(post_logits, prior_logits)
        outputs = {}
        for key, output in self.decoded(latent).items():
            outputs[f"recon/{key}"] = output
            losses[f"recon/{key}"] = output.loss(obs[key])
        feat = latent.feat
        outputs["reward"] = self.reward(feat if self.reward_grad else feat.detach())
        losses["reward"] = outputs["reward"].loss(records["reward"])
        outputs["cont"] = self.cont(feat)
        losses["cont"] = outputs["cont"].loss(self.cont_target(records["is_terminal"]))
        assert all(loss.shape == is_first.shape for loss in losses.values())
        return losses, Observed(latent, post_logits, prior_logits, embed, outputs), metrics

    def decoded(self, latent: Carried) -> dict[str, Output]:
        """The decoder's outputs; with ``recompute`` the backward pass makes what lies between once more."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.decoder, latent, use_reentrant=False, preserve_rng_state=False)
        return self.decoder(latent)

    def scaled(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations as encoder and decoder see them; the running statistics learn from them in training."""
        if self.standardize is None:
            return obs
        if self.training and torch.is_grad_enabled():
            self.standardize.update(obs)
        return self.standardize(obs)

    def embed(self, obs: dict[str, Tensor]) -> Float[Tensor, "*b e"]:
        """What the encoder makes of observations."""
        return self.encoder(obs if self.standardize is None else self.standardize(obs))

    def reconstruct(self, latent: Carried) -> dict[str, Tensor]:
        """What the decoder sees in latents, in the environment's units (images in [0, 1])."""
        seen = {key: output.pred() for key, output in self.decoder(latent).items()}
        return seen if self.standardize is None else {key: self.standardize.undo(key, x) for key, x in seen.items()}

    def cont_target(self, is_terminal: Tensor) -> Tensor:
        """Probability that life goes on: the target of the continue head."""
        return (~is_terminal).float() * (self.discount.gamma if self.discount.contdisc else 1.0)

    # What the actor-critic asks of its dynamics.

    def imagine(
        self, latent: Carried, policy: Policy, noise: Shaped[Tensor, "n h ..."]
    ) -> tuple[Carried, Float[Tensor, "n h+1 a"]]:
        """Dream from latents [n, .] under a policy; see ``BlockRSSM.imagine``."""
        return self.rssm.imagine(latent, policy, noise)

    def retrace(self, latent: Carried, action: Float[Tensor, "n h1 a"]) -> Carried:
        """A finished dream as a function of its actions; see ``BlockRSSM.retrace``."""
        return self.rssm.retrace(latent, action)

    def predict(self, feat: Float[Tensor, "*b f"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        """Expected reward on arriving at each state, and probability that the episode goes on past it."""
        return self.reward(feat).pred(), self.cont(feat).pred()

    # For L.Trainer: a world model alone, on a dataset of records.

    def training_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Scaled sum of the mean losses on records [b, t], starting from the empty latent."""
        b, t = batch["is_first"].shape
        carry = self.rssm.initial(b)
        losses, _, metrics = self(batch, carry, self.rssm.noise(b, t))
        loss = sum(self.scales[key.split("/")[0]] * value.mean() for key, value in losses.items())
        self.log_dict({"loss/total": loss, **{f"loss/{k}": v.mean() for k, v in losses.items()}, **metrics})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

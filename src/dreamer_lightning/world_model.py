"""The world model: what was seen becomes a latent, which tells what was seen, what was earned, whether life goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dreamer_lightning.nets.decoders import Decoder, DictDecoder
from dreamer_lightning.nets.encoders import DictEncoder, Encoder
from dreamer_lightning.nets.heads import BinaryHead, Head, TwoHotHead
from dreamer_lightning.nets.rssm import BlockRSSM, Policy
from dreamer_lightning.nets.standardize import Standardize
from dreamer_lightning.optim import LaProp
from dreamer_lightning.types import Latent, Losses, Metrics, Specs

RewardHead = partial(TwoHotHead, layers=1)
SCALES = {"recon": 1.0, "reward": 1.0, "cont": 1.0, "dyn": 1.0, "rep": 0.1}


class Observed(NamedTuple):
    """What the world model made of a batch: posterior latents [b, t, .] and, as tensors, their two logits."""

    latent: Latent
    post_logits: Tensor
    prior_logits: Tensor


class WorldModel(L.LightningModule):
    """Encoder, RSSM, decoder, reward and continue heads, with their losses.

    Args:
        specs: observations and actions (or the dict that ``save_hyperparameters`` made of them).
        encoder: from specs, a network that turns observations into ``embed``.
        rssm: from the sizes of action and ``embed``, the recurrent model.
        decoder: from specs and the sizes of ``deter`` and ``stoch``, a network that gives an output per observation.
        reward: from the size of ``feat``, the reward head.
        cont: from the size of ``feat``, the continue head.
        horizon: effective horizon 1/(1-gamma), in agent steps.
        contdisc: the continue head learns the discount too: its target is ``(1 - is_terminal) (1 - 1/horizon)``.
        reward_grad: the reward loss shapes the latents.
        standardize: vectors come to the networks with mean 0 and standard deviation 1, see ``Standardize``.
        optimizer: used by ``L.Trainer`` alone; the training loop has one optimizer for everything.
        scales: factor on each loss, used by ``L.Trainer`` alone.
    """

    def __init__(
        self,
        specs: Specs | dict[str, Any],
        *,
        encoder: Callable[[Specs], Encoder] = DictEncoder,
        rssm: Callable[[int, int], nn.Module] = BlockRSSM,
        decoder: Callable[[Specs, int, int], Decoder] = DictDecoder,
        reward: Callable[[int], Head] = RewardHead,
        cont: Callable[[int], Head] = BinaryHead,
        horizon: float = 333.0,
        contdisc: bool = True,
        reward_grad: bool = True,
        standardize: bool = False,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = LaProp,
        scales: dict[str, float] | None = None,
    ):
        super().__init__()
        specs = specs if isinstance(specs, Specs) else Specs.from_dict(specs)
        self.save_hyperparameters(
            {
                "specs": asdict(specs),
                "horizon": horizon,
                "contdisc": contdisc,
                "reward_grad": reward_grad,
                "standardize": standardize,
                "scales": scales,
            }
        )
        self.specs, self.horizon, self.contdisc, self.reward_grad = specs, horizon, contdisc, reward_grad
        self.standardize = Standardize(specs) if standardize else None
        self.encoder = encoder(specs)
        self.rssm = rssm(specs.action_dim, self.encoder.embed_dim)
        self.decoder = decoder(specs, self.rssm.deter_dim, self.rssm.stoch_dim)
        self.feat_dim = self.rssm.deter_dim + self.rssm.stoch_dim
        self.reward, self.cont = reward(self.feat_dim), cont(self.feat_dim)
        self.optimizer, self.scales = optimizer, {**SCALES, **(scales or {})}

    def forward(
        self, records: dict[str, Any], carry: Latent, noise: Shaped[Tensor, "b t ..."]
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
        latent, post_logits = self.rssm.observe(carry, records["prev_action"], self.encoder(obs), is_first, noise)
        prior_logits = self.rssm.prior(latent.deter)
        losses, metrics = self.rssm.loss(post_logits, prior_logits)
        for key, output in self.decoder(latent).items():
            losses[f"recon/{key}"] = output.loss(obs[key])
        feat = latent.feat
        losses["reward"] = self.reward(feat if self.reward_grad else feat.detach()).loss(records["reward"])
        losses["cont"] = self.cont(feat).loss(self.cont_target(records["is_terminal"]))
        assert all(loss.shape == is_first.shape for loss in losses.values())
        return losses, Observed(latent, post_logits, prior_logits), metrics

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

    def reconstruct(self, latent: Latent) -> dict[str, Tensor]:
        """What the decoder sees in latents, in the environment's units (images in [0, 1])."""
        seen = {key: output.pred() for key, output in self.decoder(latent).items()}
        return seen if self.standardize is None else {key: self.standardize.undo(key, x) for key, x in seen.items()}

    def cont_target(self, is_terminal: Tensor) -> Tensor:
        """Probability that life goes on: the target of the continue head."""
        return (~is_terminal).float() * ((1 - 1 / self.horizon) if self.contdisc else 1.0)

    # What the actor-critic asks of its dynamics.

    def imagine(
        self, latent: Latent, policy: Policy, noise: Shaped[Tensor, "n h ..."]
    ) -> tuple[Latent, Float[Tensor, "n h+1 a"]]:
        """Dream from latents [n, .] under a policy; see ``BlockRSSM.imagine``."""
        return self.rssm.imagine(latent, policy, noise)

    def retrace(self, latent: Latent, action: Float[Tensor, "n h+1 a"]) -> Latent:
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

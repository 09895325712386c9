"""The fast twin of ``BlockRSSM``: what does not recur is done for all steps at once, the rest by loops over the steps.

Observing and retracing have a backward of their own (`scan`), on any device. On a CPU the loops are compiled ones
(`loops`), and so are dreaming and acting.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dreamer_lightning.kernels import fused, loops
from dreamer_lightning.kernels.precision import full_precision
from dreamer_lightning.kernels.scan import ObserveScan, RetraceScan, Shape, Weights, sizes
from dreamer_lightning.kernels.twins import FastCategorical, FastMLP
from dreamer_lightning.kernels.watch import Twin, exact
from dreamer_lightning.nets.blocks import BlockLinear, Linear, RMSNorm
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.latents import Categorical
from dreamer_lightning.nets.rssm import BlockRSSM, Policy
from dreamer_lightning.ops.scalars import precise
from dreamer_lightning.types import Carried, Latent

MLPS = ("deter_in", "stoch_in", "action_in", "post_mlp", "prior_mlp")
OWN = (
    "observe",
    "observe_packed",
    "imagine",
    "unroll",
    "retrace",
)  # methods that are called, and may be replaced in the object


class Read(NamedTuple):
    """The layers that the loops read; of MLPs, linear layer and norm of each of their layers."""

    deter_in: tuple[Any, Any]
    stoch_in: tuple[Any, Any]
    action_in: tuple[Any, Any]
    hidden: Any
    hidden_norm: Any
    gates: Any
    post_mlp: tuple[Any, Any]
    post_logits: Any
    prior_mlp: tuple[tuple[Any, Any], ...]
    prior_logits: Any


class Joined(Latent):
    """A latent whose parts lie side by side in ``feat`` [*b, d+z] already, which is not joined anew."""

    whole: Tensor | None = None

    @classmethod
    def of(cls, feat: Tensor, deter_dim: int) -> Joined:
        self = cls(feat[..., :deter_dim], feat[..., deter_dim:])
        self.whole = feat
        return self

    @property
    def feat(self) -> Tensor:
        return Latent(*self).feat if self.whole is None else self.whole  # None: rebuilt from its parts alone


class FastBlockRSSM(Twin, BlockRSSM):
    plain = BlockRSSM
    read: Read

    @classmethod
    def reads(cls, rssm: BlockRSSM) -> Read | None:
        """Its layers, if they are of the number and the kinds that V3 has, with categorical latents."""
        mlps = [FastMLP.reads(mlp) if exact(mlp, FastMLP.plain) else None for mlp in (getattr(rssm, x) for x in MLPS)]
        lists, layers = (rssm.hidden, rssm.hidden_norm), (rssm.gates, rssm.post_logits, rssm.prior_logits)
        kinds = [*((x, nn.ModuleList) for x in lists), *zip(layers, (BlockLinear, Linear, Linear), strict=True)]
        if not exact(rssm, BlockRSSM, OWN) or not all(exact(*pair) for pair in kinds) or None in mlps:
            return None
        once = len(rssm.hidden) == len(rssm.hidden_norm) == 1 and all(len(mlp) == 1 for mlp in mlps[:-1])
        if (
            not once
            or rssm.absolute
            or rssm.act is not F.silu
            or type(rssm.latents) not in (Categorical, FastCategorical)
        ):
            return None
        hidden, norm = rssm.hidden[0], rssm.hidden_norm[0]
        if not exact(hidden, BlockLinear) or not exact(norm, RMSNorm):
            return None
        if len({norm.eps, *(norm.eps for mlp in mlps for _, norm in mlp)}) > 1:
            return None
        h, z, a, post = (mlp[0] for mlp in mlps[:-1])
        return Read(h, z, a, hidden, norm, rssm.gates, post, rssm.post_logits, mlps[-1], rssm.prior_logits)

    def observe(
        self,
        latent: Carried,
        prev_action: Float[Tensor, "b t a"],
        embed: Float[Tensor, "b t e"],
        is_first: Bool[Tensor, "b t"],
        noise: Shaped[Tensor, "b t s"],
    ) -> tuple[Latent, Float[Tensor, "b t s c"]]:
        if not self.scans():
            return super().observe(latent, prev_action, embed, is_first, noise)
        with full_precision(latent.deter.device):
            latent, prev_action, embed = latent.map(precise), precise(prev_action), precise(embed)
            return self.scan(
                latent, prev_action, embed, is_first, precise(noise) if noise.is_floating_point() else noise
            )

    def scans(self) -> bool:
        """Whether the scans can take a sequence: float32 weights, no tracer. They stay in float32 under autocast: their
        products have few rows and wait for memory and launches, so that fewer bits win little there."""
        if not torch.compiler.is_compiling() and (torch.jit.is_tracing() or fused.heard()):
            return False
        return self.read.gates.weight.dtype == torch.float32

    def scan(self, latent: Carried, prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor):
        """``observe`` in float32."""
        b, t = is_first.shape
        latent, noise = latent.map(lambda x: x.expand(b, -1)), noise.expand(b, t, self.latents.groups)
        keep = (~is_first).to(embed.dtype).t().contiguous().unsqueeze(-1)  # [t b 1]
        first = self.read.post_mlp[0]
        action_in = self.project_action(prev_action.transpose(0, 1) * keep)
        embed_in = F.linear(embed.transpose(0, 1), first.weight[:, self.deter_dim :], first.bias)
        weights, shape = self.recurrent()
        given = (*latent, action_in, embed_in, keep, noise.transpose(0, 1).contiguous(), shape)
        deter, stoch, logits = (x.transpose(0, 1) for x in ObserveScan.apply(*given, *weights))
        return Latent(deter, stoch), self.latents.params(logits)

    def observe_packed(
        self,
        packed: dict[str, Tensor],
        prev_action: Float[Tensor, "b a"],
        embed: Float[Tensor, "b e"],
        is_first: Bool[Tensor, " b"],
        noise: Shaped[Tensor, "b ..."],
    ) -> tuple[Float[Tensor, "b f"], dict[str, Tensor]]:
        if not self.acts(packed, prev_action, embed, is_first, noise):
            return super().observe_packed(packed, prev_action, embed, is_first, noise)
        (layer, norm), post = self.read.action_in, self.read.post_mlp[0]
        weights, shape = self.recurrent()
        loop = loops.ScanLoop(weights, sizes(weights, shape, 1, len(embed)))
        around = (layer.weight.contiguous(), layer.bias, norm.weight, post.weight[:, self.deter_dim :], post.bias)
        step = loops.Step(packed["deter"], packed["stoch"], prev_action, is_first, embed, noise)
        feat, deter, stoch = loop.act(step, around)
        return feat, {"deter": deter, "stoch": stoch}

    def acts(
        self, packed: dict[str, Tensor], prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor
    ) -> bool:
        """Whether the compiled step can take these: few rows of the right shapes, without a gradient."""
        deter, stoch = packed["deter"], packed["stoch"]
        if torch.is_grad_enabled() or deter.ndim != 2 or not len(deter) <= loops.FEW:
            return False
        n, groups = len(deter), self.latents.groups
        known = stoch.dtype is torch.uint8 and is_first.dtype is torch.bool and is_first.shape == (n,)
        known = known and stoch.shape == noise.shape == (n, groups) and deter.shape[1] == self.deter_dim
        known = known and prev_action.shape == (n, self.action_dim) and embed.shape == (n, self.embed_dim)
        known = known and self.read.post_mlp[0].weight.is_contiguous()  # both of its parts are read where they lie
        return known and loops.usable(deter, prev_action, embed, noise, self.read.gates.weight)

    def imagine(
        self, latent: Carried, policy: Policy, noise: Shaped[Tensor, "n h ..."]
    ) -> tuple[Latent, Float[Tensor, "n h+1 a"]]:
        """Without a gradient each state is written where it stays, beside those of its step."""
        if not self.dreams(latent, noise):
            return super().imagine(latent, policy, noise)
        loop, feats, noise = self.dream(latent, noise)
        actions = [policy(feats[0], 0)]
        for step in range(len(noise)):
            action_in = self.project_action(actions[-1]).contiguous()
            loop.step(feats[step], action_in, noise[step], out=feats[step + 1])
            actions.append(policy(feats[step + 1], step + 1))
        return Joined.of(feats.transpose(0, 1), self.deter_dim), torch.stack(actions, 1)

    def unroll(self, latent: Carried, action: Float[Tensor, "n h a"], noise: Shaped[Tensor, "n h ..."]) -> Latent:
        """All actions are projected at once."""
        if not self.dreams(latent, noise):
            return super().unroll(latent, action, noise)
        action_in = self.project_action(action.transpose(0, 1)).contiguous()
        loop, feats, noise = self.dream(latent, noise)
        for step in range(len(noise)):
            loop.step(feats[step], action_in[step], noise[step], out=feats[step + 1])
        return Joined.of(feats.transpose(0, 1), self.deter_dim)

    def dream(self, latent: Carried, noise: Tensor) -> tuple[loops.DreamLoop, Tensor, Tensor]:
        """The compiled loop, its states [h+1 n d+z] with the first one filled, and the noise [h n s]."""
        n, h, _ = noise.shape
        weights, shape = self.recurrent()
        loop = loops.DreamLoop(weights, self.prior_weights(), sizes(weights, shape, h, n))
        feats = latent.deter.new_empty(h + 1, n, self.deter_dim + self.stoch_dim)
        torch.cat(latent, -1, out=feats[0])
        return loop, feats, noise.transpose(0, 1).contiguous()

    def dreams(self, latent: Carried, noise: Tensor) -> bool:
        """Whether the compiled steps can take these, without a gradient."""
        if torch.is_grad_enabled() or len(self.read.prior_mlp) > loops.MOST or torch.is_autocast_enabled("cpu"):
            return False
        fits = noise.ndim == 3 and noise.shape[2] == self.latents.groups and len(latent.deter) == len(noise)
        return fits and loops.usable(*latent, noise, self.read.gates.weight)

    def retrace(self, latent: Carried, action: Float[Tensor, "n h1 a"]) -> Latent:
        if not self.scans():
            return super().retrace(latent, action)
        with full_precision(latent.deter.device):
            latent, action = latent.map(precise), precise(action)
            action_in = frozen(self, "project_action")(action[:, :-1].transpose(0, 1))
            weights, shape = self.recurrent()
            held = [x.detach() for x in (*weights, *self.prior_weights())]
            steps = torch.cat([x.transpose(0, 1) for x in latent], -1)
            feat = RetraceScan.apply(steps, action_in, shape, len(self.read.prior_mlp), *held)
            return Joined.of(feat.transpose(0, 1), self.deter_dim)

    def recurrent(self) -> tuple[Weights, Shape]:
        """What the loops need of the layers that recur."""
        read = self.read
        (h, h_norm), (z, z_norm), (post, post_norm) = read.deter_in, read.stoch_in, read.post_mlp
        weights = Weights(
            *(h.weight, h.bias, z.weight, z.bias),
            torch.stack([h_norm.weight, z_norm.weight]),
            *(read.hidden.weight, read.hidden.bias, read.hidden_norm.weight, read.gates.weight, read.gates.bias),
            *(post.weight[:, : self.deter_dim], post_norm.weight, read.post_logits.weight, read.post_logits.bias),
        )
        kind = self.latents
        return weights, Shape(self.blocks, kind.groups, kind.classes, kind.unimix, post_norm.eps)

    def prior_weights(self) -> list[Tensor]:
        """Kernel, bias and norm of each hidden layer of the prior, kernel and bias of its logits."""
        layers = [(layer.weight, layer.bias, norm.weight) for layer, norm in self.read.prior_mlp]
        logits = self.read.prior_logits
        return [*(x for layer in layers for x in layer), logits.weight, logits.bias]

"""The Recurrent State-Space Model: a deterministic recurrence with a stochastic latent at each step.

    deter_t = f(deter_{t-1}, stoch_{t-1}, action_{t-1})         the recurrence (`core`)
    stoch_t ~ q(stoch_t | deter_t, embed_t)                     post: what was seen is known
    stoch_t ~ p(stoch_t | deter_t)                              prior: what will be seen is guessed

Time: `observe` consumes the action that led to an observation together with that observation.
Noise is an argument everywhere, so that a draw can be repeated, shared or recorded.

Source: DreamerV3, equation 1; danijar/dreamerv3@e3f0224 dreamerv3/rssm.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dreamer_lightning.nets import fast
from dreamer_lightning.nets.blocks import MLP, BlockLinear, Linear, RMSNorm, activation
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.ops import onehot
from dreamer_lightning.types import Latent, Losses, Metrics, UserError

Policy = Callable[[Tensor, int], Tensor]  # (feat [n, f], imagined step) -> action [n, a]


class RSSM(nn.Module):
    """A recurrent model that a config can name; it offers what ``BlockRSSM`` does."""

    deter_dim: int
    stoch_dim: int


class BlockRSSM(RSSM):
    """DreamerV3's RSSM: a block-diagonal GRU and a vector of categorical latents.

    Args:
        action_dim: size ``a`` of the flat action vector.
        embed_dim: size ``e`` of the encoder's output.
        deter: width of the deterministic state.
        hidden: width of the hidden layers.
        stoch: number of categorical latents.
        classes: classes of each.
        blocks: blocks of the recurrent layers; divides ``deter``.
        dyn_layers: hidden block-linear layers of the recurrence.
        obs_layers: hidden layers of the posterior.
        img_layers: hidden layers of the prior.
        unimix: share of the uniform distribution in every latent's probabilities.
        free_nats: KL per time step below which it is not reduced further, in nats.
        absolute: the posterior sees the observation alone, not the deterministic state.
        outscale: scale of the initial logit layers.
        act: activation.
    """

    def __init__(
        self,
        action_dim: int,
        embed_dim: int,
        *,
        deter: int = 512,
        hidden: int = 64,
        stoch: int = 32,
        classes: int = 4,
        blocks: int = 8,
        dyn_layers: int = 1,
        obs_layers: int = 1,
        img_layers: int = 2,
        unimix: float = 0.01,
        free_nats: float = 1.0,
        absolute: bool = False,
        outscale: float = 1.0,
        act: str = "silu",
    ):
        super().__init__()
        if deter % blocks:
            raise UserError(f"rssm.deter={deter} is not a multiple of rssm.blocks={blocks}")
        self.action_dim, self.deter_dim, self.stoch_dim = action_dim, deter, stoch * classes
        self.stoch, self.classes, self.blocks = stoch, classes, blocks
        self.unimix, self.free_nats, self.absolute = unimix, free_nats, absolute
        self.act = activation(act)
        self.deter_in = MLP(deter, hidden, 1, act)
        self.stoch_in = MLP(self.stoch_dim, hidden, 1, act)
        self.action_in = MLP(action_dim, hidden, 1, act)
        first = deter + blocks * 3 * hidden
        widths = [first] + [deter] * (dyn_layers - 1)
        self.hidden = nn.ModuleList(BlockLinear(width, deter, blocks) for width in widths)
        self.hidden_norm = nn.ModuleList(RMSNorm(deter) for _ in widths)
        self.gates = BlockLinear(deter if widths else first, 3 * deter, blocks)
        self.post_mlp = MLP(embed_dim if absolute else deter + embed_dim, hidden, obs_layers, act)
        self.scannable = dyn_layers == obs_layers == 1 and act == "silu" and not absolute
        self.post_logits = Linear(self.post_mlp.out_dim, self.stoch_dim, outscale)
        self.prior_mlp = MLP(deter, hidden, img_layers, act)
        self.prior_logits = Linear(self.prior_mlp.out_dim, self.stoch_dim, outscale)

    # One step: the equations.

    def core(self, latent: Latent, action_in: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b d"]:
        """The recurrence: next ``deter`` from the latent and the projected action."""
        x = torch.cat([self.deter_in(latent.deter), self.stoch_in(latent.stoch), action_in], -1)
        deter = latent.deter
        for layer, norm in zip(self.hidden, self.hidden_norm, strict=True):
            deter, x = (
                self.act(norm(layer(deter, x))),
                None,
            )  # in the first layer each block sees its own part and all of x
        reset, cand, update = self.gates.blocked(deter, x).chunk(3, -1)  # [g n d/g] each
        cand = torch.tanh(torch.sigmoid(reset) * cand)
        update = torch.sigmoid(update - 1)
        old = latent.deter.reshape(-1, self.blocks, cand.shape[-1]).transpose(0, 1)
        return torch.lerp(old, cand, update).transpose(0, 1).reshape(latent.deter.shape)

    def observe_step(
        self,
        latent: Latent,
        prev_action: Float[Tensor, "*b a"],
        embed: Float[Tensor, "*b e"],
        is_first: Bool[Tensor, "*b"],
        noise: Shaped[Tensor, "*b s"],
    ) -> tuple[Latent, Float[Tensor, "*b s c"]]:
        """One step on real data; where ``is_first``, the past is zeroed. Returns the posterior latent and logits."""
        keep = (~is_first).to(embed.dtype).unsqueeze(-1)
        latent = latent.map(lambda x: x * keep)
        deter = self.core(latent, self.project_action(prev_action * keep))
        logits = self.post(deter, embed)
        return Latent(deter, self.draw(logits, noise)), logits

    def imagine_step(
        self, latent: Latent, action: Float[Tensor, "*b a"], noise: Shaped[Tensor, "*b s"]
    ) -> tuple[Latent, Float[Tensor, "*b s c"]]:
        """One step in the dream. Returns the prior latent and its logits."""
        deter = self.core(latent, self.project_action(action))
        logits = self.prior(deter)
        return Latent(deter, self.draw(logits, noise)), logits

    # Sequences.

    def observe(
        self,
        latent: Latent,
        prev_action: Float[Tensor, "b t a"],
        embed: Float[Tensor, "b t e"],
        is_first: Bool[Tensor, "b t"],
        noise: Shaped[Tensor, "b t s"],
    ) -> tuple[Latent, Float[Tensor, "b t s c"]]:
        """Filter a sequence of real data.

        Args:
            latent: latent of the step before the sequence.
            prev_action: action that led to each observation.
            embed: encoder output of each observation.
            is_first: observations that begin an episode.
            noise: see ``noise``.

        Returns:
            Posterior latents [b, t, .] and their logits.
        """
        if fast.possible(self, embed, latent.deter):
            return fast.observe(self, latent, prev_action, embed, is_first, noise)
        latents, logits = [], []
        for t in range(embed.shape[1]):
            latent, logit = self.observe_step(latent, prev_action[:, t], embed[:, t], is_first[:, t], noise[:, t])
            latents.append(latent)
            logits.append(logit)
        return stack(latents), torch.stack(logits, 1)

    def imagine(
        self, latent: Latent, policy: Policy, noise: Shaped[Tensor, "n h s"]
    ) -> tuple[Latent, Float[Tensor, "n h+1 a"]]:
        """Dream ``h`` steps ahead.

        Args:
            latent: start states [n, .].
            policy: chooses an action from ``feat``, also for the last state.
            noise: see ``noise``; its length is the length of the dream.

        Returns:
            Latents of the start and the ``h`` dreamed states, and the action taken at each.
        """
        latents, actions = [latent], [policy(latent.feat, 0)]
        for step in range(noise.shape[1]):
            latent, _ = self.imagine_step(latent, actions[-1], noise[:, step])
            latents.append(latent)
            actions.append(policy(latent.feat, step + 1))
        return stack(latents), torch.stack(actions, 1)

    def retrace(self, latent: Latent, action: Float[Tensor, "n h+1 a"]) -> Latent:
        """A dream that was dreamed without autograd, as a function of its actions, the weights held.

        Args:
            latent: its states [n, h+1, .].
            action: the actions taken at each, with a gradient.

        Returns:
            The same states; gradients flow from each to the actions before it.
        """
        if fast.possible(self, latent.deter):
            return fast.retrace(self, latent, action)
        return frozen(self, "retrace_steps")(latent, action)

    def retrace_steps(self, latent: Latent, action: Float[Tensor, "n h+1 a"]) -> Latent:
        """``retrace`` step by step."""
        drawn = latent.stoch.unflatten(-1, (self.stoch, self.classes)).argmax(-1)
        latents = [latent.map(lambda x: x[:, 0])]
        for step in range(drawn.shape[1] - 1):
            latents.append(self.imagine_step(latents[-1], action[:, step], drawn[:, step + 1])[0])
        return stack(latents)

    # The pieces.

    def project_action(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b hidden"]:
        """Project the action, scaled back to [-1, 1] without a gradient through the scale."""
        return self.action_in(action / action.detach().abs().clamp(min=1))

    def post(self, deter: Float[Tensor, "*b d"], embed: Float[Tensor, "*b e"]) -> Float[Tensor, "*b s c"]:
        """Logits of ``stoch`` given the past and the observation."""
        x = embed if self.absolute else torch.cat([deter, embed], -1)
        return self.post_logits(self.post_mlp(x)).unflatten(-1, (self.stoch, self.classes))

    def prior(self, deter: Float[Tensor, "*b d"]) -> Float[Tensor, "*b s c"]:
        """Logits of ``stoch`` given the past alone."""
        return self.prior_logits(self.prior_mlp(deter)).unflatten(-1, (self.stoch, self.classes))

    def draw(self, logits: Float[Tensor, "*b s c"], noise: Shaped[Tensor, "*b s"]) -> Float[Tensor, "*b z"]:
        """A straight-through sample of ``stoch``, flat."""
        return onehot.sample(onehot.mixed_probs(logits, self.unimix), noise).flatten(-2).to(logits.dtype)

    def loss(
        self, post_logits: Float[Tensor, "*b s c"], prior_logits: Float[Tensor, "*b s c"]
    ) -> tuple[Losses, Metrics]:
        """KL between post and prior, each side held in turn; clipped per time step, summed over latents first.

        Returns:
            ``dyn`` = max(free, KL(sg(post) || prior)) trains the prior, ``rep`` = max(free, KL(post || sg(prior)))
            trains the post; both [*b], in nats.
        """
        post, prior = onehot.log_probs(post_logits, self.unimix), onehot.log_probs(prior_logits, self.unimix)
        dyn = onehot.kl(post.detach(), prior).sum(-1).clamp(min=self.free_nats)
        rep = onehot.kl(post, prior.detach()).sum(-1).clamp(min=self.free_nats)
        with torch.no_grad():
            metrics = {
                "prior_entropy": onehot.entropy(prior).sum(-1).mean(),
                "post_entropy": onehot.entropy(post).sum(-1).mean(),
            }
        return {"dyn": dyn, "rep": rep}, metrics

    def initial(self, *batch: int, device: torch.device | None = None) -> Latent:
        """The state before anything was seen: zeros."""
        device = device or self.prior_logits.weight.device
        return Latent(
            torch.zeros(*batch, self.deter_dim, device=device), torch.zeros(*batch, self.stoch_dim, device=device)
        )

    def noise(self, *batch: int, generator: torch.Generator | None = None) -> Float[Tensor, "*b s"]:
        """Uniform draws for ``observe`` (batch b, t) or ``imagine`` (batch n, h)."""
        device = generator.device if generator else self.prior_logits.weight.device
        return torch.rand(*batch, self.stoch, generator=generator, device=device)

    def pack(self, latent: Latent) -> dict[str, Tensor]:
        """The form in which replay keeps a latent: ``stoch`` as class indices (all zero stays the zero vector)."""
        index = latent.stoch.detach().unflatten(-1, (self.stoch, self.classes))
        kind = torch.uint8 if self.classes < 256 else torch.int16
        index = (index.argmax(-1) + 1) * (index.sum(-1) > 0.5)  # 0 says: no class, the state at a reset
        return {"deter": latent.deter.detach().float(), "stoch": index.to(kind)}

    def unpack(self, packed: dict[str, Tensor]) -> Latent:
        """The inverse of ``pack``."""
        classes = torch.arange(1, self.classes + 1, device=packed["stoch"].device)
        stoch = (packed["stoch"].long().unsqueeze(-1) == classes).flatten(-2)
        return Latent(packed["deter"], stoch.to(packed["deter"].dtype))


def stack(latents: list[Latent]) -> Latent:
    """Latents of successive steps [*b, .] as one [*b, t, .]."""
    return Latent(torch.stack([x.deter for x in latents], -2), torch.stack([x.stoch for x in latents], -2))

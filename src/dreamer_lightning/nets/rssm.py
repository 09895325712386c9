"""The Recurrent State-Space Model: a deterministic recurrence with a stochastic latent at each step.

    deter_t = f(deter_{t-1}, stoch_{t-1}, action_{t-1})         the recurrence (`core`)
    stoch_t ~ q(stoch_t | deter_t, embed_t)                     post: what was seen is known
    stoch_t ~ p(stoch_t | deter_t)                              prior: what will be seen is guessed

Time: `observe` consumes the action that led to an observation together with that observation.
Noise is an argument everywhere, so that a draw can be repeated, shared or recorded.

Source: DreamerV3, equation 1; danijar/dreamerv3@e3f0224 dreamerv3/rssm.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dreamer_lightning.nets.blocks import MLP, BlockLinear, Linear, RMSNorm, activation
from dreamer_lightning.nets.dynamics import Dynamics
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.latents import FREE, Categorical, FreeNats, Latents
from dreamer_lightning.ops.scalars import tanh
from dreamer_lightning.types import Carried, Losses, Metrics, UserError

Policy = Callable[[Tensor, int], Tensor]  # (feat [n, f], imagined step) -> action [n, a]


class RSSM(Dynamics, ABC):
    """What every RSSM shares: steps, sequences and losses over a recurrence and a kind of latent of its own.

    Args:
        action_dim: size ``a`` of the flat action vector.
        deter: width of the deterministic state.
        latents: the kind of ``stoch``.
        free_nats: KL below which it is not reduced further, in nats.
        free: where free nats apply, ``per_step`` or ``batch_mean``.
    """

    def __init__(self, action_dim: int, deter: int, latents: Latents, free_nats: float, free: FreeNats):
        super().__init__(action_dim, deter, latents)
        self.free_nats, self.free = free_nats, FREE[free]

    @abstractmethod
    def core(self, latent: Carried, action_in: Float[Tensor, "*b i"]) -> Carried:
        """The recurrence: the next latent, but for its ``stoch``, from the action as ``project_action`` gives it."""

    @abstractmethod
    def project_action(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b i"]:
        """The action as the recurrence takes it."""

    @abstractmethod
    def post(self, deter: Float[Tensor, "*b d"], embed: Float[Tensor, "*b e"]) -> Float[Tensor, ...]:
        """Parameters of ``stoch`` given the past and the observation."""

    @abstractmethod
    def prior(self, deter: Float[Tensor, "*b d"]) -> Float[Tensor, ...]:
        """Parameters of ``stoch`` given the past alone."""

    # One step: the equations.

    def observe_step(
        self,
        latent: Carried,
        prev_action: Float[Tensor, "*b a"],
        embed: Float[Tensor, "*b e"],
        is_first: Bool[Tensor, "*b"],
        noise: Shaped[Tensor, "*b n"],
    ) -> tuple[Carried, Float[Tensor, ...]]:
        """One step on real data; where ``is_first``, the past is forgotten. Returns the posterior latent and logits."""
        keep = (~is_first).to(embed.dtype).unsqueeze(-1)
        latent = self.core(self.forget(latent, keep), self.project_action(prev_action * keep))
        logits = self.post(latent.deter, embed)
        return latent._replace(stoch=self.draw(logits, noise)), logits

    def imagine_step(
        self, latent: Carried, action: Float[Tensor, "*b a"], noise: Shaped[Tensor, "*b n"]
    ) -> tuple[Carried, Float[Tensor, ...]]:
        """One step in the dream. Returns the prior latent and its logits."""
        latent = self.core(latent, self.project_action(action))
        logits = self.prior(latent.deter)
        return latent._replace(stoch=self.draw(logits, noise)), logits

    # Sequences.

    def observe(
        self,
        latent: Carried,
        prev_action: Float[Tensor, "b t a"],
        embed: Float[Tensor, "b t e"],
        is_first: Bool[Tensor, "b t"],
        noise: Shaped[Tensor, "b t ..."],
    ) -> tuple[Carried, Float[Tensor, "b t ..."]]:
        """Filter a sequence of real data: posterior latents [b, t, .] and their logits.

        Args:
            latent: latent of the step before the sequence.
            prev_action: action that led to each observation.
            embed: encoder output of each observation.
            is_first: observations that begin an episode.
            noise: see ``noise``.
        """
        latents, logits = [], []
        for t in range(embed.shape[1]):
            latent, logit = self.observe_step(latent, prev_action[:, t], embed[:, t], is_first[:, t], noise[:, t])
            latents.append(latent)
            logits.append(logit)
        return Carried.stack(latents), torch.stack(logits, 1)

    def imagine(
        self, latent: Carried, policy: Policy, noise: Shaped[Tensor, "n h ..."]
    ) -> tuple[Carried, Float[Tensor, "n h+1 a"]]:
        """Dream ``h`` steps ahead: latents of the start and the ``h`` dreamed states, and the action taken at each.

        Args:
            latent: start states [n, .].
            policy: chooses an action from ``feat``, also for the last state.
            noise: see ``noise``; its length is the length of the dream.
        """
        latents, actions = [latent], [policy(latent.feat, 0)]
        for step in range(noise.shape[1]):
            latent, _ = self.imagine_step(latent, actions[-1], noise[:, step])
            latents.append(latent)
            actions.append(policy(latent.feat, step + 1))
        return Carried.stack(latents), torch.stack(actions, 1)

    def unroll(self, latent: Carried, action: Float[Tensor, "n h a"], noise: Shaped[Tensor, "n h ..."]) -> Carried:
        """Dream under given actions: latents [n, h+1, .] of the start and of what each action leads to.

        Args: as for ``imagine``, without a policy.
        """
        last = action.shape[1] - 1  # the last state's action leads nowhere
        return self.imagine(latent, lambda _, step: action[:, min(step, last)], noise)[0]

    def retrace(self, latent: Carried, action: Float[Tensor, "n h1 a"]) -> Carried:
        """A dream that was dreamed without autograd, as a function of its actions, the weights held: the same states,
        from each of which gradients flow to the actions before it.

        Args:
            latent: its states [n, h+1, .].
            action: the actions taken at each, with a gradient.
        """
        return frozen(self, "retrace_steps")(latent, action)

    def retrace_steps(self, latent: Carried, action: Float[Tensor, "n h1 a"]) -> Carried:
        """``retrace`` step by step."""
        latents = [latent.map(lambda x: x[:, 0])]
        for step in range(1, action.shape[1]):
            state = self.core(latents[-1], self.project_action(action[:, step - 1]))
            logits = self.prior(state.deter)
            noise = self.latents.noise_of(logits, latent.stoch[:, step])
            latents.append(state._replace(stoch=self.draw(logits, noise)))
        return Carried.stack(latents)

    def draw(self, params: Float[Tensor, ...], noise: Shaped[Tensor, "*b n"]) -> Float[Tensor, "*b z"]:
        """A draw of ``stoch``, flat, with a gradient."""
        return self.latents.draw(params, noise)

    def loss(self, post: Float[Tensor, " *params"], prior: Float[Tensor, " *params"]) -> tuple[Losses, Metrics]:
        """KL between post and prior, each side held in turn; summed over the latents, then clipped to the free nats.

        ``dyn`` = max(free, KL(sg(post) || prior)) trains the prior, ``rep`` = max(free, KL(post || sg(prior))) the
        post; both [*b], in nats.
        """
        kl = self.latents.divergence(post, prior)
        metrics = {"prior_entropy": kl.prior_entropy.mean(), "post_entropy": kl.post_entropy.mean()}
        return {"dyn": self.free(kl.dyn, self.free_nats), "rep": self.free(kl.rep, self.free_nats)}, metrics


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
        latents: another kind of latents than those that the three options above describe.
        free_nats: KL per time step below which it is not reduced further, in nats.
        free: where free nats apply, ``per_step`` or ``batch_mean``.
        absolute: the posterior sees the observation alone, not ``deter``.
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
        latents: Callable[[], Latents] | None = None,
        free_nats: float = 1.0,
        free: FreeNats = "per_step",
        absolute: bool = False,
        outscale: float = 1.0,
        act: str = "silu",
    ):
        if deter % blocks:
            raise UserError(f"rssm.deter={deter} is not a multiple of rssm.blocks={blocks}")
        kind = latents() if latents else Categorical(stoch, classes, unimix)
        super().__init__(action_dim, deter, kind, free_nats, free)
        self.embed_dim, self.stoch, self.classes, self.unimix = embed_dim, stoch, classes, unimix
        self.blocks, self.absolute, self.act = blocks, absolute, activation(act)
        self.deter_in = MLP(deter, hidden, 1, act)
        self.stoch_in = MLP(self.stoch_dim, hidden, 1, act)
        self.action_in = MLP(action_dim, hidden, 1, act)
        first = deter + blocks * 3 * hidden
        widths = [first] + [deter] * (dyn_layers - 1)
        self.hidden = nn.ModuleList(BlockLinear(width, deter, blocks) for width in widths)
        self.hidden_norm = nn.ModuleList(RMSNorm(deter) for _ in widths)
        self.gates = BlockLinear(deter if widths else first, 3 * deter, blocks)
        self.post_mlp = MLP(embed_dim if absolute else deter + embed_dim, hidden, obs_layers, act)
        self.post_logits = Linear(self.post_mlp.out_dim, self.latents.param_dim, outscale)
        self.prior_mlp = MLP(deter, hidden, img_layers, act)
        self.prior_logits = Linear(self.prior_mlp.out_dim, self.latents.param_dim, outscale)

    def core(self, latent: Carried, action_in: Float[Tensor, "*b hidden"]) -> Carried:
        """The recurrence: next ``deter`` from the latent and the projected action."""
        x = torch.cat([self.deter_in(latent.deter), self.stoch_in(latent.stoch), action_in], -1)
        deter = latent.deter
        for layer, norm in zip(self.hidden, self.hidden_norm, strict=True):
            deter, x = self.act(norm(layer(deter, x))), None  # at first, each block sees its part and all of x
        deter = gru(self.gates.blocked(deter, x), latent.deter.flatten(0, -2)).view(latent.deter.shape)
        return latent._replace(deter=deter)

    def project_action(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b hidden"]:
        """Project the action, scaled back to [-1, 1] without a gradient through the scale."""
        return self.action_in(action / action.detach().abs().clamp(min=1))

    def post(self, deter: Float[Tensor, "*b d"], embed: Float[Tensor, "*b e"]) -> Float[Tensor, ...]:
        x = embed if self.absolute else torch.cat([deter, embed], -1)
        return self.latents.params(self.post_logits(self.post_mlp(x)))

    def prior(self, deter: Float[Tensor, "*b d"]) -> Float[Tensor, ...]:
        return self.latents.params(self.prior_logits(self.prior_mlp(deter)))


def gru(gates: Float[Tensor, "g n k3"], deter: Float[Tensor, "n gk"]) -> Float[Tensor, "n gk"]:
    """The next state of a block GRU, ``deter + sigmoid(u - 1) (tanh(sigmoid(r) c) - deter)``.

    Args:
        gates: r, c and u side by side in each block.
        deter: the state, block-major.
    """
    reset, cand, update = gates.chunk(3, -1)  # [g n k]
    cand, update = tanh(torch.sigmoid(reset) * cand), torch.sigmoid(update - 1)
    old = deter.unflatten(-1, (len(gates), -1)).transpose(0, 1)
    return torch.lerp(old, cand.to(old.dtype), update.to(old.dtype)).transpose(0, 1).reshape(deter.shape)

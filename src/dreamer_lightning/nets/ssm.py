"""A world model of linear recurrences: what is remembered decays and turns, nothing is gated.

    stoch_t ~ q(stoch_t | embed_t)                              the observation alone: all steps of a sequence at once
    s_t = lambda s_{t-1} + gamma B u_t,  |lambda| < 1            each layer's memory, complex, one number at a time
    x_t = u_t + GLU(Re(C s_t) + D u_t)                          what the next layer sees; the last one's is deter

A linear recurrence over a whole sequence is a scan in log(t) steps. The posterior must not see `deter` for that.

Source: the layer is the LRU of Orvieto et al. 2023, arXiv 2303.06349; as a world model S4WM (Deng et al. 2023,
arXiv 2307.02064) and R2I (Samsami et al. 2024, arXiv 2403.04253).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from dreamer_lightning.nets.blocks import MLP, Linear, RMSNorm
from dreamer_lightning.nets.latents import Categorical, FreeNats
from dreamer_lightning.nets.rssm import RSSM
from dreamer_lightning.types import Carried


class Memory(NamedTuple("Memory", [("deter", Tensor), ("stoch", Tensor), ("states", Tensor)]), Carried):
    """``deter`` [*b, d], ``stoch`` [*b, z], and the layers' states side by side [*b, layers 2 m]."""

    __slots__ = ()


class LinearLayer(nn.Module):
    """A linear recurrent unit with its residual branch.

    Args:
        width: size ``d`` of what goes in and comes out.
        states: complex numbers ``m`` that are remembered.
        radii: range in which the sizes of lambda begin; near 1 remembers long.
        turn: largest initial angle of lambda.
    """

    def __init__(self, width: int, states: int, radii: tuple[float, float] = (0.5, 0.99), turn: float = math.pi / 10):
        super().__init__()
        low, high = radii
        radius = torch.sqrt(torch.rand(states) * (high**2 - low**2) + low**2)  # even over the ring's area
        self.log_decay = nn.Parameter(torch.log(-torch.log(radius)))
        self.log_angle = nn.Parameter(torch.log(turn * torch.rand(states).clamp(min=1e-3)))
        self.norm = RMSNorm(width)
        self.into = nn.Linear(width, 2 * states, bias=False)  # B, its real parts first
        self.out = nn.Linear(2 * states, width, bias=False)  # C, likewise
        self.skip = nn.Parameter(torch.randn(width))  # D
        self.glu = Linear(width, 2 * width)
        nn.init.normal_(self.into.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.out.weight, std=states**-0.5)

    def factors(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Real and imaginary part of lambda, and gamma, which keeps the states' size at one."""
        decay, angle = self.log_decay.exp(), self.log_angle.exp()
        radius = torch.exp(-decay)
        return radius * angle.cos(), radius * angle.sin(), torch.sqrt(-torch.expm1(-2 * decay))

    def step(
        self, x: Float[Tensor, "*b d"], states: Float[Tensor, "*b m2"]
    ) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b m2"]]:
        """One step: what comes out, and the new states."""
        turn_re, turn_im, gain = self.factors()
        normed = self.norm(x)
        in_re, in_im = self.into(normed).float().chunk(2, -1)
        old_re, old_im = states.float().chunk(2, -1)
        new_re = turn_re * old_re - turn_im * old_im + gain * in_re
        new_im = turn_re * old_im + turn_im * old_re + gain * in_im
        states = torch.cat([new_re, new_im], -1)
        return self.read(x, normed, states), states

    def sequence(
        self, x: Float[Tensor, "b t d"], states: Float[Tensor, "b m2"], keep: Float[Tensor, "b t 1"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t m2"]]:
        """``step`` over a whole sequence; ``keep`` is 0 where the states before are forgotten."""
        turn_re, turn_im, gain = self.factors()
        normed = self.norm(x)
        in_re, in_im = self.into(normed).float().chunk(2, -1)
        states = torch.cat(scan(turn_re * keep, turn_im * keep, gain * in_re, gain * in_im, states.float()), -1)
        return self.read(x, normed, states), states

    def read(
        self, x: Float[Tensor, "*b d"], normed: Float[Tensor, "*b d"], states: Float[Tensor, "*b m2"]
    ) -> Float[Tensor, "*b d"]:
        """What comes out, given the states."""
        seen = self.out(states.to(normed.dtype)) + self.skip * normed
        return x + F.glu(self.glu(F.silu(seen)), -1)


def scan(
    turn_re: Float[Tensor, "b t m"],
    turn_im: Float[Tensor, "b t m"],
    re: Float[Tensor, "b t m"],
    im: Float[Tensor, "b t m"],
    before: Float[Tensor, "b m2"],
) -> tuple[Float[Tensor, "b t m"], Float[Tensor, "b t m"]]:
    """``s_t = turn_t s_{t-1} + input_t`` in complex numbers, by doubling: log2(t) steps over all of the sequence.

    Args:
        turn_re: factors, real part.
        turn_im: factors, imaginary part.
        re: inputs, real part.
        im: inputs, imaginary part.
        before: the states before the first step.
    """
    old_re, old_im = before.chunk(2, -1)
    first_re = re[:, 0] + turn_re[:, 0] * old_re - turn_im[:, 0] * old_im
    first_im = im[:, 0] + turn_re[:, 0] * old_im + turn_im[:, 0] * old_re
    re, im = torch.cat([first_re.unsqueeze(1), re[:, 1:]], 1), torch.cat([first_im.unsqueeze(1), im[:, 1:]], 1)
    reach = 1
    while reach < re.shape[1]:  # after each round, a step holds all inputs of twice as many steps back
        a_re, a_im, b_re, b_im = (x[:, :-reach] for x in (turn_re, turn_im, re, im))
        c_re, c_im = turn_re[:, reach:], turn_im[:, reach:]
        later_re, later_im = re[:, reach:] + c_re * b_re - c_im * b_im, im[:, reach:] + c_re * b_im + c_im * b_re
        both_re, both_im = c_re * a_re - c_im * a_im, c_re * a_im + c_im * a_re
        re, im = torch.cat([re[:, :reach], later_re], 1), torch.cat([im[:, :reach], later_im], 1)
        turn_re = torch.cat([turn_re[:, :reach], both_re], 1)
        turn_im = torch.cat([turn_im[:, :reach], both_im], 1)
        reach *= 2
    return re, im


class LinearRSSM(RSSM):
    """A stack of linear recurrent units with a vector of categorical latents; see the module.

    Args:
        action_dim: size ``a`` of the flat action vector.
        embed_dim: size ``e`` of the encoder's output.
        deter: width of the layers.
        hidden: width of the hidden layers of posterior and prior.
        layers: how many recurrent layers.
        states: complex numbers that each layer remembers.
        stoch: number of categorical latents.
        classes: classes of each.
        unimix: share of the uniform distribution in every latent's probabilities.
        free_nats: KL per time step below which it is not reduced further, in nats.
        free: where free nats apply, ``per_step`` or ``batch_mean``.
        act: activation of posterior and prior.
    """

    carried = Memory

    def __init__(
        self,
        action_dim: int,
        embed_dim: int,
        *,
        deter: int = 128,
        hidden: int = 64,
        layers: int = 2,
        states: int = 64,
        stoch: int = 32,
        classes: int = 4,
        unimix: float = 0.01,
        free_nats: float = 1.0,
        free: FreeNats = "per_step",
        act: str = "silu",
    ):
        super().__init__(action_dim, deter, Categorical(stoch, classes, unimix), free_nats, free)
        self.embed_dim, self.states = embed_dim, 2 * states
        self.input = Linear(self.stoch_dim + action_dim, deter)
        self.layers = nn.ModuleList(LinearLayer(deter, states) for _ in range(layers))
        self.norm = RMSNorm(deter)
        self.post_mlp = MLP(embed_dim, hidden, 1, act)
        self.post_logits = Linear(hidden, self.latents.param_dim)
        self.prior_mlp = MLP(deter, hidden, 2, act)
        self.prior_logits = Linear(hidden, self.latents.param_dim)

    def initial(self, *batch: int, device: torch.device | None = None) -> Memory:
        """The state before anything was seen: zeros."""
        device = device or self.norm.weight.device
        widths = (self.deter_dim, self.stoch_dim, self.states * len(self.layers))
        return Memory(*(torch.zeros(*batch, width, device=device) for width in widths))

    def project_action(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """The action, scaled back to [-1, 1] without a gradient through the scale."""
        return action / action.detach().abs().clamp(min=1)

    def core(self, latent: Carried, action_in: Float[Tensor, "*b a"]) -> Carried:
        x, states = self.input(torch.cat([latent.stoch, action_in], -1)), []
        for layer, old in zip(self.layers, latent.states.split(self.states, -1), strict=True):  # type: ignore[attr-defined]
            x, new = layer.step(x, old)
            states.append(new)
        return latent._replace(deter=self.norm(x), states=torch.cat(states, -1))

    def observe(
        self,
        latent: Carried,
        prev_action: Float[Tensor, "b t a"],
        embed: Float[Tensor, "b t e"],
        is_first: Bool[Tensor, "b t"],
        noise: Shaped[Tensor, "b t ..."],
    ) -> tuple[Carried, Float[Tensor, "b t ..."]]:
        """``RSSM.observe`` for all steps at once."""
        keep = (~is_first).to(embed.dtype).unsqueeze(-1)
        logits = self.post(latent.deter, embed)
        stoch = self.draw(logits, noise)
        before = torch.cat([latent.stoch.unsqueeze(1), stoch[:, :-1]], 1) * keep
        x, states = self.input(torch.cat([before, self.project_action(prev_action * keep)], -1)), []
        for layer, old in zip(self.layers, latent.states.split(self.states, -1), strict=True):  # type: ignore[attr-defined]
            x, new = layer.sequence(x, old, keep)
            states.append(new)
        return Memory(self.norm(x), stoch, torch.cat(states, -1)), logits

    def post(self, deter: Float[Tensor, "*c d"], embed: Float[Tensor, "*b e"]) -> Float[Tensor, ...]:
        """Parameters of ``stoch`` given the observation; the past is not looked at."""
        return self.latents.params(self.post_logits(self.post_mlp(embed)))

    def prior(self, deter: Float[Tensor, "*b d"]) -> Float[Tensor, ...]:
        return self.latents.params(self.prior_logits(self.prior_mlp(deter)))

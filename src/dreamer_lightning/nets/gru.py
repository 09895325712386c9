"""RSSMs around a dense gated recurrent unit: DreamerV1, DreamerV2 and the DreamerV3 of 2023.

    x = MLP([stoch_{t-1}, action_{t-1}]),    deter_t = cell(x, deter_{t-1})

The cell is one part, the kind of latent another; each version names its own.

Source: danijar/dreamer@56d4d44 models.py; danijar/dreamerv2@07d906e common/nets.py; danijar/dreamerv3@8fa35f8 nets.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamer_lightning.nets.blocks import MLP, Linear
from dreamer_lightning.nets.latents import Categorical, FreeNats, Latents
from dreamer_lightning.nets.norms import LayerNorm
from dreamer_lightning.nets.rssm import RSSM
from dreamer_lightning.types import Carried, Latent


class PlainGRU(nn.GRUCell):
    """A gated recurrent unit without a norm (V1), with Keras's initial weights: it is torch's own, as Keras's is.

    r, u = sigmoid(W [x] + U [h] + b),   c = tanh(W x + b + r (U h + b')),   h' = u h + (1-u) c

    Args:
        in_dim: inputs.
        deter: width of the state.
    """

    def __init__(self, in_dim: int, deter: int):
        super().__init__(in_dim, deter)

    def reset_parameters(self) -> None:
        for kernel in (self.weight_ih, self.weight_hh):  # drawn for the three gates at once, as one [in, 3 deter]
            (nn.init.xavier_uniform_ if kernel is self.weight_ih else nn.init.orthogonal_)(kernel)
        nn.init.zeros_(self.bias_ih)
        nn.init.zeros_(self.bias_hh)


class LayerNormGRU(nn.Module):
    """A gated recurrent unit with a norm over all gates before their activations (V2, V3-2023).

    r, c, u = split(LayerNorm(W [x, h])),   c = tanh(sigmoid(r) c),   u = sigmoid(u - 1),   h' = u c + (1-u) h

    Args:
        in_dim: inputs.
        deter: width of the state.
        bias: a bias before the norm (V2), or none (V3-2023).
        init: initialiser of the kernel.
    """

    def __init__(self, in_dim: int, deter: int, *, bias: bool = True, init: str = "glorot"):
        super().__init__()
        self.gates = Linear(in_dim + deter, 3 * deter, init=init, bias=bias)
        self.norm = LayerNorm(3 * deter)

    def forward(self, x: Float[Tensor, "*b i"], deter: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        reset, cand, update = self.norm(self.gates(torch.cat([x, deter], -1))).chunk(3, -1)
        cand = torch.tanh(torch.sigmoid(reset) * cand)
        return torch.lerp(deter, cand, torch.sigmoid(update - 1))


class GRURSSM(RSSM):
    """An RSSM whose recurrence is a dense cell. The defaults are DreamerV2's on DeepMind Control.

    Args:
        action_dim: size ``a`` of the flat action vector.
        embed_dim: size ``e`` of the encoder's output.
        deter: width of the deterministic state.
        hidden: width of the hidden layers.
        cell: from the sizes of its input and of ``deter``, the recurrence: ``PlainGRU`` or ``LayerNormGRU``.
        latents: the kind of latents: ``Categorical`` or ``Gaussian``.
        free_nats: KL below which it is not reduced further, in nats.
        free: where free nats apply, ``per_step`` or ``batch_mean``.
        act: activation.
        norm: of the hidden layers, ``rms``, ``layer`` or ``none``.
        init: initialiser of the hidden layers.
    """

    def __init__(
        self,
        action_dim: int,
        embed_dim: int,
        *,
        deter: int = 200,
        hidden: int = 200,
        cell: Callable[[int, int], nn.Module] = LayerNormGRU,
        latents: Callable[[], Latents] = Categorical,
        free_nats: float = 1.0,
        free: FreeNats = "batch_mean",
        act: str = "elu",
        norm: str = "none",
        init: str = "glorot",
    ):
        super().__init__(action_dim, deter, latents(), free_nats, free)
        self.stoch_in = MLP(self.stoch_dim + action_dim, hidden, 1, act, norm, init)
        self.cell = cell(hidden, deter)
        self.post_mlp = MLP(deter + embed_dim, hidden, 1, act, norm, init)
        self.post_params = Linear(hidden, self.latents.param_dim, init="glorot")
        self.prior_mlp = MLP(deter, hidden, 1, act, norm, init)
        self.prior_params = Linear(hidden, self.latents.param_dim, init="glorot")

    def project_action(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        return action

    def core(self, latent: Carried, action_in: Float[Tensor, "*b a"]) -> Carried:
        x = self.stoch_in(torch.cat([latent.stoch, action_in], -1))
        return latent._replace(deter=self.cell(x, latent.deter.to(x.dtype)))

    def post(self, deter: Float[Tensor, "*b d"], embed: Float[Tensor, "*b e"]) -> Float[Tensor, ...]:
        return self.latents.params(self.post_params(self.post_mlp(torch.cat([deter, embed], -1))))

    def prior(self, deter: Float[Tensor, "*b d"]) -> Float[Tensor, ...]:
        return self.latents.params(self.prior_params(self.prior_mlp(deter)))


class LearnedStartRSSM(GRURSSM):
    """A ``GRURSSM`` that learns the state before an episode's first step, and scales actions back to [-1, 1] (V3-2023).

    ``deter_0 = tanh(w)``, and ``stoch_0`` is the mode of the prior there.

    Args: as ``GRURSSM``.
    """

    def __init__(self, action_dim: int, embed_dim: int, **options):
        super().__init__(action_dim, embed_dim, **options)
        self.start = nn.Parameter(torch.zeros(self.deter_dim))

    def initial(self, *batch: int, device: torch.device | None = None) -> Latent:
        """The learned state, the same for every sequence."""
        deter = torch.tanh(self.start)
        latent = Latent(deter, self.latents.mode(self.prior(deter)).to(deter.dtype))
        return latent.map(lambda x: x.to(device or x.device).expand(*batch, -1))

    def forget(self, latent: Carried, keep: Float[Tensor, "*b 1"]) -> Carried:
        start = self.initial(1)
        return Latent(*(old * keep + fresh * (1 - keep) for fresh, old in zip(start, latent, strict=True)))

    def project_action(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        return action / action.detach().abs().clamp(min=1)

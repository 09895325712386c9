"""Returns: the arithmetic between predicted rewards and the two losses that learn from them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_return(
    reward: Float[Tensor, "*b t"],
    live: Float[Tensor, "*b t"],
    boot: Float[Tensor, "*b t"],
    lam: float | Float[Tensor, "*b t"],
) -> Float[Tensor, "*b t-1"]:
    """Lambda-return at each of the first ``t-1`` states.

        R_j = r_{j+1} + live_{j+1} [ (1 - lam_{j+1}) boot_{j+1} + lam_{j+1} R_{j+1} ],    R_{t-1} = boot_{t-1}

    Args:
        reward: reward received on arriving at each state; the first has no effect.
        live: probability that the episode goes on past each state, times the discount.
        boot: value of each state.
        lam: trace decay; a tensor where a trace must be cut (0 at an episode's last state).
    Source: DreamerV3, equation 7; danijar/dreamerv3@e3f0224 dreamerv3/agent.py.
    """
    lam = lam.to(boot) if isinstance(lam, Tensor) else torch.full_like(boot, lam)  # no number is copied from the host
    through = (live * lam.expand_as(boot)).unbind(-1)
    interim = (reward + live * (1 - lam) * boot).unbind(-1)
    ret, out = boot[..., -1], []
    for j in range(boot.shape[-1] - 1, 0, -1):
        ret = torch.addcmul(interim[j], through[j], ret)
        out.append(ret)
    return torch.stack(out[::-1], -1) if out else boot[..., :0]


def dream_weight(cont: Float[Tensor, "*b t"], discount: float) -> Float[Tensor, "*b t"]:
    """Probability (times discount) that a dream is still alive at each state: ``cumprod(discount * cont) / discount``.

    Args:
        cont: predicted probability that the episode goes on past each state.
        discount: 1 where the continue head already holds the discount (``contdisc``).
    """
    return torch.cumprod(discount * cont, -1) / discount

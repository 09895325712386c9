"""Adam for the model, the actor and the critic, each with options of its own: what V1, V2 and the V3 of 2023 use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dreamer_lightning.optim.laprop import correction
from dreamer_lightning.types import UserError

OPTIONS = ("lr", "eps", "clip", "weight_decay")


class PartsAdam(torch.optim.Optimizer):
    """Three Adams in one: each part of the agent has a step size, a clip over all its gradients and a decay of its own.

    For each part, with its gradients as one vector g, and ``t`` from 1::

        g <- g min(1, clip / |g|)
        p <- (1 - weight_decay) p
        m <- b1 m + (1-b1) g;   v <- b2 v + (1-b2) g^2
        p <- p - lr m^ / (sqrt(v^) + eps)

    with ``m^ = m / (1-b1^t)`` and ``v^ = v / (1-b2^t)``. With ``keras_eps``, eps is added to ``sqrt(v)`` before that is
    corrected, which makes it larger in the first updates.

    Args:
        params: ``Parts``, whose groups are ``model``, ``actor`` and ``critic``; of a plain list all is ``model``.
        lr: learning rate.
        eps: added to the root mean square.
        clip: largest norm of a part's gradient; 0 does not clip.
        weight_decay: share that every parameter, biases included, loses at each update; not times ``lr``.
        actor: options of the actor that differ from these (lr, eps, clip, weight_decay).
        critic: options of the critic that differ.
        betas: decay of momentum and of the squared gradient.
        keras_eps: see above (V1 and V2).
    Source: danijar/dreamer@56d4d44 tools.py, danijar/dreamerv2@07d906e common/tfutils.py, danijar/dreamerv3@8fa35f8
        jaxutils.py; Kingma and Ba 2015.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-4,
        eps: float = 1e-8,
        clip: float = 1000.0,
        weight_decay: float = 0.0,
        actor: dict[str, float] | None = None,
        critic: dict[str, float] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        keras_eps: bool = False,
    ):
        shared = {"lr": lr, "eps": eps, "clip": clip, "weight_decay": weight_decay}
        own = {"actor": actor or {}, "critic": critic or {}}
        for part, options in own.items():
            unknown = sorted(set(options) - set(OPTIONS))
            if unknown:
                raise UserError(f"optimizer.{part}: unknown option '{unknown[0]}', choose from {', '.join(OPTIONS)}")
        for options in (shared, *own.values()):
            wrong = [name for name, value in options.items() if value < 0]
            if wrong:
                raise UserError(f"optimizer: {wrong[0]}={options[wrong[0]]} must not be negative")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer: betas={betas} must lie in [0, 1)")
        parts = getattr(params, "groups", None) or {"model": list(params)}
        groups = [{"params": group, "part": part, **shared, **own.get(part, {})} for part, group in parts.items()]
        # "capturable" makes torch keep the step counter on the parameters' device when a checkpoint is loaded
        super().__init__(groups, {"betas": tuple(betas), "keras_eps": keras_eps, "capturable": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of every part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["params"]:
                self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        params = [p.detach() for p in group["params"]]
        grads: Any = [torch.zeros_like(p) if p.grad is None else p.grad for p in group["params"]]
        if group["clip"]:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            grads = torch._foreach_mul(grads, group["clip"] / norm.clamp_min(group["clip"]))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["weight_decay"])
        step, moment, square = self._moments(group["params"])
        step.add_(1)
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(moment, grads, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        root: Any = torch._foreach_sqrt(square)
        if group["keras_eps"]:
            torch._foreach_add_(root, group["eps"])
        torch._foreach_mul_(root, correction(beta2, step).rsqrt())
        if not group["keras_eps"]:
            torch._foreach_add_(root, group["eps"])
        change = torch._foreach_div(moment, root)
        torch._foreach_mul_(change, group["lr"] / correction(beta1, step))
        torch._foreach_sub_(params, change)

    def _moments(self, params: list[nn.Parameter]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The group's update counter (kept with its first parameter) and each parameter's moments."""
        for p in params:
            if "moment" not in self.state[p]:
                self.state[p] |= {"moment": torch.zeros_like(p), "square": torch.zeros_like(p)}
        first = self.state[params[0]]
        if "step" not in first:
            first["step"] = torch.zeros((), device=params[0].device)
        return first["step"], [self.state[p]["moment"] for p in params], [self.state[p]["square"] for p in params]

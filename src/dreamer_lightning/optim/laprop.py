"""LaProp with adaptive gradient clipping, as DreamerV3 uses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreamer_lightning.types import UserError

Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch._foreach functions take and give
Schedule = Literal["const", "linear", "cosine"]


class LaProp(torch.optim.Optimizer):
    """Clip each tensor's gradient by its norm, divide by its root mean square, take momentum, then the learning rate.

    For each tensor, with L2 norms over all of it and ``t`` from 1 (bias-corrected moments have hats)::

        g <- g / max(1, |g| / (agc max(pmin, |p|)))
        v <- b2 v + (1-b2) g^2;   u = g / (sqrt(v^) + eps)
        m <- b1 m + (1-b1) u;     p <- p - lr(t-1) (m^ + weight_decay p)

    The learning rate of update number n (from 0) is ``lr min(1, n/warmup)``: the first update changes nothing.
    Nothing waits for the device, so a step can be captured in a CUDA graph once it has run.

    Args:
        params: parameters; one without a gradient counts as having a gradient of zero.
        lr: learning rate after the warm-up.
        betas: decay of momentum and of the squared gradient.
        eps: added to the root mean square.
        agc: largest gradient norm in units of the parameter's norm; 0 does not clip.
        pmin: smallest parameter norm in that ratio.
        warmup: updates of linear warm-up.
        weight_decay: decay of weights (tensors of two dimensions or more), times the learning rate.
        schedule: after the warm-up: ``const``, ``linear`` or ``cosine`` down to a tenth at update ``anneal``
            (the reference's cosine ends at ``0.1 lr^2``, and so does this).
        anneal: update at which the schedule ends, counted from the start.
        nesterov: mix this step into the momentum once more before it is applied.
    Source: danijar/dreamerv3 `embodied/jax/opt.py@e3f0224`; Ziyin et al. 2020 (LaProp); Brock et al. 2021 (clipping).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float = 0.3,
        pmin: float = 1e-3,
        warmup: int = 1000,
        weight_decay: float = 0.0,
        schedule: Schedule = "const",
        anneal: int = 0,
        nesterov: bool = False,
    ):
        if lr < 0 or eps < 0 or agc < 0 or warmup < 0 or weight_decay < 0:
            raise UserError("optimizer: lr, eps, agc, warmup and weight_decay must not be negative")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer: betas={betas} must lie in [0, 1)")
        if schedule not in ("const", "linear", "cosine"):
            raise UserError(f"optimizer: schedule='{schedule}' must be const, linear or cosine")
        if schedule != "const" and anneal <= warmup:
            raise UserError(f"optimizer: schedule={schedule} needs anneal above warmup={warmup}, got anneal={anneal}")
        # "capturable" makes torch keep the step counter on the parameters' device when a checkpoint is loaded
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "agc": agc, "pmin": pmin, "warmup": warmup}
        defaults |= {"weight_decay": weight_decay, "schedule": schedule, "anneal": anneal, "nesterov": nesterov}
        super().__init__(params, defaults | {"capturable": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["params"]:
                grads: Tensors = [torch.zeros_like(p) if p.grad is None else p.grad for p in group["params"]]
                changes = self.changes(group, self.clip(group, grads))
                torch._foreach_sub_([p.detach() for p in group["params"]], changes)
        return loss

    def clip(self, group: dict[str, Any], grads: Tensors) -> Tensors:
        """Gradients whose norm is at most ``agc max(pmin, |p|)``, tensor by tensor."""
        if not group["agc"]:
            return grads
        params = [p.detach() for p in group["params"]]
        grad_norm, param_norm = torch.stack(torch._foreach_norm(grads)), torch.stack(torch._foreach_norm(params))
        limit = group["agc"] * param_norm.clamp_min(group["pmin"])
        return torch._foreach_mul(grads, (1 / (grad_norm / limit).clamp_min(1.0)).unbind())

    def changes(self, group: dict[str, Any], grads: Tensors) -> Tensors:
        """What to subtract from each parameter; the moments and the counter move on."""
        step, nu, mu = self._moments(group["params"])
        (beta1, beta2), count = group["betas"], step + 1
        torch._foreach_mul_(nu, beta2)
        torch._foreach_addcmul_(nu, grads, grads, 1 - beta2)
        # one list of temporaries is written over and over: on a CPU fresh memory costs more than the arithmetic
        change = torch._foreach_sqrt(nu)
        torch._foreach_mul_(change, correction(beta2, count).rsqrt())
        torch._foreach_add_(change, group["eps"])
        torch._foreach_reciprocal_(change)
        torch._foreach_mul_(change, grads)
        torch._foreach_lerp_(mu, change, 1 - beta1)
        if group["nesterov"]:
            torch._foreach_lerp_(change, mu, beta1)
        else:
            torch._foreach_copy_(change, mu)
        rate = self.learning_rate(group, step)
        torch._foreach_mul_(change, rate / correction(beta1, count))
        if group["weight_decay"]:
            kernels = [i for i, p in enumerate(group["params"]) if p.ndim >= 2]
            decay = torch._foreach_mul([group["params"][i].detach() for i in kernels], rate * group["weight_decay"])
            torch._foreach_add_([change[i] for i in kernels], decay)
        step.add_(1)
        return change

    def _moments(self, params: list[nn.Parameter]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The group's update counter (kept with its first parameter) and each parameter's moments."""
        for p in params:
            if "nu" not in self.state[p]:
                self.state[p] |= {"nu": torch.zeros_like(p), "mu": torch.zeros_like(p)}
        first = self.state[params[0]]
        if "step" not in first:
            first["step"] = torch.zeros((), device=params[0].device)
        return first["step"], [self.state[p]["nu"] for p in params], [self.state[p]["mu"] for p in params]

    @staticmethod
    def learning_rate(group: dict[str, Any], step: Tensor) -> Tensor:
        """Learning rate after ``step`` updates, as a tensor on its device."""
        lr, warmup = group["lr"], group["warmup"]
        rate = (step / warmup).clamp_max(1.0) * lr if warmup else torch.full_like(step, lr)
        if group["schedule"] == "const":
            return rate
        done = ((step - warmup) / (group["anneal"] - warmup)).clamp(0.0, 1.0)
        if group["schedule"] == "linear":
            return rate * (1 - 0.9 * done)
        floor = 0.1 * lr  # the reference passes an absolute number where a fraction is asked for
        return rate * (floor + (1 - floor) * 0.5 * (1 + torch.cos(math.pi * done)))


def correction(beta: float, count: Tensor) -> Tensor:
    """``1 - beta^count``, exact for small counts."""
    return -torch.expm1(count * math.log(beta)) if beta else torch.ones_like(count)

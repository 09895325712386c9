"""One update's numbers by name, and how far two of them are apart; shared by the tests and the processes they start."""

from collections.abc import Callable

import torch

import tiny
from dreamer_lightning import kernels
from dreamer_lightning.dreamer import Dreamer, Noise, TrainOutput, by_module

B, T, H = 2, 3, 2  # short: a graph holds every step


def agent(gradient: str, device: str = "cpu", steps: bool = False) -> Dreamer:
    """The tiny agent; ``steps`` leaves it as it is built, without fast twins.

    Rewards and values are near zero, as trained heads have them: raw random ones reach 1e8, where rounding is all.
    """
    dreamer = tiny.agent(gradient=tiny.GRADIENTS[gradient], imag_length=H)
    for head in (dreamer.world_model.reward, dreamer.actor_critic.value, dreamer.actor_critic.slow_critic):
        bins = len(head.out.bias)
        head.out.bias.data -= 0.5 * (torch.arange(bins) - bins // 2).abs()
    dreamer.to(device)
    if not steps:
        kernels.accelerate(dreamer)
    return dreamer


def inputs(dreamer: Dreamer, device: str = "cpu") -> tuple[dict, Noise]:
    """Records and injected draws: latents as class indices, so that no rounding can move a draw to another class."""
    rssm, n, generator = dreamer.world_model.rssm, B * T, torch.Generator().manual_seed(3)
    data = tiny.records(B, T + 1, dreamer.specs)
    data["latent"] = {k: x.cpu() for k, x in rssm.pack(rssm.initial(B, T + 1)).items()}
    draws = (torch.randint(rssm.classes, (*shape, rssm.stoch), generator=generator) for shape in ((B, T), (n, H)))
    noise = Noise(*draws, torch.randn(n, H + 1, dreamer.specs.action_dim, generator=generator))
    moved = {
        k: {n: x.to(device) for n, x in v.items()} if isinstance(v, dict) else v.to(device) for k, v in data.items()
    }
    return moved, Noise(*(x.to(device) for x in noise))


def numbers(dreamer: Dreamer, output: TrainOutput) -> dict[str, torch.Tensor]:
    """Loss, unreduced losses, latents and, after the backward, the gradient of each module."""
    grads = {
        name: torch.cat([p.grad.flatten() for p in parameters() if p.grad is not None])
        for name, parameters in by_module(dreamer).items()
    }
    found = {
        "loss": output.loss,
        **{f"losses/{key}": value for key, value in output.losses.items()},
        **{f"latents/{key}": value for key, value in output.latents.items()},
        **{f"grads/{key}": value for key, value in grads.items()},
    }
    return {key: value.detach().double().cpu() for key, value in found.items()}


def update(dreamer: Dreamer, forward: Callable[..., TrainOutput], device: str = "cpu", backward=torch.Tensor.backward):
    """``numbers`` of one forward and backward on the inputs above."""
    data, noise = inputs(dreamer, device)
    output = forward(data, noise=noise)
    backward(output.loss)
    return numbers(dreamer, output)


def errors(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest relative L2 error of each kind: loss, losses, latents, grads."""
    assert got.keys() == want.keys()
    worst: dict[str, float] = {}
    for key, value in want.items():
        assert got[key].shape == value.shape, key
        error = ((got[key] - value).norm() / value.norm().clamp(min=1e-12)).item()
        kind = key.split("/")[0]
        worst[kind] = max(error, worst.get(kind, 0.0))
    return worst


def assert_within(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], **limits: float) -> None:
    """Each kind of numbers is within its limit."""
    found = errors(got, want)
    assert found.keys() == limits.keys()
    assert all(found[kind] <= limits[kind] for kind in limits), {k: (found[k], limits[k]) for k in limits}

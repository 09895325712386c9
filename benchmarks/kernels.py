"""Times the compiled kernels against what plain torch computes, in turns: medians in microseconds, value and gradient.

OMP_NUM_THREADS=1 python benchmarks/kernels.py
"""

import contextlib
import statistics
import time

import torch

from dreamer_lightning import kernels
from dreamer_lightning.kernels import dense, fused, native
from dreamer_lightning.kernels.process import keep_memory
from dreamer_lightning.nets.blocks import MLP
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.ops.scalars import symexp_bins, twohot_encode
from dreamer_lightning.types import Latent


def clock(function, inputs, plain: bool, inner: int) -> float:
    """Microseconds of a call and, where an input learns, its backward."""
    with native.unused() if plain else contextlib.nullcontext():
        start = time.perf_counter()
        for _ in range(inner):
            out = function(*inputs)
            if out.requires_grad:
                out.backward(torch.ones_like(out))
        return 1e6 * (time.perf_counter() - start) / inner


def row(name: str, function, *inputs: torch.Tensor) -> None:
    clock(function, inputs, False, 2)
    inner = max(1, int(2e4 / clock(function, inputs, True, 2)))
    times = [[clock(function, inputs, plain, inner) for plain in (False, True)] for _ in range(7)]
    kernel, plain = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"| {name} | {plain:,.0f} | {kernel:,.0f} | {kernel / plain:.2f} |", flush=True)


def main() -> None:
    keep_memory()
    print(f"{torch.get_num_threads()} threads; {native.load() or 'compiled'}")
    print("| | torch, us | here, us | ratio |\n|---|--:|--:|--:|")
    draw = lambda *shape: torch.randn(*shape, requires_grad=True)  # noqa: E731
    bins = symexp_bins(255)
    for n in (16, 1024):
        row(
            f"norm and SiLU [{n} 512], forward and backward",
            lambda x, w: fused.norm_silu(x, w, 1e-4),
            draw(n, 512),
            draw(512),
        )
        noise = torch.rand(n, 32)
        row(f"draws [{n} 32 4]", lambda x, noise=noise: fused.draw(x, noise, 0.01), draw(n, 32, 4).detach())
    rows = 16384
    index, weight = twohot_encode(10 * torch.randn(2, rows), bins)
    row(f"two-hot mean [{rows} 255], forward", lambda x: fused.twohot_mean(x, bins), draw(rows, 255).detach())
    row(f"two two-hot losses [{rows} 255], both", lambda x: fused.twohot_loss(x, index, weight), draw(rows, 255))
    row(
        f"dense 640 to 64 [{rows}], forward",
        dense.linear,
        *(x.detach() for x in (draw(rows, 640), draw(64, 640), draw(64))),
    )
    row(
        f"dense 64 to 255 [{rows}], forward",
        dense.linear,
        *(x.detach() for x in (draw(rows, 64), draw(255, 64), draw(255))),
    )
    loops()


def loops() -> None:
    """Over the steps of a size1m model."""
    torch.manual_seed(0)
    rssm, mlp = BlockRSSM(6, 64), MLP(640, 64, 3).requires_grad_(False)
    kernels.accelerate(torch.nn.ModuleList([rssm, mlp]))
    start, first = rssm.initial(16), torch.rand(16, 64) < 0.01
    noise = rssm.noise(16, 64)

    def observe(action: torch.Tensor, embed: torch.Tensor) -> torch.Tensor:
        latent, logits = rssm.observe(start, action, embed, first, noise)
        return latent.deter.sum() + logits.sum() + latent.stoch.square().sum()

    @torch.no_grad()
    def imagine(deter: torch.Tensor, action: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        stoch = torch.zeros(len(deter), rssm.stoch_dim)
        return rssm.imagine(Latent(deter, stoch), lambda feat, step: action[:, step], noise)[1]

    row("observe [16 64], forward and backward", observe, torch.randn(16, 64, 6), torch.randn(16, 64, 64))
    for n in (128, 1024):
        given = (torch.randn(n, 512).tanh(), torch.randn(n, 16, 6), rssm.noise(n, 15))
        row(f"imagine 15 steps [{n}], without a policy", imagine, *given)
    row("MLP of 3 layers [16384 640], forward", mlp, torch.randn(16384, 640))


if __name__ == "__main__":
    main()

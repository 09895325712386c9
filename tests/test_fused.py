"""The compiled kernels compute what their twins in torch do, and torch does the work where they cannot be had."""

import contextlib

import pytest
import torch

from dreamer_lightning.kernels import fused, native
from dreamer_lightning.ops.scalars import symexp_bins, twohot_encode

needs_kernels = pytest.mark.skipif(bool(native.load()), reason=f"no compiled kernels: {native.load()}")
ROWS = (1, 5, 16, 37, 700)  # below, at and above the rows worked on side by side; above the size that wakes threads


def both(function, *inputs: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Value and gradients of a function, with the kernels and without."""
    found = []
    for context in (contextlib.nullcontext(), native.unused()):
        leaves = [x.clone().requires_grad_(x.requires_grad) for x in inputs]
        with context:
            out = function(*leaves)
            learned = [x for x in leaves if x.requires_grad]
            weights = torch.linspace(-1.0, 2.0, out.numel()).view(out.shape)
            found.append([out.detach(), *(torch.autograd.grad(out, learned, weights) if learned else ())])
    return found[0], found[1]


def assert_alike(function, *inputs: torch.Tensor, limit: float = 2e-6) -> None:
    for got, want in zip(*both(function, *inputs), strict=True):
        assert got.shape == want.shape
        error = (got - want).norm() / want.norm().clamp(min=1e-6)
        assert error < limit, f"relative error {error:.1e}"


def draws(*shape: int, grad: bool = True) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0])).requires_grad_(grad)


@needs_kernels
@pytest.mark.parametrize("rows", ROWS)
def test_norm_silu(rows):
    assert_alike(lambda x, w: fused.norm_silu(x, w, 1e-4), 3 * draws(rows, 48), 1 + draws(48))
    assert_alike(lambda x, w: fused.norm_silu(x, w, 1e-4), draws(rows, 2, 24), 1 + draws(2, 24))
    assert_alike(lambda x: fused.norm_silu(x.transpose(0, 1), torch.ones(rows), 1e-3), draws(rows, 7))  # not contiguous
    assert_alike(lambda x: fused.norm_silu(x, torch.ones(7), 1e-3), draws(rows, 3, 7, grad=False))


@needs_kernels
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("classes", [2, 4, 32])
def test_draws_are_the_same(rows, classes):
    logits, noise = 3 * draws(rows, 3, classes, grad=False), torch.rand(rows, 3)
    got, want = both(lambda x: fused.draw(x, noise, 0.01), logits)
    assert torch.equal(got[0], want[0])
    index = torch.randint(classes, (rows, 3))
    got, want = both(lambda x: fused.draw(x, index, 0.01), logits)  # class indices instead of noise
    assert torch.equal(got[0].argmax(-1), index)
    edges = torch.tensor([0.0, 1.0 - 2**-24])  # the ends of what a uniform draw can be
    got, want = both(lambda x: fused.draw(x, edges, 0.0), torch.full((2, classes), -3.0))
    assert torch.equal(got[0], want[0])
    assert got[0].argmax(-1).tolist() == [0, classes - 1]


@needs_kernels
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bins", [255, 8])
def test_twohot(rows, bins):
    centres = symexp_bins(bins) if bins == 255 else torch.linspace(-3.0, 3.0, bins)
    logits = draws(rows, bins) - 0.05 * (torch.arange(bins) - bins // 2).abs()
    assert_alike(lambda x: fused.twohot_mean(x, centres), logits.detach().requires_grad_(), limit=1e-5)
    index, weight = twohot_encode(10 * draws(2, rows, grad=False), centres)
    assert_alike(lambda x: fused.twohot_loss(x, index, weight), logits.detach().requires_grad_())
    assert fused.twohot_mean(torch.zeros(rows, bins), centres).abs().max() == 0  # exactly


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_visible(bad):
    """A kernel may not swallow what the sanity checks look for."""
    x, centres = draws(4, 40, grad=False), symexp_bins(40)
    x[1, 3] = bad
    index, weight = twohot_encode(torch.zeros(1, 4), centres)
    for function in (
        lambda x: fused.norm_silu(x, torch.ones(40), 1e-4),
        lambda x: fused.twohot_mean(x, centres),
        lambda x: fused.twohot_loss(x, index, weight)[0],
    ):
        got, want = both(function, x)
        assert torch.equal(torch.isnan(got[0]), torch.isnan(want[0]))
        assert not torch.isnan(got[0][2]).any()
    for function in (lambda x: fused.norm_silu(x, torch.ones(40), 1e-4), lambda x: fused.twohot_mean(x, centres)):
        got, want = both(function, x.requires_grad_())
        assert torch.equal(torch.isnan(got[1]), torch.isnan(want[1]))


@needs_kernels
def test_threads_change_nothing():
    """The result of every reduction is the same with one thread and with two."""
    x, w, before = draws(900, 64), 1 + draws(64), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = fused.norm_silu(x, w, 1e-4)
            found.append(torch.autograd.grad(out.square().sum(), (x, w)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][0], found[1][0])


def test_other_tensors_go_to_torch():
    """Float64, half precision and fake tensors never reach a kernel."""
    assert not fused.usable(torch.zeros(2, dtype=torch.float64))
    assert not fused.usable(torch.zeros(2, dtype=torch.bfloat16))
    assert not fused.usable(torch.zeros(2, device="meta"))
    with native.unused():
        assert not fused.usable(torch.zeros(2))
    rows, ones = draws(3, 8, grad=False), torch.ones(8)
    mapped = torch.func.vmap(lambda row: fused.norm_silu(row, ones, 1e-4))(rows)
    torch.testing.assert_close(mapped, fused.norm_silu(rows, ones, 1e-4))
    x, w = draws(3, 8).double(), torch.ones(8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: fused.norm_silu(x, w, 1e-4), x.detach().requires_grad_())

"""The compiled loops over an RSSM's steps compute what stepping in torch does, for any sizes, rows and threads."""

import contextlib
import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch

from dreamer_lightning import kernels
from dreamer_lightning.kernels import dense, fused, loops, native
from dreamer_lightning.kernels.recurrence import Joined
from dreamer_lightning.nets.blocks import MLP, Linear
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.types import Latent

pytestmark = pytest.mark.skipif(bool(native.load()), reason=f"no compiled kernels: {native.load()}")

SIZES = {
    "round": {"deter": 64, "hidden": 32, "stoch": 8, "classes": 4},
    "odd": {"deter": 45, "hidden": 9, "stoch": 5, "classes": 3, "blocks": 5},
    "wide": {"deter": 264, "hidden": 70, "stoch": 3, "classes": 17, "blocks": 2},
    "whole": {"deter": 160, "hidden": 16, "stoch": 2, "classes": 3, "blocks": 1},
}
ROWS = (1, 7, 16, 45)  # below, at and above the rows that are worked on at once, and the dreams of a block


@pytest.fixture(autouse=True)
def guards(monkeypatch):
    """Compiled code writes nothing behind the room that it has asked for."""
    tails, mark, new_empty = [], 12345.0, torch.Tensor.new_empty

    def guarded(self, *size, **options):
        if len(size) != 1 or not isinstance(size[0], int):
            return new_empty(self, *size, **options)
        whole = new_empty(self, size[0] + 65536, **options)
        tails.append(whole[size[0] :].fill_(mark))
        return whole[: size[0]]

    monkeypatch.setattr(torch.Tensor, "new_empty", guarded)
    yield
    assert all((tail == mark).all() for tail in tails)


def make(sizes: str, **options) -> BlockRSSM:
    torch.manual_seed(0)
    rssm = BlockRSSM(6, 24, **{**SIZES[sizes], **options})
    for parameter in rssm.parameters():  # biases and scales away from where they start
        parameter.data += 0.1 * torch.randn_like(parameter)
    kernels.accelerate(rssm)
    return rssm


def plain(module):
    """A copy without fast twins."""
    kernels.restore(copied := copy.deepcopy(module))
    return copied


def observe(rssm: BlockRSSM, b: int, t: int = 7) -> dict[str, torch.Tensor]:
    """Values of a scan, and gradients of weights and inputs."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator).requires_grad_()  # noqa: E731
    latent, action, embed = Latent(draw(b, rssm.deter_dim), draw(b, rssm.stoch_dim)), draw(b, t, 6), draw(b, t, 24)
    is_first, noise = torch.rand(b, t, generator=generator) < 0.3, rssm.noise(b, t, generator=generator)
    rssm.zero_grad()
    post, logits = rssm.observe(latent, action, embed, is_first, noise)
    sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (*post, logits)).backward()
    leaves = {"deter0": latent.deter, "stoch0": latent.stoch, "action": action, "embed": embed}
    grads = {name: x.grad for name, x in (leaves | dict(rssm.named_parameters())).items() if x.grad is not None}
    return {"deter": post.deter.detach(), "stoch": post.stoch.detach(), "logits": logits.detach()} | grads


def calls(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[tuple]:
    """The calls of a method, as they come."""
    seen, run = [], getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, *args, **kw: (seen.append(args), run(self, *args, **kw))[1])
    return seen


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("sizes", SIZES)
def test_observing(sizes, rows, monkeypatch):
    rssm, seen = make(sizes), calls(monkeypatch, loops.ScanLoop, "run")
    got = observe(rssm, rows)
    assert [args[0] for args in seen] == ["observe_forward", "observe_backward"]
    want = observe(plain(rssm), rows)
    assert len(seen) == 2
    assert got.keys() == want.keys()
    for name in want:
        assert (got[name] - want[name]).norm() <= 3e-6 * want[name].norm().clamp(min=1e-3), name


def dream(rssm: BlockRSSM, n: int, h: int = 5) -> tuple[Latent, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    deter = torch.randn(n, rssm.deter_dim, generator=generator).tanh()
    mix = 0.05 * torch.randn(rssm.deter_dim + rssm.stoch_dim, 6, generator=generator)
    noise = rssm.noise(n, h, generator=generator)
    start = Latent(deter, rssm.draw(torch.zeros(n, rssm.stoch, rssm.classes), noise[:, 0]))
    with torch.no_grad():
        return rssm.imagine(start, lambda feat, step: torch.tanh(feat @ mix) * (1 + step), noise)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("sizes", SIZES)
def test_dreaming(sizes, layers, rows, monkeypatch):
    rssm, seen = make(sizes, img_layers=layers), calls(monkeypatch, loops.DreamLoop, "step")
    got, action = dream(rssm, rows)
    assert len(seen) == 5
    want, wanted = dream(plain(rssm), rows)
    assert len(seen) == 5
    assert torch.equal(got.stoch, want.stoch)
    for x, y in ((got.deter, want.deter), (got.feat, want.feat), (action, wanted)):
        assert x.shape == y.shape
        assert (x - y).norm() <= 3e-6 * y.norm()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("sizes", SIZES)
def test_dreaming_under_given_actions(sizes, rows, monkeypatch):
    rssm, seen, generator = make(sizes), calls(monkeypatch, loops.DreamLoop, "step"), torch.Generator().manual_seed(1)
    start, noise = rssm.initial(rows).map(lambda x: x + 0.1), rssm.noise(rows, 5, generator=generator)
    action = 2 * torch.randn(rows, 5, rssm.action_dim, generator=generator)
    with torch.no_grad():
        got, want = rssm.unroll(start, action, noise), plain(rssm).unroll(start, action, noise)
    assert len(seen) == 5
    assert torch.equal(got.stoch, want.stoch)
    assert got.feat.shape == want.feat.shape == (rows, 6, got.deter.shape[-1] + got.stoch.shape[-1])
    assert (got.deter - want.deter).norm() <= 3e-6 * want.deter.norm()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("sizes", SIZES)
def test_retracing(sizes, layers, rows, monkeypatch):
    rssm, seen, run = make(sizes, img_layers=layers), [], loops.retrace
    monkeypatch.setattr(loops, "retrace", lambda *args: (seen.append(args), run(*args))[1])
    latent, action = dream(rssm, rows)
    got = retrace(rssm.retrace, latent, action)
    assert len(seen) == 1
    with native.unused():
        at_once = retrace(rssm.retrace, latent, action)
    by_step = retrace(plain(rssm).retrace, latent, action)
    assert len(seen) == 1
    for want in (at_once, by_step):
        assert (got - want).norm() <= 1e-5 * want.norm()


def retrace(function, latent: Latent, action: torch.Tensor) -> torch.Tensor:
    """The gradient of a number made of all states by the actions."""
    action = action.clone().requires_grad_()
    again = function(latent, action)
    for x, y in ((again.feat, latent.feat), (again.deter, latent.deter), (again.stoch, latent.stoch)):
        assert (x - y).norm() <= 3e-6 * y.norm()
    weight = torch.linspace(-1, 2, again.feat.numel()).view(again.feat.shape)
    return torch.autograd.grad((again.feat * weight).sum(), action)[0]


@pytest.mark.parametrize("rows", [1, 7, 16])
@pytest.mark.parametrize("sizes", SIZES)
def test_acting(sizes, rows, monkeypatch):
    rssm, seen = make(sizes), calls(monkeypatch, loops.ScanLoop, "act")
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))  # noqa: E731
    stoch = torch.arange(rows * rssm.stoch).view(rows, -1).remainder(rssm.classes + 1).to(torch.uint8)  # 0: none yet
    state = {"deter": draw(rows, rssm.deter_dim), "stoch": stoch}
    given = (state, 2 * draw(rows, 6), draw(rows, 24), draw(rows) < -0.5, rssm.noise(rows))
    kept = copy.deepcopy(given)
    with torch.no_grad():
        feat, packed = rssm.observe_packed(*given)
        assert len(seen) == 1
        wanted, want = plain(rssm).observe_packed(*given)
    assert len(seen) == 1
    assert packed["stoch"].dtype == want["stoch"].dtype
    assert torch.equal(packed["stoch"], want["stoch"])
    for x, y in ((packed["deter"], want["deter"]), (feat, wanted)):
        assert x.shape == y.shape
        assert (x - y).norm() <= 2e-6 * y.norm()
    assert all(
        torch.equal(x, y) for x, y in zip((*given[0].values(), *given[1:]), (*kept[0].values(), *kept[1:]), strict=True)
    )
    rssm.observe_packed(*given), make(sizes, act="gelu").observe_packed(*given)
    assert len(seen) == 1  # with a gradient, with other layers


@pytest.mark.parametrize("rows", [3, 16, 64, 100, 4099])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("units", [64, 9])
def test_mlp(units, layers, rows, monkeypatch):
    torch.manual_seed(0)
    mlp, other, seen = MLP(21, units, layers), MLP(21, units, layers, act="elu"), []
    kernels.accelerate(torch.nn.ModuleList([mlp, other]))
    for parameter in mlp.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    run = dense.mlp
    monkeypatch.setattr(dense, "mlp", lambda *args: (seen.append(args), run(*args))[1])
    inputs = [torch.randn(rows, 21), torch.randn(rows, 42)[:, ::2]]
    inputs += [torch.randn(3, rows, 21).transpose(0, 1)] if rows >= dense.ENOUGH else []
    for x in inputs:
        seen.clear()
        with torch.no_grad():
            got = mlp(x)
            assert seen
            want = plain(mlp)(x)
        assert got.shape == want.shape
        assert (got - want).norm() <= 2e-6 * want.norm()
    seen.clear()
    x = torch.randn(rows, 21, requires_grad=True)
    found = []
    for one in (mlp, plain(mlp)):
        out = one(x)
        learned = [x, *one.parameters()]
        found.append([out, *torch.autograd.grad(out, learned, torch.linspace(-1, 2, out.numel()).view(out.shape))])
    assert len(seen) == 1
    for got, want in zip(*found, strict=True):
        assert (got - want).norm() <= 3e-6 * want.norm()
    seen.clear()
    mlp(torch.randn(40, 21)), other(x)
    assert not seen  # neither few rows nor many; another activation


@pytest.mark.parametrize(("n", "k", "o"), [(1, 3, 2), (45, 70, 33), (300, 64, 255)])
def test_dense_layers(n, k, o):
    torch.manual_seed(0)
    x, weight, bias, grad = torch.randn(n, 2 * k)[:, ::2], torch.randn(k, o).t(), torch.randn(o), torch.randn(o, n).t()
    for got, want in (
        (dense.dense(x, weight, bias), torch.nn.functional.linear(x, weight, bias)),
        (dense.dense_input(grad, weight), grad @ weight),
    ):
        assert got.shape == want.shape
        assert (got - want).norm() <= 1e-6 * want.norm()


@pytest.mark.parametrize("shape", [(20, 6), (37, 6), (9, 3, 6), (30, 1, 6), (2, 11, 6), (5, 2, 4, 6)])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("by_x", [False, True])
def test_a_linear_layer_on_many_rows(shape, cut, by_x, monkeypatch):
    """Also where x is a slice that is not contiguous, and where only the weights learn."""
    monkeypatch.setattr(dense, "MANY", 20)
    layer, whole = Linear(6, 5), torch.randn(*shape).requires_grad_(by_x)
    kernels.accelerate(layer)
    x = whole[..., :-1, :] if cut and len(shape) > 2 else whole
    assert dense.dense_pays(x, layer.weight, layer.bias) == (x.numel() >= 20 * 6)
    learned = [layer.weight, layer.bias, *([whole] if by_x else [])]
    got, want = layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want)
    grad = torch.linspace(-1, 1, want.numel()).view(want.shape)
    for a, b in zip(torch.autograd.grad(got, learned, grad), torch.autograd.grad(want, learned, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_gradient_that_is_not_contiguous(monkeypatch):
    monkeypatch.setattr(dense, "MANY", 20)
    layer, x = Linear(6, 5), torch.randn(30, 6).requires_grad_()
    kernels.accelerate(layer)
    torch.autograd.grad(layer(x)[:, ::2].t().sum(), (x, layer.weight, layer.bias))
    got = torch.autograd.grad(layer(x).t().contiguous().square().sum(), x)[0]
    want = torch.autograd.grad(torch.nn.functional.linear(x, layer.weight, layer.bias).square().sum(), x)[0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_who_gets_torchs_product():
    """Few rows, other types, layers without a bias, autocast."""
    layer, x = Linear(6, 5), torch.randn(dense.MANY, 6)
    kernels.accelerate(layer)
    assert dense.dense_pays(x, layer.weight, layer.bias)
    assert not dense.dense_pays(x[:19], layer.weight, layer.bias)
    assert not dense.dense_pays(x[0], layer.weight, layer.bias)
    assert not dense.dense_pays(x.double(), layer.weight.double(), layer.bias)
    assert not dense.dense_pays(x.to("meta"), layer.weight, layer.bias)
    with native.unused():
        assert not dense.dense_pays(x, layer.weight, layer.bias)
    assert Linear(6, 5, bias=False)(x).shape == (dense.MANY, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_threads_change_nothing():
    rssm, before, found = make("odd"), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            latent, action = dream(rssm, 45)
            found.append((*latent, observe(rssm, 16)["deter0"], retrace(rssm.retrace, latent, action)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ("gradients", {}),
        ("indices instead of noise", {}),
        ("float64", {}),
        ("none", {"act": "gelu"}),
        ("none", {"img_layers": loops.MOST + 1}),
    ],
)
def test_what_the_loops_cannot_do_is_stepped_through(change, options, monkeypatch):
    rssm, seen = make("round", **options), calls(monkeypatch, loops.DreamLoop, "step")
    rssm = rssm.double() if change == "float64" else rssm
    start = rssm.initial(3).map(lambda x: x.to(rssm.gates.weight.dtype))
    noise = torch.zeros(3, 4, 8, dtype=torch.int64) if change.startswith("indices") else rssm.noise(3, 4)
    action = torch.zeros(3, 5, 6, dtype=start.deter.dtype)
    with contextlib.nullcontext() if change == "gradients" else torch.no_grad():
        latent, _ = rssm.imagine(start, lambda feat, step: action[:, step], noise)
    assert latent.feat.shape == (3, 5, 96)
    assert not seen


def test_shapes_that_do_not_fit_are_told_not_read(unchecked):
    """Where torch broadcasts, so do the fast paths; where it raises, they do."""
    rssm, generator = make("round"), torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    first, noise = torch.zeros(3, 5, dtype=torch.bool), rssm.noise(3, 5)
    given = (rssm.initial(1), draw(3, 5, 6), draw(3, 5, 24), first, noise)
    for x, y in zip(rssm.observe(*given)[0], plain(rssm).observe(*given)[0], strict=True):
        assert (x - y).norm() <= 2e-6 * y.norm()
    start = rssm.initial(3).map(lambda x: x + 0.5)
    wrong = [
        lambda: rssm.observe(rssm.initial(2), *given[1:]),
        lambda: rssm.observe(*given[:4], noise[..., :3]),
        lambda: rssm.imagine(start, lambda feat, step: draw(1, 6), noise),
        lambda: rssm.imagine(start, lambda feat, step: draw(3, 6), noise[:2]),
        lambda: rssm.prior_mlp(draw(4, 50)),
        lambda: rssm.prior_mlp(draw(100, 70)),
        lambda: rssm.prior_logits(draw(5000, 33)),
        lambda: dense.linear(draw(5000, 33), torch.ones(4, 32), torch.ones(4)),
        lambda: fused.norm_silu(draw(4, 12), torch.ones(8), 1e-4),
        lambda: rssm.observe_packed(rssm.pack(rssm.initial(2)), draw(2, 6), draw(2, 23), first[0, :2], noise[:2, 0]),
        lambda: rssm.observe_packed(rssm.pack(rssm.initial(2)), draw(2, 5), draw(2, 24), first[0, :2], noise[:2, 0]),
    ]
    for attempt in wrong:
        with torch.no_grad(), pytest.raises((RuntimeError, AssertionError)):
            attempt()


def test_not_finite_stays_visible():
    rssm = make("round")
    rssm.deter_in.linears[0].weight.data[0, 0] = float("nan")
    assert dream(rssm, 3)[0].deter.isnan().any()


@pytest.mark.parametrize("flags", [[], ["-march=haswell"]], ids=["any", "avx2"])
def test_without_the_instructions_of_this_processor(flags, tmp_path):
    """A build for any processor of its kind, or for one with half as wide registers, passes the same."""
    if flags and "avx2" not in native.processor():
        pytest.skip("not a processor with AVX2")
    run = f"import sys, pytest; from dreamer_lightning.kernels import native; native.FALLBACKS = [{flags}]; "
    some = "observing or dreaming or retracing or dense or mlp"
    some = f"({some}) and (odd or dense or mlp)" if flags else some
    run += f"sys.exit(pytest.main([{__file__!r}, '-q', '-p', 'no:cacheprovider', '-k', '{some}']))"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.rglob("kernels-*.so"))) == 1


def test_a_joined_latent_survives_copies_and_rebuilding():
    joined = Joined.of(torch.arange(12.0).view(2, 6), 4)
    for other in (
        copy.deepcopy(joined),
        pickle.loads(pickle.dumps(joined)),
        type(joined)(*joined),
        joined._make(joined),
    ):
        assert torch.equal(other.feat, joined.feat)
        assert torch.equal(other.deter, joined.feat[:, :4])
    assert joined.feat.data_ptr() == joined.deter.data_ptr()

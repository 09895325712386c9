"""LaProp against the reference's arrays, hand numbers, and what a resumed run needs."""

import io
import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dreamer_lightning.optim import LaProp
from dreamer_lightning.types import UserError
from golden import golden

SETTINGS = ["default", "short_warmup", "no_warmup", "no_clip", "nesterov", "weight_decay", "linear", "cosine"]
STEPS = 6


def build(params, config) -> LaProp:
    return LaProp(
        params,
        lr=config.get("lr", 4e-5),
        betas=(config.get("beta1", 0.9), config.get("beta2", 0.999)),
        eps=config.get("eps", 1e-20),
        agc=config.get("agc", 0.3),
        warmup=config.get("warmup", 1000),
        weight_decay=config.get("wd", 0.0),
        schedule=config.get("schedule", "const"),
        anneal=config.get("anneal", 0),
        nesterov=config.get("nesterov", False),
    )


@pytest.mark.parametrize("skip_zeros", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_six_steps_have_the_reference_numbers(name, skip_zeros):
    """In float64, so that the difference of parameters is the update; a gradient of zeros may also be None."""
    want = golden("optim").at(name)
    config = want.json("config")
    params = {key: torch.nn.Parameter(value.double()) for key, value in want.under("param0").items()}
    optimizer = build(params.values(), config)
    for step in range(STEPS):
        for key, param in params.items():
            grad = want.tensor(f"grad/{key}")[step].double()
            param.grad = None if skip_zeros and not grad.any() else grad
        before = {key: param.detach().clone() for key, param in params.items()}
        optimizer.step()
        for key, param in params.items():
            update, wanted = param.detach() - before[key], want[f"update/{key}"][step]
            unit = np.abs(wanted).mean() if wanted.any() else 0.0
            np.testing.assert_allclose(update, wanted, rtol=2e-4, atol=2e-4 * unit + 1e-15)
            np.testing.assert_allclose(param.detach(), want[f"param/{key}"][step], rtol=1e-6, atol=2e-4 * config["lr"])
    for key, param in params.items():
        for ours, theirs in (("nu", "final_nu"), ("mu", "final_mu")):
            wanted = want[f"{theirs}/{key}"]
            np.testing.assert_allclose(
                optimizer.state[param][ours], wanted, rtol=5e-4, atol=5e-4 * np.abs(wanted).max()
            )


@pytest.mark.parametrize("name", ["const", "linear", "cosine", "nowarm", "short"])
def test_schedules(name):
    want = golden("optim").at(f"schedule/{name}")
    optimizer = build([torch.nn.Parameter(torch.zeros(1))], want.json("config"))
    group = optimizer.param_groups[0]
    rates = [optimizer.learning_rate(group, torch.tensor(float(step))).item() for step in want["step"]]
    np.testing.assert_allclose(rates, want["lr"], rtol=1e-4)


def test_three_steps_by_hand():
    param = torch.nn.Parameter(torch.tensor([0.3, -0.4]))
    optimizer = LaProp([param], lr=4e-5, warmup=1000)
    grads = [[1.0, 2.0], [-0.5, 0.1], [0.2, 0.2]]
    directions = [[1.0, 1.0], [-0.20342188, 0.63313689], [0.22221736, 0.79018785]]
    rates = [0.0, 4e-8, 8e-8]
    where = param.detach().double().clone()
    for step in range(3):
        param.grad = torch.tensor(grads[step])
        optimizer.step()
        moment = optimizer.state[param]["mu"] / (1 - 0.9 ** (step + 1))
        np.testing.assert_allclose(moment, directions[step], rtol=2e-5)
        where -= rates[step] * torch.tensor(directions[step], dtype=torch.float64)
        if step == 0:
            assert torch.equal(param.detach(), torch.tensor([0.3, -0.4]))  # the first learning rate is 0
    torch.testing.assert_close(param.detach().double(), where, atol=5e-8, rtol=0)


def test_tiny_gradients_make_full_updates():
    param = torch.nn.Parameter(torch.zeros(3))
    optimizer = LaProp([param], lr=1.0, agc=0.0, warmup=0)
    param.grad = torch.tensor([1e-12, -1e-15, 0.0])
    optimizer.step()
    np.testing.assert_allclose(param.detach(), [-1.0, 1.0, 0.0], rtol=1e-4)


def test_weights_decay_and_biases_do_not():
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = LaProp([weight, bias], lr=0.1, warmup=0, weight_decay=0.5)
    optimizer.step()  # no gradient at all
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 0.95))
    assert torch.equal(bias.detach(), torch.ones(2))


def network(seed: int = 0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))


def train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 5, generator=generator)).square().mean().backward()
        optimizer.step()


def test_a_loaded_optimizer_goes_on_bit_for_bit():
    model = network()
    optimizer = LaProp(model.parameters(), lr=1e-2, warmup=5)
    train(model, optimizer, 4, seed=1)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 3, seed=2)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network(seed=9)
    resumed = LaProp(other.parameters(), lr=1e-2, warmup=5)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, 3, seed=2)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_lowers_the_loss_and_leaves_gradients_alone():
    model = network()
    optimizer = LaProp(model.parameters(), lr=1e-2, warmup=1)
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    first = (model(x) - x[:, :1]).square().mean()
    for _ in range(200):
        optimizer.zero_grad()
        loss = optimizer.step(lambda: backward((model(x) - x[:, :1]).square().mean()))
    assert loss < 0.1 * first
    grads = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


def backward(loss):
    loss.backward()
    return loss


class NoSync(TorchDispatchMode):
    """Refuses to copy a tensor's value to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in func.name(), "the host waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "nesterov": True, "schedule": "linear", "anneal": 2000}])
def test_a_step_never_waits_for_the_device(options):
    model = network()
    optimizer = LaProp(model.parameters(), **options)
    with NoSync():
        train(model, optimizer, 2, seed=0)


def test_groups_have_their_own_rate():
    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = LaProp([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}, {"params": []}], warmup=0)
    a.grad, b.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    torch.testing.assert_close(torch.cat([a, b]).detach(), torch.tensor([0.9, 0.99]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\)"),
        ({"schedule": "step"}, "schedule.*step"),
        ({"schedule": "cosine", "anneal": 500}, "anneal above warmup=1000"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises((UserError, TypeError), match=re.compile(message, re.DOTALL)):  # or the type checker's
        LaProp([torch.nn.Parameter(torch.zeros(1))], **options)

"""The pitfalls that the reference's arrays were built to catch (their README): each is stepped into here, and found."""

import json

import numpy as np
import pytest
import torch
from breaking import with_options, wrong

from dreamer_lightning.nets import outputs
from dreamer_lightning.nets.blocks import RMSNorm
from dreamer_lightning.nets.heads import PolicyHead
from dreamer_lightning.ops.scalars import symexp, symexp_bins
from dreamer_lightning.optim import LaProp, laprop
from dreamer_lightning.workshop.parity.optim import optimizer
from dreamer_lightning.workshop.parity.record import Vectors
from dreamer_lightning.workshop.parity.run import run_file
from golden import DATA


def test_pitfall_01_symmetric_twohot_sum_is_exactly_zero(monkeypatch):
    assert not wrong("heads", "twohot", "twohot_even", "twohot_small")
    bins = symexp_bins(255)
    assert outputs.TwoHot(torch.zeros(1, 255), bins).pred().item() == 0.0
    monkeypatch.setattr(outputs, "twohot_decode", lambda probs, bins: torch.cumsum(probs * bins, -1)[..., -1])
    assert outputs.TwoHot(torch.zeros(1, 255), bins).pred().item() != 0.0
    assert "twohot/pred" in wrong("heads", "twohot")


def test_pitfall_02_first_update_moves_only_slow_critic_and_normaliser():
    with np.load(DATA / "agent_proprio.npz") as archive:
        config = json.loads(str(archive["proprio/config"]))["agent"]["opt"]
    parameter = torch.nn.Parameter(torch.ones(3))
    opt = optimizer(config)([parameter])
    for moved in (False, True):
        parameter.grad = torch.ones(3)
        before = parameter.detach().clone()
        opt.step()
        assert (parameter != before).any().item() == moved
    vectors = Vectors.load(DATA / "agent_proprio.npz")
    run_file(vectors)
    first = [check for check in vectors.checks if "/step1/" in check.key]
    assert all(check.ok for check in first)
    for name in ("val/head/logits/bias", "slowval/head/logits/bias"):
        start, sums = (vectors.arrays[f"proprio/train/{key}/{name}"] for key in ("param0", "step1/checksum"))
        assert bool(np.isclose(start.astype(np.float64).sum(), sums[0], rtol=1e-7)) == name.startswith("val")


def test_pitfall_03_bias_correction(monkeypatch):
    """Ours is exact; the reference's float32 is off by some 1e-5 at small t, which the tolerance allows."""
    assert not wrong("optim", "no_warmup")
    exact = laprop.correction(0.999, torch.tensor(1.0)).item()
    assert exact == pytest.approx(1e-3, rel=1e-6)
    monkeypatch.setattr(laprop, "correction", lambda beta, count: torch.ones_like(count))
    assert "no_warmup/update/a/kernel" in wrong("optim", "no_warmup")


def test_pitfall_04_tiny_gradients_make_full_updates(monkeypatch):
    assert not wrong("optim", "no_clip")
    monkeypatch.setattr(LaProp, "__init__", with_options(LaProp, eps=1e-8))
    assert "no_clip/update/f/kernel" in wrong("optim", "no_clip")


def test_pitfall_05_categorical_policy_ignores_the_configured_unimix(monkeypatch):
    assert not wrong("heads", "policy_disc")
    monkeypatch.setattr(PolicyHead, "__init__", with_options(PolicyHead, unimix=0.01))
    assert {"policy_disc/out/action/logp", "policy_disc/out/action/entropy"} <= wrong("heads", "policy_disc")


def test_pitfall_06_symlog_prediction_stays_in_symlog_space(monkeypatch):
    """``mean`` is the reference's prediction; our ``pred()`` is in the units of the target, and says so."""
    assert not wrong("nets", "vector/dec")
    output = outputs.SymlogMSE(torch.tensor([2.0]), 1)
    assert output.mean.item() == 2.0
    assert output.pred().item() == pytest.approx(np.expm1(2.0))
    init = outputs.SymlogMSE.__init__
    monkeypatch.setattr(outputs.SymlogMSE, "__init__", lambda self, mean, dims=0: init(self, symexp(mean), dims))
    assert {"vector/dec/pred/height", "vector/dec/loss/height"} <= wrong("nets", "vector/dec")


def test_pitfall_07_cosine_ends_at_a_tenth_of_lr_squared(monkeypatch):
    assert not wrong("optim", "schedule/cosine", "schedule/linear")
    ends = {}
    for schedule in ("cosine", "linear"):
        opt = LaProp([torch.nn.Parameter(torch.ones(1))], lr=0.01, warmup=0, schedule=schedule, anneal=10)
        ends[schedule] = opt.learning_rate(opt.param_groups[0], torch.tensor(10.0)).item()
    assert ends == pytest.approx({"cosine": 0.1 * 0.01**2, "linear": 0.1 * 0.01})

    def to_a_tenth(group, step):
        done = ((step - group["warmup"]) / (group["anneal"] - group["warmup"])).clamp(0.0, 1.0)
        warm = (step / max(1, group["warmup"])).clamp_max(1.0)
        return group["lr"] * warm * (0.1 + 0.9 * 0.5 * (1 + torch.cos(torch.pi * done)))

    monkeypatch.setattr(LaProp, "learning_rate", staticmethod(to_a_tenth))
    assert "schedule/cosine/lr" in wrong("optim", "schedule/cosine")


def test_pitfall_08_momentum_is_always_on(monkeypatch):
    """The option says false and changes nothing; an optimiser that reads it has other updates."""
    vectors = Vectors.load(DATA / "optim.npz")
    for group in ("no_warmup", "no_clip"):
        config = json.loads(str(vectors.arrays[f"{group}/config"]))
        vectors.arrays[f"{group}/config"] = np.array(json.dumps({**config, "momentum": False}))
    assert not run_file(vectors)
    assert all(check.ok for check in vectors.checks)
    monkeypatch.setattr(LaProp, "__init__", with_options(LaProp, betas=(0.0, 0.999)))
    assert "no_warmup/update/a/kernel" in wrong("optim", "no_warmup")


def unit_norms(x):
    """One norm per output unit, as the usual adaptive clipping has it."""
    return torch.linalg.vector_norm(x, dim=tuple(range(x.ndim - 1)), keepdim=True) if x.ndim > 1 else x.abs()


@pytest.mark.parametrize("way", ["per_unit", "kernels_alone"])
def test_pitfall_09_one_norm_for_every_whole_tensor(monkeypatch, way):
    assert not wrong("optim", "no_warmup")
    whole = LaProp.clip

    def clip(self, group, grads):
        clipped = whole(self, group, grads)
        if way == "kernels_alone":
            return [c if g.ndim > 1 else g for c, g in zip(clipped, grads, strict=True)]
        limits = [group["agc"] * unit_norms(p.detach()).clamp_min(group["pmin"]) for p in group["params"]]
        return [g / (unit_norms(g) / x).clamp_min(1.0) for g, x in zip(grads, limits, strict=True)]

    monkeypatch.setattr(LaProp, "clip", clip)
    found = wrong("optim", "no_warmup")
    assert ("no_warmup/clipped/b/kernel" in found) == (way == "per_unit")
    assert "no_warmup/clipped/a/bias" in found


def test_pitfall_09_a_zero_tensor_is_clipped_at_3e_4():
    opt = LaProp([torch.nn.Parameter(torch.zeros(4))], agc=0.3)
    (clipped,) = opt.clip(opt.param_groups[0], [torch.ones(4)])
    assert clipped.norm().item() == pytest.approx(3e-4)


def test_pitfall_10_reset_rows_dominate_the_gradient_through_the_norms_eps(monkeypatch):
    assert not wrong("agent_proprio", "proprio/init")
    monkeypatch.setattr(RMSNorm, "__init__", with_options(RMSNorm, eps=1e-3))
    assert "proprio/init/gradnorm/dyn" in wrong("agent_proprio", "proprio/init")


def test_pitfall_11_normalised_entropy_is_recorded_of_scalar_actions_alone():
    with np.load(DATA / "heads.npz") as archive:
        found = {key.split("/")[2]: bool(archive[key]) for key in archive.files if "multi" in key and "has_rand" in key}
        shapes = {name: archive[f"policy_multi/event/{name}"].shape[2:] for name in found}
    assert found == {name: shape == () for name, shape in shapes.items()}
    assert sorted(found.values()) == [False, False, True]
    assert not wrong("heads", "policy_multi")

"""A policy whose action is a single number without a dimension, which no recording has: derived by the reference's
formulas (danijar/dreamerv3@e3f0224 embodied/jax/heads.py, outs.py, nets.py and the metrics of dreamerv3/agent.py)."""

import json

import numpy as np
import pytest
import torch

from dreamer_lightning import interop
from dreamer_lightning.nets.heads import PolicyHead
from dreamer_lightning.types import Space, Specs
from dreamer_lightning.workshop.parity import heads
from dreamer_lightning.workshop.parity.record import Vectors
from dreamer_lightning.workshop.parity.watching import compare_metrics

OPTIONS = {"output": "bounded_normal", "units": 16, "layers": 2, "outscale": 1.0, "act": "silu"}
OPTIONS |= {"minstd": 0.1, "maxstd": 1.0}
HALF_LOG_2PI_E = 0.5 * np.log(2 * np.pi * np.e)
LOW, HIGH = np.log(0.1) + HALF_LOG_2PI_E, HALF_LOG_2PI_E  # of a normal with std 0.1 and 1: -0.883647 and 1.418939


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def derived() -> dict[str, np.ndarray]:
    """What the reference computes from random parameters and features, in float64, as its recordings name it."""
    rng, params = np.random.default_rng(0), {}
    sizes = {"mlp/linear0": (20, 16), "mlp/linear1": (16, 16), "head/steer/mean": (16, 1), "head/steer/stddev": (16, 1)}
    for layer, size in sizes.items():
        params[f"{layer}/kernel"] = rng.normal(size=size) / np.sqrt(size[0])
        params[f"{layer}/bias"] = 0.1 * rng.normal(size=size[1])
    params |= {f"mlp/norm{i}/scale": 1 + 0.1 * rng.normal(size=16) for i in (0, 1)}
    x, event = rng.normal(size=(2, 3, 20)), rng.normal(size=(2, 3))
    y = x
    for i in (0, 1):
        y = y @ params[f"mlp/linear{i}/kernel"] + params[f"mlp/linear{i}/bias"]
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-4) * params[f"mlp/norm{i}/scale"]
        y = y * sigmoid(y)
    raw = {name: (y @ params[f"head/steer/{name}/kernel"])[..., 0] + params[f"head/steer/{name}/bias"] for name in
           ("mean", "stddev")}  # fmt: skip
    mean, std = np.tanh(raw["mean"]), 0.9 * sigmoid(raw["stddev"] + 2) + 0.1
    out = {
        "mean": mean,
        "std": std,
        "pred": mean,
        "entropy": np.log(std) + HALF_LOG_2PI_E,
        "logp": -0.5 * ((event - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi),
        "minent": np.full((2, 3), LOW),
        "maxent": np.full((2, 3), HIGH),
        "has_rand_metric": np.array(True),
    }
    arrays = {f"policy/param/{name}": value.astype(np.float32) for name, value in params.items()}
    arrays |= {"policy/x": x.astype(np.float32), "policy/event/steer": event.astype(np.float32)}
    arrays |= {f"policy/out/steer/{name}": x if x.dtype == bool else x.astype(np.float32) for name, x in out.items()}
    return arrays | {"policy/config": np.array(json.dumps(OPTIONS))}


@pytest.fixture
def vectors() -> Vectors:
    return Vectors("heads.npz", derived())


def policy(v: Vectors) -> PolicyHead:
    head = heads.build.policy(v.json("policy/config"))(20, Specs({}, {"steer": Space(())}))
    interop.load(interop.head_layers(head), v.under("policy/param"))
    return head


def test_every_array_of_a_single_number_holds(vectors: Vectors):
    heads.policy_keys(vectors, "policy/out", policy(vectors), vectors.tensor("policy/x"), vectors.under("policy/event"))
    assert {check.key.rpartition("/")[2] for check in vectors.checks} == {
        "mean", "std", "pred", "entropy", "logp", "minent", "maxent", "has_rand_metric",
    }  # fmt: skip
    assert [check for check in vectors.checks if not check.ok] == []


def test_its_normalised_entropy_is_logged(vectors: Vectors):
    """0 with the smallest standard deviation, 1 with the largest: half-way up a log scale between them, one half."""
    head = policy(vectors)
    assert heads.entropy_bounds(head, head.spaces["steer"]) == pytest.approx((LOW, HIGH))
    assert head.entropy_range == pytest.approx((LOW, HIGH))  # and so is ours, of the whole action
    randomness = (np.log(0.1**0.5) + HALF_LOG_2PI_E - LOW) / (HIGH - LOW)
    assert randomness == pytest.approx(0.5)
    for want in (np.array(0.5), np.full((2, 3), 0.5)):  # a number, or the array that its bounds make of it
        v = Vectors("agent.npz", {"metric/rand/steer": want})
        compare_metrics(v, "metric", {"rand/steer": (torch.tensor(randomness), torch.ones(()))}, 1e-6)
        assert [check.ok for check in v.checks] == [True]

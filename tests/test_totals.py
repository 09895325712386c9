"""How losses become one scalar."""

import math

import pytest
import torch

import tiny
from dreamer_lightning.nets.totals import Harmony, Total

LOSSES = {"recon/a": 1.5, "recon/b": 0.5, "reward": 3.0, "cont": 7.0, "dyn": 1.0, "rep": 0.1, "policy": -2.0}


def tensors(**other: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in {**LOSSES, **other}.items()}


def test_the_plain_total_is_the_sum():
    assert Total()(tensors()).item() == pytest.approx(11.1)


def test_harmony_weighs_three_tasks_and_leaves_the_others_alone():
    """At s = 0: every loss as it is, and ln 2 for each of three tasks. Then s = (ln 2, 0, -ln 2): weights 1/2, 1, 2."""
    total = Harmony()
    assert total(tensors()).item() == pytest.approx(11.1 + 3 * math.log(2))
    total.s.data = torch.tensor([math.log(2), 0.0, -math.log(2)])
    want = (2.0 / 2 + math.log(3)) + (3.0 + math.log(2)) + (1.1 * 2 + math.log(1.5)) + 7.0 - 2.0
    assert total(tensors()).item() == pytest.approx(want)
    assert [float(weight) for weight in total.metrics().values()] == pytest.approx([0.5, 1.0, 2.0])


def test_harmony_is_at_rest_where_a_task_says_so():
    """Of a loss 6: d/ds (6 e^-s + ln(1 + e^s)) = 0 at e^s = 3 + sqrt(15)."""
    total = Harmony()
    total.s.data = torch.full((3,), math.log((6 + math.sqrt(36 + 24)) / 2))
    total(tensors(reward=6.0)).backward()
    assert total.s.grad[1].item() == pytest.approx(0.0, abs=1e-6)
    assert total.s.grad[0] > 0  # a smaller loss wants a larger weight


def test_an_agent_learns_the_weights_with_everything_else():
    agent, twin = tiny.agent(), tiny.agent()
    plain = twin(tiny.batch(twin), torch.Generator().manual_seed(0))
    agent.total = Harmony()
    output = agent(tiny.batch(agent), torch.Generator().manual_seed(0))
    assert output.loss.item() == pytest.approx(plain.loss.item() + 3 * math.log(2), rel=1e-5)
    output.loss.backward()
    assert (agent.total.s.grad != 0).all()
    assert float(output.metrics["loss/weight_kl"]) == 1.0

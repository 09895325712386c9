"""Further start states of dreams: which are chosen, and what becomes of their losses."""

from functools import partial

import pytest
import torch

import tiny
from dreamer_lightning.nets.starts import PriorityStarts


def test_rare_rewards_come_first():
    """Of 2 x 10 states, places 1 and 16 have a reward; the third is the one with the greatest error."""
    reward, error = torch.zeros(2, 10), torch.full((2, 10), 0.1)
    reward[0, 1] = reward[1, 6] = 1.0
    error[1, 5] = 0.9
    places = PriorityStarts()(3, reward, error, torch.full((20,), 0.5))
    assert set(places[:2].tolist()) == {1, 16}
    assert places[2] == 15


def test_where_rewards_are_dense_the_error_decides():
    """Half of the states have a reward far from the median: that is not rare. Nor is it where all are alike."""
    error = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    for reward in (torch.full((2, 4), 0.95), torch.tensor([[1.0, 1.0, 0.9, 0.0], [0.0, 0.0, 0.0, 0.0]])):
        assert PriorityStarts()(3, reward, error, torch.full((8,), 0.5)).tolist() == [7, 6, 5]


def test_chances_grow_with_the_error():
    """One state has three times the error of each of the others: with sharpness 1 and no floor it is first
    in 3 of 3 + 7 draws."""
    starts, generator = PriorityStarts(sharpness=1.0, floor=0.0), torch.Generator().manual_seed(0)
    error, reward = torch.tensor([[3.0] + [1.0] * 7]), torch.zeros(1, 8)
    draws = [starts(1, reward, error, starts.noise(8, generator, torch.device("cpu"))) for _ in range(2000)]
    assert torch.cat(draws).eq(0).float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_an_agent_with_further_starts_learns_from_them_too():
    dreamer = tiny.agent(imag_last=2, extra_starts=partial(PriorityStarts, count=3))
    batch, generator = tiny.batch(dreamer), torch.Generator().manual_seed(0)
    out = dreamer(batch, generator)
    b = len(batch["is_first"])
    assert out.losses["policy"].shape == out.losses["value"].shape == (b, 5)
    assert out.losses["repval"].shape == (b, 1)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dreamer.actor_critic.policy.parameters())

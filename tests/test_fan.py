"""What a planner considered: the futures that are shown are those of its plans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from dreamer_lightning.commands.fan import SHOWN, Witness, cut, fan
from dreamer_lightning.evaluation.rollout import Episode
from dreamer_lightning.planning import Shooting

AT, CONTEXT, HORIZON = 3, 2, 4


@pytest.fixture(scope="module")
def witnessed():
    """A witness that has seen six steps, and the episode that it saw."""
    dreamer = tiny.agent()
    witness = Witness(dreamer, Shooting(samples=40, horizon=HORIZON, policy_plans=4), AT)
    generator, state = torch.Generator().manual_seed(0), witness.initial(1)
    seen, actions = [], []
    for step in range(6):
        obs = {name: torch.randn(1, *space.shape) for name, space in dreamer.specs.obs.items()}
        action, state = witness.act(obs, state, torch.tensor([step == 0]), generator, True)
        seen.append(obs)
        actions.append(action[0].numpy())
    obs = {name: np.stack([each[name][0].numpy() for each in seen]) for name in seen[0]}
    return witness, Episode(obs, np.stack(actions), np.arange(7.0), False, {}, {})


def test_the_witness_keeps_the_moment(witnessed):
    witness, episode = witnessed
    latent, plan = witness.seen
    assert set(latent) == {"deter", "stoch"}
    np.testing.assert_array_equal(plan.action[0].numpy(), episode.action[AT])


def test_futures_are_those_of_the_plans(witnessed):
    witness, episode = witnessed
    found = fan(witness, episode, CONTEXT, torch.Generator().manual_seed(1))
    total = CONTEXT + HORIZON
    assert found.reward.shape == (SHOWN + 1, total)
    assert np.isnan(found.reward[:, : CONTEXT - 1]).all()
    assert not np.isnan(found.reward[:, CONTEXT - 1 :]).any()
    rssm, (packed, plan) = witness.dreamer.world_model.rssm, witness.seen
    noise = rssm.noise(1, HORIZON, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        best = plan.candidates[0, plan.values[0].argmax()]
        dream = rssm.unroll(rssm.unpack(packed), best[None], noise)
        wanted = witness.dreamer.world_model.predict(dream.feat)[0][0]
    for shown in (SHOWN - 1, SHOWN):  # the best candidate, and the chosen plan, which is the same for shooting
        np.testing.assert_allclose(found.reward[shown, CONTEXT - 1 :], wanted.numpy(), rtol=1e-5)
    assert found.worth[SHOWN] == pytest.approx(found.worth[SHOWN - 1])


def test_the_truth_stands_beside_them(witnessed):
    witness, episode = witnessed
    found = fan(witness, episode, CONTEXT, torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(found.paid, [2, 3, 4, 5, 6, np.nan])  # rewards from agent step 2 on, then the end
    for name, value in found.seen.items():
        np.testing.assert_array_equal(value[:4], episode.obs[name][2:6].astype(np.float32))
    np.testing.assert_array_equal(cut(np.arange(3), 1, 4), [1, 2, np.nan, np.nan])

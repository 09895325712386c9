"""The weight of the policy's entropy that holds the entropy near a target."""

from functools import partial

import pytest
import torch

import tiny
from dreamer_lightning.nets.entropy import EntropyTarget
from dreamer_lightning.nets.heads import TruncatedPolicyHead
from dreamer_lightning.types import UserError


def weights(target: EntropyTarget, *entropies: float) -> list[float]:
    return [float(target(torch.tensor(entropy))) for entropy in entropies]


def test_the_weight_moves_by_a_tenth_outside_of_a_tenth_around_the_target():
    """Target 0.44 with slack 0.1: at rest from 0.4 to 0.484."""
    held = EntropyTarget(1e-3, target=0.44, final=0.44)
    assert weights(held, 0.41, 0.48) == pytest.approx([1e-3, 1e-3])
    assert weights(held, 0.39, 0.0) == pytest.approx([1.1e-3, 1.21e-3])
    assert weights(held, 0.49, 1.0, 1.0) == pytest.approx([1.1e-3, 1e-3, 1e-3 / 1.1])


def test_the_weight_stays_within_its_bounds():
    held = EntropyTarget(2e-3, smallest=1e-3, largest=4e-3)
    assert weights(held, *[0.0] * 10)[-1] == pytest.approx(4e-3)
    assert weights(held, *[1.0] * 20)[-1] == pytest.approx(1e-3)


def test_the_target_holds_and_falls():
    """0.5 for 2 updates, then by 0.1 each to 0.1."""
    held = EntropyTarget(3e-3, target=0.5, final=0.1, holds=2, falls=4)
    aims = []
    for _ in range(9):
        aims.append(float(held.aim()))
        held(torch.tensor(0.3))
    assert aims == pytest.approx([0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])


def test_a_look_without_an_update_changes_nothing():
    held = EntropyTarget(3e-3)
    before = {name: value.clone() for name, value in held.state_dict().items()}
    held(torch.tensor(0.0), update=False)
    assert all(torch.equal(value, before[name]) for name, value in held.state_dict().items())


def policy_gradient(agent, **options) -> torch.Tensor:
    agent.zero_grad()
    losses, _, _ = agent.actor_critic.dream_losses(dream_of(agent), **options)
    losses["policy"].mean().backward()
    return torch.cat([p.grad.flatten() for p in agent.actor_critic.policy.parameters()])


def dream_of(agent):
    model, noise = agent.world_model, agent.noise(2, 3, torch.Generator().manual_seed(1))
    return agent.actor_critic.imagine(model.rssm.initial(6), model, noise.imag, noise.action)


def test_the_policy_is_pulled_by_the_weight_at_hand():
    """A weight that may not move is the number itself; one that was moved is kept by checkpoints."""
    fixed, moved = (
        tiny.agent(actent=0.5),
        tiny.agent(actent=0.5, entropy_weight=partial(EntropyTarget, largest=0.5, target=1.0)),
    )
    same = policy_gradient(moved)
    assert torch.equal(policy_gradient(fixed), same)
    moved.actor_critic.entropy_weight.weight.mul_(0.1)
    assert not torch.allclose(policy_gradient(moved, update=False), same)
    again = tiny.agent(entropy_weight=EntropyTarget)
    again.load_state_dict(moved.state_dict())
    assert float(again.actor_critic.entropy_weight.weight) == pytest.approx(0.05)
    assert not any("entropy" in name for name in fixed.state_dict())


def test_training_moves_the_weight_and_logs_it():
    aim = partial(EntropyTarget, target=1.0, final=1.0, slack=0.0)  # it is never so high
    agent = tiny.agent(actent=3e-3, entropy_weight=aim)
    batch = tiny.batch(agent)
    found = [agent(batch, torch.Generator().manual_seed(0)).metrics for _ in range(3)]
    assert [float(metrics["dream/actent"]) for metrics in found] == pytest.approx([3.3e-3, 3.63e-3, 3.993e-3])
    assert float(found[0]["dream/entropy_target"]) == 1.0
    assert 0 < float(found[0]["dream/entropy_norm"]) < 1


@pytest.mark.parametrize(("options", "word"), [({"actent": 2.0}, "largest"), ({"actent": 0.1, "target": 45}, "target")])
def test_what_no_entropy_can_reach_is_refused(options, word):
    with pytest.raises(UserError, match=word):
        EntropyTarget(**options)


def test_a_policy_without_bounds_of_its_entropy_is_refused():
    agent = tiny.agent(entropy_weight=EntropyTarget)
    agent.actor_critic.policy.__class__ = TruncatedPolicyHead
    with pytest.raises(UserError, match="no bounds"):
        agent(tiny.batch(agent))

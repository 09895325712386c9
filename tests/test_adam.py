"""Adam in parts: hand-computed numbers, and three of torch's own."""

import copy

import pytest
import torch
from torch import nn

from dreamer_lightning.optim import LaProp, Parts, PartsAdam
from dreamer_lightning.types import UserError


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.actor, self.model, self.critic = nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.model(x).square().mean() + self.actor(x[:, :3]).exp().mean() + 9 * self.critic(x[:, :3]).mean()

    def parts(self):
        return Parts(self, actor=self.actor, critic=self.critic)


def stepped(grads, **options) -> list[float]:
    """A number that starts at 1, after each update with one of these gradients."""
    p = nn.Parameter(torch.ones(1))
    opt, seen = PartsAdam([p], **options), []
    for grad in grads:
        p.grad = torch.tensor([grad])
        opt.step()
        seen.append(p.item())
    return seen


def test_first_steps_by_hand():
    """Gradients 2, -1: m^ 2, (0.9 0.2 - 0.1)/0.19 = 0.421053; v^ 4, (0.999 0.004 + 0.001)/0.001999 = 2.499250."""
    got = stepped([2.0, -1.0], lr=0.1, eps=0.0, clip=0.0)
    assert got == pytest.approx([0.9, 0.9 - 0.1 * 0.42105263 / 2.49924962**0.5])


def test_eps_after_or_before_the_correction():
    """Gradient 1: root 1 + eps, or (sqrt(0.001) + eps)/sqrt(0.001): Keras's eps is 31.6 times as large at first."""
    assert stepped([1.0], lr=1.0, eps=0.5)[0] == pytest.approx(1 - 1 / 1.5, rel=1e-5)
    assert stepped([1.0], lr=1.0, eps=0.5, keras_eps=True)[0] == pytest.approx(1 - 1 / (1 + 0.5 / 0.001**0.5), rel=1e-4)


def test_weight_decay_shrinks_by_its_share_and_not_times_the_learning_rate():
    assert stepped([0.0], lr=1e-3, weight_decay=0.25)[0] == pytest.approx(0.75)
    assert stepped([1.0], lr=0.1, eps=0.0, weight_decay=0.25)[0] == pytest.approx(0.75 - 0.1)


def test_the_clip_is_of_a_whole_part():
    """Gradients (3, 4) have norm 5: clipped at 1 they are (0.6, 0.8), and the second moments are their squares."""
    p, q = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    p.grad, q.grad = torch.tensor([3.0]), torch.tensor([4.0])
    opt = PartsAdam([p, q], clip=1.0)
    opt.step()
    assert [opt.state[x]["square"].item() for x in (p, q)] == pytest.approx([0.36e-3, 0.64e-3])
    p.grad, q.grad = torch.tensor([0.3]), torch.tensor([0.4])
    opt.step()  # below the clip nothing changes
    assert opt.state[p]["square"].item() == pytest.approx(0.999 * 0.36e-3 + 1e-3 * 0.09)


def test_three_parts_equal_three_adams():
    ours, theirs = Agent(), Agent()
    lrs, clips = {"model": 1e-2, "actor": 3e-3, "critic": 1e-3}, {"model": 100.0, "actor": 0.1, "critic": 0.2}
    opt = PartsAdam(
        ours.parts(),
        lr=1e-2,
        eps=1e-5,
        clip=100.0,
        actor={"lr": 3e-3, "clip": 0.1},
        critic={"lr": 1e-3, "clip": 0.2, "eps": 1e-3},
    )
    eps = {"critic": 1e-3}
    adams = {n: torch.optim.Adam(getattr(theirs, n).parameters(), lrs[n], eps=eps.get(n, 1e-5)) for n in lrs}
    x = torch.randn(20, 8, 4, generator=torch.Generator().manual_seed(1))
    for batch in x:
        for agent in (ours, theirs):
            agent.zero_grad()
            agent(batch).backward()
        opt.step()
        for name, adam in adams.items():
            torch.nn.utils.clip_grad_norm_(getattr(theirs, name).parameters(), clips[name])
            adam.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_parts_are_a_plain_list_to_other_optimizers():
    agent = Agent()
    parts = agent.parts()
    assert list(map(id, parts)) == list(map(id, agent.parameters()))
    assert {name: len(group) for name, group in parts.groups.items()} == {"model": 2, "actor": 2, "critic": 2}
    assert len(LaProp(parts).param_groups) == 1


def test_it_goes_on_from_its_state():
    x = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1))

    def train(agent, opt, batches):
        for batch in batches:
            agent.zero_grad()
            agent(batch).backward()
            opt.step()

    make = lambda agent: PartsAdam(agent.parts(), lr=1e-2, keras_eps=True, actor={"lr": 1e-3})  # noqa: E731
    one = Agent()
    opt = make(one)
    train(one, opt, x[:3])
    two = copy.deepcopy(one)
    again = make(two)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(one, opt, x[3:])
    train(two, again, x[3:])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": -1.0}, "lr=-1.0 must not be negative"),
        ({"actor": {"rate": 1.0}}, "optimizer.actor: unknown option 'rate'"),
        ({"betas": (1.0, 0.9)}, "betas"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(UserError, match=said):
        PartsAdam([nn.Parameter(torch.ones(1))], **options)

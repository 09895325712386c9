"""Planners on worlds whose best plan is known, what a plan is worth by hand, and a planner in an agent's place."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import ModelBasedEnvBase
from torchrl.modules import CEMPlanner, MPPIPlanner

import tiny
from dreamer_lightning import cli
from dreamer_lightning.commands import evaluate
from dreamer_lightning.data.explore import Decision
from dreamer_lightning.planning import CEM, MPPI, GradientPlanner, Lookahead, Planned, Shooting, foresee, named
from dreamer_lightning.types import Latent, Space, Specs, UserError

LINE = Specs({"x": Space((1,))}, {"action": Space((1,))})
MOVES = Specs({"x": Space((1,))}, {"action": Space((), "int32", classes=3)})


class Value(NamedTuple):
    feat: torch.Tensor

    def pred(self):
        return 0.0 * self.feat[..., 0]


class Walk:
    """x' = x + a on a line, or one step left, none or right; the reward on arriving is -(x' - 3)^2."""

    def __init__(self, specs: Specs, target: float = 3.0, cont: float = 1.0):
        self.specs, self.target, self.cont = specs, target, cont
        noise = lambda *shape, generator=None: torch.zeros(*shape, 1)  # noqa: E731
        self.rssm = SimpleNamespace(noise=noise, unroll=self.unroll)
        self.world_model, self.actor_critic = self, SimpleNamespace(value=Value, dream_discount=1.0)
        self.device = torch.device("cpu")

    def step(self, x, action):
        move = action if action.shape[-1] == 1 else action[..., 2:] - action[..., :1]
        return x + move

    def imagine(self, latent, policy, noise):
        x, actions = [latent.deter], [policy(latent.feat, 0)]
        for step in range(noise.shape[1]):
            x.append(self.step(x[-1], actions[-1]))
            actions.append(policy(x[-1], step + 1))
        x = torch.stack(x, 1)
        return Latent(x, x[..., :0]), torch.stack(actions, 1)

    def unroll(self, latent, action, noise):
        return self.imagine(latent, lambda _, step: action[:, min(step, action.shape[1] - 1)], noise)[0]

    def retrace(self, latent, action):
        x = [latent.deter[:, 0]]
        for step in range(action.shape[1] - 1):
            x.append(self.step(x[-1], action[:, step]))
        x = torch.stack(x, 1)
        return Latent(x, x[..., :0])

    def predict(self, feat):
        reward = -((feat[..., 0] - self.target) ** 2)
        return reward, torch.full_like(reward, self.cont)

    def choose(self, feat, generator, greedy):
        return self.specs.actions.random((len(feat),), generator)


def start(*x: float) -> Latent:
    return Latent(torch.tensor(x)[:, None], torch.zeros(len(x), 0))


PLANNERS = {
    "shooting": Shooting(samples=4000, horizon=3),
    "cem": CEM(samples=256, elites=32, horizon=3),
    "mppi": MPPI(samples=256, elites=32, horizon=3),
    "gradient": GradientPlanner(steps=60, rate=0.05, horizon=3),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_the_best_first_step_on_a_line(name):
    """From 0 the best is 1, as far as one can go; from 2.5 it is 0.5, from 4 it is -1."""
    planner = PLANNERS[name]
    plan = planner(Walk(LINE), start(0.0, 2.5, 4.0), torch.zeros(3, 3, 1), torch.Generator().manual_seed(0), True)
    off = 0.35 if name == "shooting" else 0.1
    assert plan.action[:, 0].tolist() == pytest.approx([1.0, 0.5, -1.0], abs=off)
    assert plan.values.shape == plan.candidates.shape[:2]


@pytest.mark.parametrize("name", ["shooting", "cem", "mppi"])
def test_the_best_class(name):
    """Right, stay, left from 1, 3 and 4: exact, for there are 27 plans."""
    planner, world = PLANNERS[name], Walk(MOVES)
    plan = planner(world, start(1.0, 3.0, 4.0), torch.zeros(3, 3, 3), torch.Generator().manual_seed(0), True)
    assert plan.action.argmax(-1).tolist() == [2, 1, 0]
    assert plan.action.sum(-1).tolist() == [1, 1, 1]


def test_the_gradient_refuses_classes():
    with pytest.raises(UserError, match="take cem, mppi or shooting"):
        GradientPlanner().check(Walk(MOVES))


def test_names():
    assert isinstance(named("mppi"), MPPI)
    with pytest.raises(UserError, match="planner: 'mpi' is none of shooting, cem, mppi, gradient"):
        named("mpi")


def test_what_a_plan_is_worth():
    """Rewards -4, -1, 0 on the way from 0 by 1, 1, 1, each next one with half the weight: -4 - 0.5 + 0 = -4.5."""
    world = Walk(LINE, cont=0.5)
    plans = torch.ones(1, 1, 3, 1)
    assert float(foresee(world, start(0.0), plans, torch.zeros(1, 3, 1))) == pytest.approx(-4.5)
    slope = plans.clone().requires_grad_(True)
    foresee(world, start(0.0), slope, torch.zeros(1, 3, 1), climb=True).sum().backward()
    # dR/da_1 = 2 (3 - 1) + 0.5 2 (3 - 2) + 0.25 2 (3 - 3) = 5; dR/da_2 = 1 + 0 = 1; dR/da_3 = 0
    assert slope.grad.flatten().tolist() == pytest.approx([5.0, 1.0, 0.0])


def test_lam_between_counts_the_critic_at_every_step():
    """Rewards -4 and -1, values 2 and 4: with lam 0.5 it is -4 + 0.5 2 + 0.5 (-1 + 4) = -1.5, with lam 1 it is
    -4 - 1 + 4 = -1."""
    world = Walk(LINE)
    world.actor_critic.value = lambda feat: SimpleNamespace(pred=lambda: 2.0 * feat[..., 0])
    plans = torch.ones(1, 1, 2, 1)
    found = [float(foresee(world, start(0.0), plans, torch.zeros(1, 2, 1), lam=lam)) for lam in (0.5, 1.0)]
    assert found == pytest.approx([-1.5, -1.0])


def torchrl_line():
    """``Walk`` as an environment of TorchRL, for its planners."""
    move = TensorDictModule(lambda x, action: x + action, ["x", "action"], ["x"])
    reward = TensorDictModule(lambda x: -((x - 3) ** 2), ["x"], ["reward"])

    class Line(ModelBasedEnvBase):
        def __init__(self):
            super().__init__(TensorDictSequential(move, reward))
            self.observation_spec = self.state_spec = Composite(x=Unbounded((1,)))
            self.action_spec, self.reward_spec = Bounded(-1, 1, (1,)), Unbounded((1,))

        def _reset(self, tensordict=None):
            return tensordict

    return Line()


def at(*x: float) -> TensorDict:
    never = torch.zeros(len(x), 1, dtype=torch.bool)
    return TensorDict({"x": torch.tensor(x)[:, None], "done": never, "terminated": never}, [len(x)])


def sum_of_rewards(rollout):
    total = rollout["next", "reward"].sum(-2, keepdim=True)
    return rollout.set("advantage", total.expand_as(rollout["next", "reward"]))


@pytest.mark.parametrize("rounds", [1, 6])
@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_torchrls_planners_move_to_the_same_plans(name, rounds):
    """One round from the same draws gives the same mean. After more rounds, whose draws differ, both are at the best
    step. TorchRL's weights are exp(T R): the T that is 1 / (0.5 std R) of our best plans gives ours."""
    options = {"samples": 256, "elites": 32, "horizon": 3, "policy_plans": 0, "widest": 1.0, "rounds": rounds}
    torch.manual_seed(0)
    plan = {"cem": CEM, "mppi": MPPI}[name](**options)(Walk(LINE), start(0.0), torch.zeros(1, 3, 1), None, True)
    torch.manual_seed(0)
    size = (3, rounds, 256, 32)
    if name == "cem":
        theirs = CEMPlanner(torchrl_line(), *size)
    else:
        scale = float(1 / (0.5 * plan.values.topk(32).values.std())) if rounds == 1 else 1.0
        theirs = MPPIPlanner(torchrl_line(), sum_of_rewards, scale, *size)
    torch.testing.assert_close(theirs.planning(at(0.0)), plan.action, atol=1e-5 if rounds == 1 else 0.1, rtol=0)


@pytest.mark.parametrize("specs", [tiny.SPECS, tiny.DISCRETE], ids=["numbers", "classes"])
@pytest.mark.parametrize(
    "planner",
    [CEM(samples=32, rounds=2, elites=8, horizon=3, policy_plans=4), Shooting(samples=32, horizon=3, policy_plans=0)],
)
def test_a_planner_acts_in_the_agents_place(planner, specs):
    dreamer = tiny.agent(specs)
    player = Lookahead(dreamer, planner)
    obs = {name: torch.randn(2, *space.shape) for name, space in specs.obs.items()}

    def play():
        generator, state, first = torch.Generator().manual_seed(3), player.initial(2), torch.ones(2, dtype=torch.bool)
        actions = []
        for _ in range(3):
            action, state = player.act(obs, state, first, generator)
            first = torch.zeros_like(first)
            actions.append(action)
        return torch.stack(actions)

    once = play()
    torch.testing.assert_close(once, play(), atol=0, rtol=0)
    assert once.shape == (3, 2, specs.action_dim)
    assert once.abs().max() <= 1
    if specs is tiny.DISCRETE:
        torch.testing.assert_close(once.sum(-1), torch.ones(3, 2))


def test_the_gradient_planner_moves_the_policys_plans_within_their_bounds():
    """The same draws, with steps of no length and of 0.1: 9 plans of 4 steps have moved, none beyond 1; those that it
    began with are among the candidates, so that the best is never worth less."""
    dreamer = tiny.agent()
    latent, before = dreamer.world_model.rssm.initial(2), torch.zeros(2, 4, dreamer.specs.action_dim)
    still, moved = (
        GradientPlanner(steps=3, rate=rate, horizon=4)(dreamer, latent, before, torch.Generator().manual_seed(0))
        for rate in (0.0, 0.1)
    )
    torch.testing.assert_close(moved.candidates[:, :9], still.candidates[:, :9])
    length = (moved.candidates[:, 9:] - still.candidates[:, 9:]).flatten(2).norm(dim=-1)
    assert length.shape == (2, 9)
    assert (length > 0).all()
    assert length.max() <= 0.3 + 1e-5
    assert moved.candidates.abs().max() <= 1
    assert (moved.values.max(1).values >= still.values.max(1).values).all()


def test_collecting_by_a_planner_plays_its_actions_and_goes_on_as_it_was_saved():
    """Two explorations with one plan saved in between choose the same; none of it is the policy's own action."""
    dreamer = tiny.agent()
    state, own = dreamer.initial(2), torch.full((2, 2), 9.0)
    decision = Decision({}, state, own, torch.ones(2, dtype=torch.bool), generator=None, agent=dreamer)
    one = Planned(dreamer.specs, 2, torch.Generator().manual_seed(1))
    assert one(decision).abs().max() <= 1
    other = Planned(dreamer.specs, 2, torch.Generator().manual_seed(2))
    other.load_state_dict(one.state_dict())
    later = decision._replace(is_first=torch.zeros(2, dtype=torch.bool))
    torch.testing.assert_close(one(later), other(later), atol=0, rtol=0)


def test_evaluate_plays_films_and_writes_what_the_planner_did(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [
        "--planner.samples",
        "24",
        "--planner.elites",
        "8",
        "--planner.rounds",
        "1",
        "--planner.policy_plans",
        "4",
    ]
    words = ["evaluate", "CartPole-v1", "--episodes", "1", "--starts", "0", "--planner", "CEM", *options]
    filmed = []
    monkeypatch.setattr(evaluate, "film", lambda player, *_: filmed.append(player))
    assert cli.main(words) == 0
    assert "CEM" in capsys.readouterr().out
    (player,) = filmed
    assert isinstance(player, Lookahead)
    folder = tmp_path / "runs" / "CartPole-v1"
    assert [path.name for path in folder.glob("*.json")] == ["evaluation-CEM.json"]
    assert json.loads((folder / "evaluation-CEM.json").read_text())["planner"]["samples"] == 24

"""Plan2Explore: its reward and its loss by hand, who learns from what, and a run that resumes and starts another."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

import dreamer_lightning
import tiny
from dreamer_lightning.commands.initialise import read_weights
from dreamer_lightning.curiosity import Curious, Ensemble, Explorer, Plan2Explore
from dreamer_lightning.data.explore import Decision
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.nets.heads import PolicyHead, TwoHotHead
from dreamer_lightning.types import UserError
from test_resume import OPTIONS


def agent(specs=tiny.SPECS, gradient="reinforce") -> Dreamer:
    torch.manual_seed(0)
    world = tiny.model(specs)
    heads = {"policy": partial(PolicyHead, units=12, outscale=1.0), "value": partial(TwoHotHead, units=12)}
    options = {"imag_length": 4, "members": 3, "units": 8, "layers": 1, "gradient": tiny.GRADIENTS[gradient]}
    return Dreamer(world, Plan2Explore(specs, world.feat_dim, **heads, **options))


class Two(torch.nn.Module):
    """Predicts a multiple of all it sees."""

    def __init__(self, times: float):
        super().__init__()
        self.times = torch.nn.Parameter(torch.tensor(times))

    def forward(self, x):
        return self.times * x


def two(x: float, y: float) -> Ensemble:
    ensemble = Ensemble(2, 2, 2, 4, 1)
    ensemble.members = torch.nn.ModuleList([Two(x), Two(y)])
    return ensemble


def test_the_spread_by_hand():
    """1 and 3 times (1, 2): variances 2 and 8, in the mean 5."""
    assert two(1.0, 3.0).spread(torch.tensor([[1.0, 2.0]])).tolist() == [pytest.approx(5.0)]
    with pytest.raises(UserError, match="give 2 or more"):
        Ensemble(2, 2, 1, 4, 1)


def test_the_ensembles_loss_by_hand():
    """feat 1, 2, 5: members say 1 and 3 times what was before. (1 - 2)^2 / 2 + (3 - 2)^2 / 2 = 1, and 0 where an
    episode begins."""
    ensemble = lambda known: torch.stack([times * known[..., :1] for times in (1.0, 3.0)])  # noqa: E731
    feat = torch.tensor([[[1.0], [2.0], [5.0]]])
    records = {"prev_action": torch.ones(1, 3, 2), "is_first": torch.tensor([[False, False, True]])}
    assert Curious.ensemble_loss(SimpleNamespace(ensemble=ensemble), feat, records).tolist() == [
        pytest.approx([0.0, 1.0, 0.0])
    ]


@pytest.mark.parametrize("gradient", list(tiny.GRADIENTS))
@pytest.mark.parametrize("specs", [tiny.SPECS, tiny.DISCRETE], ids=["numbers", "classes"])
def test_who_learns_from_what(specs, gradient):
    """The explorer's losses do not know rewards, shape no latents and leave the task's heads alone."""
    if gradient != "reinforce" and specs is tiny.DISCRETE:
        return
    dreamer = agent(specs, gradient)
    batch = tiny.batch(dreamer)
    output = dreamer(batch, torch.Generator().manual_seed(0))
    own = {name: value for name, value in output.losses.items() if name.startswith("explore/")}
    assert set(own) == {"explore/policy", "explore/value", "explore/ensemble"}
    assert own["explore/ensemble"].shape == (4, 6)
    sum(value.mean() for value in own.values()).backward()
    moved = {name for name, p in dreamer.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert moved
    assert all(name.startswith("actor_critic.explorer.") for name in moved)
    assert any("ensemble" in name for name in moved)
    batch["reward"] = batch["reward"] + 5.0
    again = dreamer(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.losses["explore/ensemble"], own["explore/ensemble"], atol=0, rtol=0)
    assert float(output.metrics["dream/explore/reward"]) > 0


def test_the_dreams_of_the_explorer_are_paid_by_the_spread():
    dreamer = agent()
    curious, rssm = dreamer.actor_critic.explorer, dreamer.world_model.rssm
    noise = dreamer.noise(2, 3, torch.Generator().manual_seed(0))
    dream = curious.imagine(rssm.initial(6), dreamer.world_model, noise.imag, noise.action)
    known = torch.cat([dream.feat, dream.action], -1)
    assert dream.reward[:, 0].eq(0).all()
    torch.testing.assert_close(dream.reward[:, 3], curious.ensemble.spread(known[:, 2]))


def test_the_explorer_plays_in_the_policys_place():
    dreamer = agent()
    state, own, first = dreamer.initial(2), torch.full((2, 2), 9.0), torch.ones(2, dtype=torch.bool)
    decision = Decision({}, state, own, first, agent=dreamer)
    explore = Explorer(dreamer.specs, 2, torch.Generator().manual_seed(1))
    action = explore(decision)
    policy, feat = dreamer.actor_critic.explorer.policy, dreamer.world_model.rssm.initial(2).feat
    noise = policy.noise((2,), torch.Generator().manual_seed(1), torch.device("cpu"))
    torch.testing.assert_close(action, policy(feat).sample(noise))
    with pytest.raises(UserError, match="ActorCritic has no explorer; add --config explore.yaml"):
        explore(decision._replace(agent=tiny.agent()))


def test_a_run_resumes_exactly_and_starts_another(tmp_path, monkeypatch, capsys):
    """``explore.yaml`` over a preset, stopped and resumed, ends as the undisturbed run; a task starts from it."""
    monkeypatch.chdir(tmp_path)
    configs, small = ("gym.yaml", "explore.yaml", "debug.yaml"), {"actor_critic": {"units": 8, "members": 3}}
    env = {"init_args": {"task": "CartPole-v1", "time_limit": 30}}  # which saves its state
    options = {**OPTIONS, **small, "env": env}
    options.pop("imag_length")
    whole = dreamer_lightning.fit(*configs, run_dir="whole", env_steps=48, **options)
    dreamer_lightning.fit(*configs, run_dir="cut", env_steps=40, **options)
    dreamer_lightning.fit(resume="cut", env_steps=48)
    there, want = read_weights("cut"), read_weights("whole")
    assert there.keys() == want.keys()
    assert all(torch.equal(there[name], want[name]) for name in want)
    assert any("explorer.ensemble" in name for name in want)
    assert whole.series("loss/explore/ensemble")[1][-1] > 0
    capsys.readouterr()
    task = dreamer_lightning.fit(
        "gym.yaml", "debug.yaml", init_from="whole", run_dir="task", env_steps=40, **{**OPTIONS, "env": env}
    )
    assert "initialised" in capsys.readouterr().out
    assert task.series("loss/total")[1]

"""Fast twins take the place of what they know exactly, keep the module itself, and step back when it is changed."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.parametrizations import weight_norm

import tiny
from dreamer_lightning import kernels
from dreamer_lightning.errors import UserError
from dreamer_lightning.kernels import dense, native
from dreamer_lightning.kernels.recurrence import FastBlockRSSM
from dreamer_lightning.kernels.twins import FastLinear, FastMLP, FastTwoHotHead
from dreamer_lightning.kernels.watch import WATCHED, adopt
from dreamer_lightning.nets.blocks import MLP, BlockLinear, Linear, RMSNorm
from dreamer_lightning.nets.frozen import frozen
from dreamer_lightning.nets.heads import TwoHotHead
from dreamer_lightning.nets.rssm import BlockRSSM

SIZES = {"deter": 64, "hidden": 32, "stoch": 8, "classes": 4}


def make(**options) -> BlockRSSM:
    torch.manual_seed(0)
    rssm = BlockRSSM(6, 24, **{**SIZES, **options})
    kernels.accelerate(rssm)
    return rssm


def test_the_modules_stay_what_they_are():
    agent = tiny.agent()
    names, parameters = list(agent.state_dict()), list(agent.parameters())
    report = kernels.accelerate(agent)
    assert report.twins["BlockRSSM"] == 1
    assert report.twins["TwoHotHead"] == 3
    assert list(agent.state_dict()) == names
    assert all(x is y for x, y in zip(parameters, agent.parameters(), strict=True))
    assert isinstance(agent.world_model.rssm, BlockRSSM)
    assert type(agent.actor_critic.slow_critic) is FastTwoHotHead
    assert kernels.accelerate(agent).twins == report.twins
    kernels.restore(agent)
    assert not {type(module) for module in agent.modules()} & set(WATCHED.values())


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_are_twins_of_their_own(twin):
    rssm = make()
    copied = twin(rssm)
    assert type(copied) is FastBlockRSSM
    assert copied.read.gates is copied.gates
    assert copied.read.gates is not rssm.gates
    copied.gates.register_forward_hook(lambda *args: None)
    assert type(copied) is BlockRSSM
    assert type(rssm) is FastBlockRSSM


def test_weights_are_those_of_the_moment():
    """Held, loaded, moved by an optimizer or swapped for a call: a twin reads what the module has."""
    mlp = MLP(5, 4, 2)
    kernels.accelerate(mlp)
    plain = copy.deepcopy(mlp)
    kernels.restore(plain)
    x = torch.randn(70, 5, requires_grad=True)
    assert frozen(mlp)(x).requires_grad
    assert torch.autograd.grad(frozen(mlp)(x).sum(), list(mlp.parameters()), allow_unused=True) == (None,) * 6
    other = {name: torch.randn_like(value) for name, value in mlp.named_parameters()}
    torch.testing.assert_close(
        torch.func.functional_call(mlp, other, (x,)), torch.func.functional_call(plain, other, (x,))
    )
    mlp.load_state_dict(other)
    mlp.linears[0].weight = nn.Parameter(torch.ones(4, 5))
    plain.load_state_dict(mlp.state_dict())
    torch.testing.assert_close(mlp(x), plain(x))
    assert type(mlp) is FastMLP


def test_what_is_not_known_exactly_is_left_alone():
    class Own(BlockRSSM):
        pass

    class OwnLinear(Linear):
        pass

    for options in ({"act": "gelu"}, {"dyn_layers": 2}, {"obs_layers": 2}, {"absolute": True}):
        rssm = BlockRSSM(6, 24, **{**SIZES, **options})
        assert "BlockRSSM" not in kernels.accelerate(rssm).twins
        assert type(rssm) is BlockRSSM
    own = Own(6, 24, **SIZES)
    kernels.accelerate(own)
    assert type(own) is Own
    assert type(own.prior_mlp) is FastMLP
    assert type(kernels.accelerate(layer := OwnLinear(3, 3)) and layer) is OwnLinear
    for mlp in (MLP(3, 4, 2, act="elu"), MLP(3, 4, 2, norm="layer"), MLP(3, 4, 2, norm="none")):
        kernels.accelerate(mlp)
        assert type(mlp) is MLP
        assert type(mlp.linears[0]) is FastLinear
    heard = MLP(3, 4, 2)
    heard.norms[1].register_forward_hook(lambda *args: None)
    kernels.accelerate(heard)
    assert type(heard) is MLP


def add(mlp: MLP, place: int, linear: nn.Module, norm: nn.Module) -> None:
    mlp.linears.insert(place, linear)
    mlp.norms.insert(place, norm)


def test_a_head_calls_whatever_network_it_has():
    for norm, kind in (("layer", MLP), ("none", MLP), ("rms", FastMLP)):
        head = TwoHotHead(5, units=4, norm=norm)
        kernels.accelerate(head)
        assert type(head) is FastTwoHotHead
        assert type(head.mlp) is kind
        assert head(torch.randn(70, 5)).pred().shape == (70,)


def test_a_twin_whose_parts_were_not_adopted_before():
    """As on a GPU, where only the RSSM has one."""
    rssm = BlockRSSM(6, 24, **SIZES)
    assert adopt(rssm, FastBlockRSSM)
    assert rssm.prior(torch.zeros(3, 64)).shape == (3, 8, 4)


CHANGES = {
    "another class": lambda rssm: setattr(rssm, "gates", type("Own", (BlockLinear,), {})(64, 192, 8)),
    "another norm": lambda rssm: rssm.hidden_norm.__setitem__(0, nn.LayerNorm(64)),
    "another network": lambda rssm: setattr(rssm, "action_in", nn.Sequential(nn.Linear(6, 32))),
    "more layers": lambda rssm: setattr(rssm, "stoch_in", MLP(32, 32, 2)),
    "one more layer": lambda rssm: add(rssm.stoch_in, 1, Linear(32, 32), RMSNorm(32)),
    "another layer before": lambda rssm: add(rssm.prior_mlp, 0, nn.Linear(64, 64), RMSNorm(64)),
    "another layer instead": lambda rssm: rssm.deter_in.linears.__setitem__(0, nn.Linear(64, 32)),
    "another activation": lambda rssm: setattr(rssm.prior_mlp, "act", torch.relu),
    "weight norm": lambda rssm: weight_norm(rssm.post_mlp.linears[0]),
    "weight norm of blocks": lambda rssm: weight_norm(rssm.gates),
    "a hook": lambda rssm: rssm.prior_logits.register_forward_hook(lambda *args: None),
    "a hook before": lambda rssm: rssm.hidden[0].register_forward_pre_hook(lambda *args: None),
    "a hook on gradients": lambda rssm: rssm.deter_in.register_full_backward_hook(lambda *args: None),
    "a hook before gradients": lambda rssm: rssm.post_mlp.norms[0].register_full_backward_pre_hook(lambda *args: None),
    "a forward of its own": lambda rssm: setattr(rssm.post_mlp.norms[0], "forward", lambda x: x),
    "an equation of its own": lambda rssm: setattr(rssm, "prior", lambda deter: BlockRSSM.prior(rssm, deter)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_after_is_stepped_through(change):
    """Swapped, parametrized, listened to or replaced: the loops read weights and call nothing, so they step back."""
    rssm = make()
    assert type(rssm) is FastBlockRSSM
    CHANGES[change](rssm)
    assert type(rssm) is BlockRSSM
    first = torch.zeros(2, 3, dtype=torch.bool)
    rssm.observe(rssm.initial(2), torch.zeros(2, 3, 6), torch.randn(2, 3, 24), first, rssm.noise(2, 3))
    with torch.no_grad():
        dreamed, _ = rssm.imagine(rssm.initial(3), lambda feat, step: torch.zeros(3, 6), rssm.noise(3, 2))
        rssm.observe_packed(
            rssm.pack(rssm.initial(2)), torch.zeros(2, 6), torch.randn(2, 24), first[:, 0], rssm.noise(2)
        )
    rssm.retrace(dreamed, torch.zeros(3, 3, 6, requires_grad=True))


def test_hooks_hear_every_layer():
    rssm, heard = make(), []
    for name in ("deter_in", "prior_logits"):
        getattr(rssm, name).register_forward_hook(lambda *args, name=name: heard.append(name))
    rssm.imagine_step(rssm.initial(1), torch.zeros(1, 6), rssm.noise(1))
    with torch.no_grad():
        rssm.imagine(rssm.initial(3), lambda feat, step: torch.zeros(3, 6), rssm.noise(3, 2))
    assert heard == ["deter_in", "prior_logits"] * 3


def test_hooks_on_every_module_of_the_process_hear_every_layer():
    rssm, heard = make(), []
    first = torch.zeros(2, 3, dtype=torch.bool)
    hook = register_module_forward_hook(lambda module, *args: heard.append(module))
    try:
        rssm.observe(rssm.initial(2), torch.zeros(2, 3, 6), torch.randn(2, 3, 24), first, rssm.noise(2, 3))
    finally:
        hook.remove()
    assert heard.count(rssm.hidden[0]) == heard.count(rssm.post_logits) == 3


def test_a_layer_of_the_same_kind_in_its_place_is_read():
    mlp, x = MLP(5, 4, 2), torch.randn(70, 5)
    kernels.accelerate(mlp)
    mlp.linears[1] = Linear(4, 4)
    assert type(mlp) is FastMLP
    assert mlp.read[1][0] is mlp.linears[1]
    mlp.linears[1].forward = lambda y: torch.zeros_like(y)
    assert type(mlp) is MLP
    assert not mlp(x).any()


def test_a_class_derived_from_a_twins_is_refused_in_words():
    mlp = MLP(5, 4, 2)
    kernels.accelerate(mlp)
    with pytest.raises(UserError, match="call kernels.restore"):
        mlp.__class__ = type("Sharded", (FastMLP,), {})


def test_training_and_evaluating_change_nothing():
    rssm = make()
    rssm.eval().train().requires_grad_(False)
    rssm.to(torch.float64).to(torch.float32)
    assert type(rssm) is FastBlockRSSM


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracers_see_torch(monkeypatch):
    """Compiled code would be traced as a constant."""
    if native.load():
        pytest.skip("no compiled kernels")
    monkeypatch.setattr(dense, "compiled", lambda: pytest.fail("a tracer reached compiled code"))
    agent = tiny.agent()
    kernels.accelerate(agent)
    rssm = agent.world_model.rssm
    state = rssm.pack(rssm.initial(2))

    class Acting(nn.Module):
        def __init__(self):
            super().__init__()
            self.rssm, self.policy = rssm, agent.actor_critic.policy

        def forward(self, deter, stoch, action, embed, first, noise):
            feat, packed = self.rssm.observe_packed({"deter": deter, "stoch": stoch}, action, embed, first, noise)
            return self.policy(feat).pred(), packed["deter"]

    first, noise = torch.ones(2, dtype=torch.bool), rssm.noise(2)
    given = (state["deter"], state["stoch"], torch.zeros(2, 2), torch.randn(2, rssm.embed_dim), first, noise)
    with torch.no_grad():
        traced = torch.jit.trace(Acting(), given, check_trace=False)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        monkeypatch.undo()
        other = (state["deter"] + 1, *given[1:3], given[3] + 1, ~first, noise)
        for got, want in zip(traced(*other), Acting()(*other), strict=True):
            torch.testing.assert_close(got, want)

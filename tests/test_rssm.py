"""The RSSM: shapes, resets, packing, and the scan against its step-by-step twin."""

from collections import namedtuple

import pytest
import torch
from tensordict import TensorDict

import tiny
from dreamer_lightning import kernels
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.nets.gradients import Pathwise
from dreamer_lightning.nets.latents import Categorical
from dreamer_lightning.nets.rssm import RSSM, BlockRSSM
from dreamer_lightning.types import Carried, Latent, UserError

SIZES = {"deter": 64, "hidden": 16, "stoch": 4, "classes": 8}


def make(**options) -> BlockRSSM:
    torch.manual_seed(0)
    rssm = BlockRSSM(6, 24, **{**SIZES, **options})
    for parameter in rssm.parameters():  # biases and scales away from where they start
        parameter.data += 0.1 * torch.randn_like(parameter)
    return rssm


def inputs(b=5, t=9):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator).requires_grad_()  # noqa: E731
    is_first = torch.rand(b, t, generator=generator) < 0.3
    return Latent(draw(b, 64), draw(b, 32)), draw(b, t, 6), draw(b, t, 24), is_first


def observe_and_backward(scan: bool) -> dict[str, torch.Tensor]:
    rssm, (latent, action, embed, is_first) = make(), inputs()
    if scan:
        kernels.accelerate(rssm)
    generator = torch.Generator().manual_seed(2)
    post, logits = rssm.observe(latent, action, embed, is_first, rssm.noise(5, 9, generator=generator))
    total = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (post.deter, post.stoch, logits))
    total.backward()
    leaves = {"deter0": latent.deter, "stoch0": latent.stoch, "action": action, "embed": embed}
    grads = {name: x.grad for name, x in (leaves | dict(rssm.named_parameters())).items() if x.grad is not None}
    return {"deter": post.deter.detach(), "stoch": post.stoch.detach(), "logits": logits.detach()} | grads


def test_scan_equals_stepping_in_values_and_gradients():
    fast, slow = observe_and_backward(True), observe_and_backward(False)
    assert fast.keys() == slow.keys()
    for name, want in slow.items():
        assert (fast[name] - want).norm() <= 2e-6 * want.norm(), name


def test_first_step_forgets_everything():
    rssm, (latent, action, embed, _) = make(), inputs()
    noise, first = rssm.noise(5), torch.ones(5, dtype=torch.bool)
    got, _ = rssm.observe_step(latent, action[:, 0], embed[:, 0], first, noise)
    want, _ = rssm.observe_step(rssm.initial(5), 0 * action[:, 0], embed[:, 0], ~first, noise)
    assert torch.equal(got.deter, want.deter)
    assert torch.equal(got.stoch, want.stoch)


def test_actions_beyond_one_are_scaled_back_without_a_gradient_through_the_scale():
    rssm, big = make(), torch.full((1, 6), 5.0, requires_grad=True)
    rssm.project_action(big).sum().backward()
    unit = torch.ones(1, 6, requires_grad=True)
    rssm.project_action(unit).sum().backward()
    torch.testing.assert_close(big.grad, unit.grad / 5)


@pytest.mark.parametrize("classes", [4, 300])
def test_pack_keeps_every_latent(classes):
    rssm = make(classes=classes)
    latent, _ = rssm.imagine_step(rssm.initial(7), torch.zeros(7, 6), rssm.noise(7))
    latent = Latent(latent.deter, torch.cat([latent.stoch[:6], torch.zeros_like(latent.stoch[:1])]))
    packed = rssm.pack(latent)
    assert packed["stoch"].dtype == (torch.uint8 if classes < 256 else torch.int16)
    again = rssm.unpack(packed)
    assert torch.equal(again.deter, latent.deter)
    assert torch.equal(again.stoch, latent.stoch)


def test_imagine_gives_one_more_state_and_action_than_steps():
    rssm, seen = make(), []

    def policy(feat, step):
        seen.append(step)
        return torch.zeros(3, 6)

    latent, action = rssm.imagine(rssm.initial(3), policy, rssm.noise(3, 5))
    assert latent.deter.shape == (3, 6, 64)
    assert action.shape == (3, 6, 6)
    assert seen == list(range(6))


def test_sample_frequencies_follow_the_mixed_probabilities():
    rssm = make()
    logits = torch.tensor([3.0, 0, 0, 0, 0, 0, -30.0, 1.0]).expand(20000, 4, 8)
    draws = rssm.draw(logits, rssm.noise(20000)).unflatten(-1, (4, 8)).mean((0, 1))
    want = 0.99 * torch.softmax(logits[0, 0], -1) + 0.01 / 8
    torch.testing.assert_close(draws, want, atol=0.01, rtol=0)
    assert draws[6] > 0


def test_blocks_must_divide_deter():
    with pytest.raises(UserError, match="rssm.deter=60"):
        BlockRSSM(6, 24, deter=60)


def retrace_and_backward(scan: bool) -> dict[str, torch.Tensor]:
    rssm, n, h = make(), 5, 6
    if scan:
        kernels.accelerate(rssm)
    generator = torch.Generator().manual_seed(4)
    action = torch.randn(n, h + 1, 6, generator=generator).requires_grad_()
    start = Latent(torch.randn(n, 64, generator=generator), torch.zeros(n, 32))
    with torch.no_grad():
        dream, _ = rssm.imagine(start, lambda feat, step: action[:, step], rssm.noise(n, h, generator=generator))
    again = rssm.retrace(dream, action)
    sum((x * torch.randn(x.shape, generator=generator)).sum() for x in again).backward()
    assert all(p.grad is None for p in rssm.parameters())
    return {"dream": dream.feat, "deter": again.deter.detach(), "stoch": again.stoch.detach(), "action": action.grad}


def test_retracing_a_dream_equals_stepping_in_values_and_gradients():
    fast, slow = retrace_and_backward(True), retrace_and_backward(False)
    for name, want in slow.items():
        assert (fast[name] - want).norm() <= 2e-6 * want.norm(), name
    assert torch.equal(fast["dream"][..., :64], fast["deter"])
    assert (fast["action"][:, -1] == 0).all()  # the last action leads nowhere


class Memory(namedtuple("Memory", "hidden cell stoch"), Carried):
    deter = property(lambda self: self.hidden)


class LSTMRSSM(RSSM):
    carried = Memory

    def __init__(self, action_dim, embed_dim):
        super().__init__(action_dim, 8, Categorical(3, 4), free_nats=1.0, free="per_step")
        self.lstm = torch.nn.LSTMCell(self.stoch_dim + action_dim, 8)
        self.post_net, self.prior_net = torch.nn.Linear(8 + embed_dim, 12), torch.nn.Linear(8, 12)

    def project_action(self, action):
        return action

    def core(self, latent, action_in):
        hidden, cell = self.lstm(torch.cat([latent.stoch, action_in], -1), (latent.hidden, latent.cell))
        return latent._replace(hidden=hidden, cell=cell)

    def post(self, deter, embed):
        return self.latents.params(self.post_net(torch.cat([deter, embed], -1)))

    def prior(self, deter):
        return self.latents.params(self.prior_net(deter))


def test_another_dynamics_names_what_it_carries():
    dreamer = tiny.agent(model_options={"rssm": LSTMRSSM}, gradient=Pathwise)
    state = dreamer.initial(2)
    assert {name: tuple(x.shape) for name, x in state.items()} == {
        **{"hidden": (2, 8), "cell": (2, 8), "stoch": (2, 3)},
        "prev_action": (2, 2),
    }
    assert dreamer.world_model.feat_dim == 8 + 12
    obs = {name: torch.randn(2, *space.shape) for name, space in dreamer.specs.obs.items()}
    _, state = dreamer.act(obs, state, torch.ones(2, dtype=torch.bool))
    assert state["cell"].abs().sum() > 0
    dream = dreamer.imagine(state, 3)
    assert dream.latent.cell.shape == (2, 4, 8)
    assert torch.equal(dream.latent.cell[:, 0], state["cell"])
    torch.testing.assert_close(dreamer.world_model.rssm.retrace(dream.latent, dream.action), dream.latent)
    output = dreamer(tiny.batch(dreamer), torch.Generator().manual_seed(1))
    output.loss.backward()
    assert output.latents["cell"].shape == (4, 6, 8)
    assert all(p.grad is not None for p in dreamer.world_model.rssm.parameters())


def test_replay_keeps_the_parts_of_another_latent_in_less_room():
    replay = Replay(capacity=40, batch_size=2, length=4, num_streams=1, deter="bfloat16")
    names = {"hidden": torch.rand(9, 3), "cell": torch.rand(9, 3), "stoch": torch.ones(9, 2, dtype=torch.uint8)}
    flags = {name: torch.zeros(9, dtype=torch.bool) for name in ("is_first", "is_last", "is_terminal")}
    replay.extend([TensorDict({"reward": torch.zeros(9), **flags, "latent": TensorDict(names, [9])}, [9])])
    kinds = {name: x.dtype for name, x in replay.data["latent"].items()}
    assert kinds == {"hidden": torch.bfloat16, "cell": torch.bfloat16, "stoch": torch.uint8}
    batch = replay.sample()
    assert batch["latent", "cell"].dtype == torch.float32
    replay.write_latents(batch["index"], {name: x[:, 1:] * 0 for name, x in batch["latent"].items()})
    assert (replay.data["latent", "cell"] == 0).sum() >= 9

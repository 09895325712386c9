"""Where ports of DreamerV3 go wrong: each mistake is made here, and found by the recorded arrays.

Every test first sees the recorded arrays hold, then puts the trap in and sees them fail.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from breaking import made_with, wrong

from dreamer_lightning import loop
from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.nets import encoders, outputs
from dreamer_lightning.nets.actions import BoundedNormal, TanhNormal
from dreamer_lightning.nets.blocks import BlockLinear, RMSNorm, init_kernel
from dreamer_lightning.nets.gradients import Pathwise
from dreamer_lightning.nets.heads import PolicyHead
from dreamer_lightning.nets.normalizers import PercentileNorm
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.ops import onehot
from dreamer_lightning.ops.scalars import symlog, twohot_encode
from dreamer_lightning.optim import LaProp
from dreamer_lightning.schedule import Ratio
from dreamer_lightning.types import Discount
from dreamer_lightning.workshop.parity import build
from dreamer_lightning.world_model import WorldModel


def kl_losses(clip):
    """A KL loss in which ``clip`` applies the free nats to [*b, s]."""

    def loss(self, post, prior):
        post, prior = onehot.log_probs(post, self.unimix), onehot.log_probs(prior, self.unimix)
        sides = {"dyn": (post.detach(), prior), "rep": (post, prior.detach())}
        return {name: clip(onehot.kl(*side), self.free_nats) for name, side in sides.items()}, {}

    return loss


@pytest.mark.parametrize(
    "clip",
    [
        lambda kl, free: kl.clamp(min=free).sum(-1),
        lambda kl, free: kl.sum(-1).mean().clamp(min=free).expand(kl.shape[:-1]),
    ],
    ids=["per_categorical", "batch_mean"],
)
def test_trap_01_free_nats_per_categorical_or_batch_mean(monkeypatch, clip):
    assert not wrong("losses", "kl")
    monkeypatch.setattr(BlockRSSM, "loss", kl_losses(clip))
    assert {"kl/dyn", "kl/rep"} <= wrong("losses", "kl")


def test_trap_02_kl_without_unimix(monkeypatch):
    assert not wrong("losses", "kl_nofree")
    monkeypatch.setattr(onehot, "log_probs", lambda logits, unimix: torch.log_softmax(logits, -1))
    assert {"kl_nofree/dyn", "kl_nofree/grad_post"} <= wrong("losses", "kl_nofree")


def test_trap_03_twohot_in_symlog_space(monkeypatch):
    assert not wrong("heads", "twohot")
    monkeypatch.setattr(outputs, "twohot_encode", lambda x, bins: twohot_encode(symlog(x), symlog(bins)))
    assert "twohot/loss" in wrong("heads", "twohot")


def test_trap_04_continuous_actor_by_dynamics_gradient(monkeypatch):
    assert not wrong("agent_proprio", "proprio/rand")
    monkeypatch.setattr(build, "ActorCritic", made_with(ActorCritic, gradient=Pathwise))
    assert {"proprio/rand/imag/policy_loss", "proprio/rand/gradnorm/pol"} <= wrong("agent_proprio", "proprio/rand")


def test_trap_05_advantage_without_normalisation(monkeypatch):
    assert not wrong("losses", "imag_cont")
    monkeypatch.setattr(PercentileNorm, "stats", lambda self: (torch.zeros(()), torch.ones(())))
    assert {"imag_cont/loss/policy", "imag_cont/metric/adv_std"} <= wrong("losses", "imag_cont")


def test_trap_06_global_clip_instead_of_adaptive_clip(monkeypatch):
    def clip(self, group, grads):
        norms = torch.stack(torch._foreach_norm(grads))
        return torch._foreach_mul(grads, (100 / norms.norm()).clamp(max=1.0))

    assert not wrong("optim", "no_warmup")
    monkeypatch.setattr(LaProp, "clip", clip)
    assert "no_warmup/clipped/d/kernel" in wrong("optim", "no_warmup")


def test_trap_06_adam_instead_of_laprop(monkeypatch):
    def changes(self, group, grads):
        step, nu, mu = self._moments(group["params"])
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(mu, grads, 1 - beta1)  # momentum first, then the root mean square
        torch._foreach_mul_(nu, beta2)
        torch._foreach_addcmul_(nu, grads, grads, 1 - beta2)
        step.add_(1)
        rate = self.learning_rate(group, step - 1) / (1 - beta1**step)
        return [rate * m / ((n / (1 - beta2**step)).sqrt() + group["eps"]) for m, n in zip(mu, nu, strict=True)]

    monkeypatch.setattr(LaProp, "changes", changes)
    assert "no_warmup/update/a/kernel" in wrong("optim", "no_warmup")


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: F.layer_norm(x, (self.features,), self.weight, eps=1e-3),
        lambda self, x: F.rms_norm(x, (self.features,), self.weight, eps=1e-3),
    ],
    ids=["layer_norm", "eps_1e-3"],
)
def test_trap_07_layer_norm_or_another_eps(monkeypatch, forward):
    assert not wrong("nets", "rmsnorm", "mlp")
    monkeypatch.setattr(RMSNorm, "forward", forward)
    assert {"rmsnorm/y", "mlp/y"} <= wrong("nets", "rmsnorm", "mlp")


def test_trap_08_fan_in_of_a_block(monkeypatch):
    def reset_parameters(self):
        init_kernel(self.weight, self.in_features // self.blocks, self.out_features, self.outscale, "trunc_normal_in")
        torch.nn.init.zeros_(self.bias)

    assert not wrong("init", "blocklinear")
    monkeypatch.setattr(BlockLinear, "reset_parameters", reset_parameters)
    assert "blocklinear/stats" in wrong("init", "blocklinear")


def test_trap_09_warmup_that_starts_above_zero(monkeypatch):
    assert not wrong("optim", "schedule/const", "default")
    rate = LaProp.learning_rate
    monkeypatch.setattr(LaProp, "learning_rate", staticmethod(lambda group, step: rate(group, step + 1)))
    assert {"schedule/const/lr", "default/update/a/kernel"} <= wrong("optim", "schedule/const", "default")


def test_trap_10_replay_value_loss_without_gradient_into_the_model(monkeypatch):
    monkeypatch.setattr(build, "ActorCritic", made_with(ActorCritic, value_aware="critic"))
    found = wrong("agent_proprio", "proprio/rand")
    assert {"proprio/rand/gradnorm/dyn", "proprio/rand/gradnorm/enc"} <= found
    assert "proprio/rand/loss/repval" not in found


def test_trap_11_continue_target_without_the_discount(monkeypatch):
    monkeypatch.setattr(build, "WorldModel", made_with(WorldModel, discount=Discount(333.0, False)))
    assert "proprio/rand/loss/con" in wrong("agent_proprio", "proprio/rand")


def test_trap_11_discount_applied_twice(monkeypatch):
    monkeypatch.setattr(build, "ActorCritic", made_with(ActorCritic, discount=Discount(333.0, False)))
    assert {"proprio/rand/imag/ret", "proprio/rand/metric/weight"} <= wrong("agent_proprio", "proprio/rand")


def test_trap_12_tanh_squashed_policy(monkeypatch):
    assert not wrong("heads", "policy_cont")
    tanh = type(
        "Squashed",
        (TanhNormal,),
        {"std": property(lambda self: self.normal.std), "mean": property(lambda self: self.pred())},
    )
    monkeypatch.setattr(PolicyHead, "continuous", lambda self, mean, std, dims: tanh(mean, std, dims))
    assert "policy_cont/out/action/logp" in wrong("heads", "policy_cont")
    event = torch.full((1, 6), 1.5)  # beyond [-1, 1] a plain normal has a density; no correction is added to it
    assert torch.isfinite(BoundedNormal(torch.zeros(1, 6), torch.zeros(1, 6)).log_prob(event)).all()


def test_trap_13_pixels_not_normalised_while_acting(monkeypatch):
    assert not wrong("agent_image", "image/rand/policy")

    def images(obs, keys):
        x = torch.cat([obs[key] for key in keys], -1)
        return x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2).float(), x.shape[:-3]

    monkeypatch.setattr(encoders, "images", images)
    assert "image/rand/policy/deter" not in wrong("agent_image", "image/rand/policy")  # it knows no pixels yet
    assert "image/enc/tokens" in wrong("nets", "image/enc")


@pytest.mark.parametrize("what", ["reward", "cont"])
def test_trap_14_true_reward_or_continuation_at_the_start(monkeypatch, what):
    imagine = ActorCritic.imagine

    def with_true_start(self, *args):
        dream = imagine(self, *args)
        true = {"reward": torch.zeros_like(dream.reward), "cont": torch.ones_like(dream.cont)}[what]
        mixed = torch.cat([true[:, :1], getattr(dream, what)[:, 1:]], 1)
        return dream._replace(**{what: mixed})

    monkeypatch.setattr(ActorCritic, "imagine", with_true_start)
    found = wrong("agent_proprio", "proprio/rand")
    assert f"proprio/rand/imag/{'rew' if what == 'reward' else 'con'}" in found
    assert what == "reward" or "proprio/rand/loss/policy" in found  # the start's reward enters no return


@pytest.mark.parametrize("repeat", [1, 4])
def test_trap_15_train_ratio_counts_agent_steps_not_frames(monkeypatch, repeat, tmp_path):
    """512 replayed steps a decision and 1024 in a batch: one update every two decisions, whatever the repeat."""
    monkeypatch.setattr(loop, "to_records", lambda wire, carry: ([], carry))
    fabric = SimpleNamespace(world_size=1, global_rank=0, device=torch.device("cpu"), call=lambda *a, **k: None)
    parts = {name: SimpleNamespace(specs=None, extend=lambda records: None) for name in ("dreamer", "replay")}
    this = loop.Loop(
        fabric=fabric,
        **parts,
        update=SimpleNamespace(optimizer=SimpleNamespace(param_groups=[])),
        collector=SimpleNamespace(policy=SimpleNamespace(explore=None)),
        env_factory=SimpleNamespace(repeat=repeat),
        ratio=Ratio(train_ratio=512, batch_steps=1024, learning=True),
        limits=None,
        run_dir=tmp_path,
    )
    this.carry = 0
    wire = SimpleNamespace(numel=lambda: 8, shape=(4, 2))
    for _ in range(5):
        this.collect(iter([wire]))
    assert (this.clocks.agent_step, this.clocks.env_step) == (40, 40 * repeat)
    assert this.ratio.owed == 20

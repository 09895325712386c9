"""TorchRL's learner in the bench is the same algorithm as ours: same weights, same draws, same losses and gradients."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

import tiny
from dreamer_lightning.nets.decoders import DictDecoder, SymlogMLPDecoder
from dreamer_lightning.nets.encoders import DictEncoder, SymlogMLPEncoder
from dreamer_lightning.nets.heads import BinaryHead, TwoHotHead
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.types import Size, Space, Specs
from dreamer_lightning.workshop.bench.baseline import Plan, build_learner
from dreamer_lightning.world_model import WorldModel

SIZE = Size(deter=32, hidden=8, classes=4, depth=2, units=12)
SPECS = Specs({"vector": Space((5,))}, {"action": Space((2,))})
B, T = 4, 6


def ours() -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(
        SPECS,
        encoder=lambda specs: DictEncoder(specs, vector=lambda s: SymlogMLPEncoder(s, units=12)),
        rssm=lambda a, e: BlockRSSM(a, e, deter=32, hidden=8, stoch=32, classes=4, blocks=8),
        decoder=lambda specs, d, z: DictDecoder(specs, d, z, vector=lambda *args: SymlogMLPDecoder(*args, units=12)),
        reward=lambda f: TwoHotHead(f, units=12, layers=1, outscale=1.0),
        cont=lambda f: BinaryHead(f, units=12, layers=1),
    )
    for parameter in model.parameters():  # biases and scales away from where they start
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def mlp(layers: nn.Sequential, own, *outs: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Their layers beside ours: (linear, norm, activation) over and over, and the outputs at the end."""
    linears = [x for x in layers if isinstance(x, nn.Linear)]
    norms = [x for x in layers if hasattr(x, "eps")]
    return [*zip(linears, [*own.linears, *outs], strict=True), *zip(norms, own.norms, strict=True)]


def pairs(theirs, model: WorldModel) -> list[tuple[nn.Module, nn.Module]]:
    """Every layer of TorchRL's world model beside ours."""
    encoder, _, rollout, decoder, reward, cont = theirs
    prior, post = rollout.rssm_prior.module, rollout.rssm_posterior.module
    rssm, core = model.rssm, prior.rnn
    found = mlp(encoder.module.net.model, model.encoder.parts[0].mlp)
    projections = (core.belief_projection, core.state_projection, core.action_projection)
    for theirs_in, own in zip(projections, (rssm.deter_in, rssm.stoch_in, rssm.action_in), strict=True):
        found += mlp(theirs_in, own)
    found += [(core.hidden_layers[0], rssm.hidden[0]), (core.hidden_layers[1], rssm.hidden_norm[0])]
    found += [(core.gates, rssm.gates)]
    found += mlp(prior.rnn_to_prior_projector, rssm.prior_mlp, rssm.prior_logits)
    found += mlp(post.obs_rnn_to_post_projector, rssm.post_mlp, rssm.post_logits)
    found += mlp(decoder.module.net.model, model.decoder.parts[0].mlp, *model.decoder.parts[0].outs)
    found += mlp(reward[0].module.model, model.reward.mlp, model.reward.out)
    return found + mlp(cont.module.model, model.cont.mlp, model.cont.out)


def test_losses_and_gradients_of_the_world_model_agree():
    model = ours()
    loss = build_learner(Plan(SPECS, SIZE, 3), torch.device("cpu")).loss_module.model_loss
    layers = pairs(loss.world_model.module, model)
    for theirs, own in layers:
        theirs.load_state_dict(own.state_dict())
    assert sum(p.numel() for p in loss.world_model.parameters()) == sum(p.numel() for p in model.parameters())

    data = tiny.records(B, T, SPECS)
    torch.manual_seed(5)
    noise = torch.rand(T, 2, B, 32)[:, 1].transpose(0, 1)  # as TorchRL draws, the prior's being thrown away
    rssm = model.rssm
    found, _, _ = model(data, rssm.initial(B), noise)
    means = {key: value.mean() for key, value in found.items()}
    sum(scale * means[key] for key, scale in SCALES.items()).backward()

    flag = lambda name: data[name].unsqueeze(-1)  # noqa: E731
    after = {"vector": data["obs"]["vector"], "reward": data["reward"].unsqueeze(-1)}
    after |= {"done": flag("is_last"), "terminated": flag("is_terminal")}
    sample = {"state": torch.zeros(B, T, 128), "belief": torch.zeros(B, T, 32), "action": data["prev_action"]}
    torch.manual_seed(5)
    theirs, _ = loss(TensorDict({**sample, "is_init": flag("is_first"), "next": after}, [B, T]))
    names = {"dyn": "dynamic", "rep": "representation", "recon/vector": "reco", "reward": "reward", "cont": "continue"}
    for own, name in names.items():
        assert theirs[f"loss_model_{name}"].item() == pytest.approx(SCALES[own] * means[own].item(), rel=1e-5), own
    sum(value.sum() for value in theirs.values()).backward()
    for other, own in layers:
        for got, want in zip(other.parameters(), own.parameters(), strict=True):
            assert (got.grad - want.grad).norm() <= 1e-4 * want.grad.norm()


SCALES = {"dyn": 1.0, "rep": 0.1, "recon/vector": 1.0, "reward": 1.0, "cont": 1.0}

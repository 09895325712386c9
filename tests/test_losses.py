"""Losses without a decoder: their numbers by hand, their gradients, and a run that trains, resumes and dreams."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dreamer_lightning
import tiny
from dreamer_lightning import config
from dreamer_lightning.cli import main
from dreamer_lightning.commands.networks import build_dreamer
from dreamer_lightning.losses import InfoNCE, NextEmbedding, RedundancyReduction, decorrelation
from dreamer_lightning.nets.decoders import DictDecoder
from dreamer_lightning.nets.totals import Harmony
from dreamer_lightning.types import Latent

KINDS = [InfoNCE, RedundancyReduction, NextEmbedding]


def seen(feat: list, embed: list) -> SimpleNamespace:
    """One sequence of what a world model made of records."""
    feat = torch.tensor([feat], dtype=torch.float32)
    return SimpleNamespace(latent=Latent(feat, feat[..., :0]), embed=torch.tensor([embed], dtype=torch.float32))


def test_info_nce_by_hand():
    """Guesses (1, 0) and (0, 2) of embeddings (1, 0) and (0, 1): ln(1 + e^-1), and ln(1 + e^-2)."""
    loss = InfoNCE(tiny.SPECS, 2, 2)
    loss.project.weight.data = torch.eye(2)
    found = loss({}, seen([[1, 0], [0, 2]], [[1, 0], [0, 1]]))
    assert found.tolist() == [pytest.approx([math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2))])]


def test_redundancy_reduction_by_hand():
    """x = y = (1, 1), (-1, -1), standard already: all four correlations are 1. Two off the diagonal, weight 0.25."""
    loss = RedundancyReduction(tiny.SPECS, 2, 2, redundancy=0.25)
    loss.project.weight.data = torch.eye(2)
    found = loss({}, seen([[5, 8], [1, 2]], [[3, 1], [1, -1]]))
    assert found.tolist() == [pytest.approx([0.5, 0.5], abs=1e-5)]
    # x = (1, 1), (-1, -1) against y = (1, -1), (-1, 1): C = [[1, -1], [1, -1]], so (1 - 1)^2 + (1 + 1)^2 + 0.25 2
    found = loss({}, seen([[5, 8], [1, 2]], [[3, -1], [1, 1]]))
    assert found.tolist() == [pytest.approx([4.5, 4.5], abs=1e-5)]


def test_the_next_embedding_by_hand():
    """Steps 1, 2, 3 guess the next embedding; the third is of another episode, so that it does not count."""
    loss = NextEmbedding(tiny.SPECS, 1, 1, units=4)
    loss.mlp, loss.out = torch.nn.Identity(), torch.nn.Linear(3, 1, bias=False)
    loss.out.weight.data = torch.tensor([[1.0, 0.0, 10.0]])
    action = torch.tensor([[[9, 9], [0, 0], [0, 1], [0, -7]]], dtype=torch.float32)
    records = {"prev_action": action, "is_first": torch.tensor([[True, False, False, True]])}
    # guesses 1 and 2 + 10 = 12 rise as the embeddings 4 and 5 do: C = 1; against 5 and 4: C = -1, so (1 + 1)^2
    for embeds, want in (([0, 4, 5, 99], 0.0), ([0, 5, 4, 99], 4.0)):
        found = loss(records, seen([[1], [2], [3], [4]], [[e] for e in embeds]))
        assert found.tolist() == [pytest.approx([want] * 4, abs=1e-4)]


def test_a_dead_number_has_a_finite_gradient():
    x = torch.zeros(2, 3, 4, requires_grad=True)
    decorrelation(x, torch.randn(2, 3, 4), 0.1).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_learns_through_the_latents_alone(kind):
    """Without a decoder the encoder still has a gradient; the embedding as a target gives none."""
    model = {"decoder": lambda specs, deter, stoch: DictDecoder(specs, deter, stoch, keys=[])}
    dreamer = tiny.agent(model_options=model)
    world = dreamer.world_model
    dreamer.extra["own"] = kind(tiny.SPECS, world.feat_dim, world.encoder.embed_dim)
    output = dreamer(tiny.batch(dreamer), torch.Generator().manual_seed(0))
    assert not any(name.startswith("recon") for name in output.losses)
    assert output.losses["own"].shape == (4, 6)
    output.losses["own"].mean().backward()
    assert sum(float(p.grad.abs().sum()) for p in world.encoder.parameters()) > 0
    assert all(p.grad is not None for p in dreamer.extra.parameters())
    target = torch.randn(1, 3, world.encoder.embed_dim, requires_grad=True)
    feat = torch.randn(1, 3, world.feat_dim)
    records = {"prev_action": torch.zeros(1, 3, 2), "is_first": torch.zeros(1, 3, dtype=torch.bool)}
    loss = dreamer.extra["own"](records, SimpleNamespace(latent=Latent(feat, feat[..., :0]), embed=target))
    loss.mean().backward()
    assert target.grad is None


def test_the_example_of_the_page_builds(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "neighbours.md").read_text()
    (block,) = re.findall(r"```yaml\n# infonce.yaml;.*?\n(.*?)```", page, flags=re.S)
    (tmp_path / "infonce.yaml").write_text(block)
    options = config.parse("fit", ["dmc.yaml", str(tmp_path / "infonce.yaml")])[1]
    dreamer = build_dreamer(tiny.SPECS, options)
    assert [type(loss) for loss in dreamer.extra.values()] == [InfoNCE]
    assert type(dreamer.total) is Harmony
    assert not list(dreamer.world_model.decoder.parameters())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A few updates without a decoder, with all three losses and learned weights."""
    folder = tmp_path_factory.mktemp("runs") / "blind"
    env = {"class_path": "dreamer_lightning.envs.counting.Counting"}
    env["init_args"] = {"lengths": [20, 25], "truncate": True, "image_size": 48}
    extra = {kind.__name__: {"class_path": f"dreamer_lightning.losses.{kind.__name__}"} for kind in KINDS}
    losses = {"extra": extra, "total": {"class_path": "dreamer_lightning.nets.totals.Harmony"}}
    options = {"env": env, "run_dir": str(folder), "updates": 3, "learning_starts": 40, "wandb": {"mode": "disabled"}}
    dreamer_lightning.fit("dmc.yaml", "r2dreamer.yaml", "debug.yaml", losses=losses, log_every=1, **options)
    return folder


def test_it_trains_resumes_dreams_and_is_evaluated(run, capsys):
    """``dream`` draws what is predicted, and says why there is no picture; ``evaluate`` plays."""
    again = dreamer_lightning.fit(resume=str(run), updates=5)
    for name in (*(kind.__name__ for kind in KINDS), "barlow", "weight_reward"):
        assert all(map(math.isfinite, again.series(f"loss/{name}")[1]))
    capsys.readouterr()
    assert main(["dream", "--run", str(run), "--samples", "2", "--length", "9", "--episodes", "1"]) == 0
    text = capsys.readouterr().out
    assert "openloop/reward_error" in text
    assert "no picture of what is seen: the decoder decodes nothing (decoder.keys)" in text
    assert (run / "plots" / "dream.png").stat().st_size > 1000
    assert main(["evaluate", "--run", str(run), "--episodes", "1", "--starts", "4"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["greedy"]["returns"]

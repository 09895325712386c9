"""The world model as a LightningModule of its own."""

import copy
import json
from functools import partial

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

import tiny
from dreamer_lightning import config, kernels
from dreamer_lightning.commands.initialise import load_fitting
from dreamer_lightning.commands.networks import build_dreamer, parts
from dreamer_lightning.dreamer import Dreamer, by_module
from dreamer_lightning.nets.decoders import DictDecoder, UpsampleDecoder
from dreamer_lightning.nets.encoders import DictEncoder, MaxPoolEncoder
from dreamer_lightning.types import Discount, Space, Specs, UserError
from dreamer_lightning.world_model import ExtraLoss, WorldModel

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"),
]


class Records(torch.utils.data.Dataset):
    """Sequences of records whose observations follow from time, so that there is something to learn."""

    def __len__(self):
        return 400

    def __getitem__(self, index):
        one = tiny.records(1, 8, seed=index)
        phase = torch.arange(8.0)[:, None] * 0.5 + index % 7
        one["obs"] = {
            "position": torch.sin(phase + torch.arange(3.0)),
            "velocity": torch.cos(phase + torch.arange(2.0)),
        }
        return {
            key: {k: v for k, v in value.items()} if isinstance(value, dict) else value[0] for key, value in one.items()
        }


def trainer(folder, **options):
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def test_lightning_trainer_trains_a_world_model_alone_and_its_weights_load(tmp_path):
    torch.manual_seed(0)
    from dreamer_lightning.optim import LaProp

    model = tiny.model()
    model.optimizer = lambda parameters: LaProp(parameters, lr=3e-3, warmup=1)
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append(float(outputs["loss"]))

    run = trainer(tmp_path, max_steps=20, callbacks=[Watch()], enable_checkpointing=False)
    run.fit(model, DataLoader(Records(), batch_size=16))
    assert len(seen) == 20
    assert sum(seen[-5:]) < 0.9 * sum(seen[:5])

    path = tmp_path / "world_model.ckpt"
    run.save_checkpoint(path)
    parts = tiny.model()
    again = WorldModel.load_from_checkpoint(
        path,
        encoder=lambda specs: parts.encoder,
        rssm=lambda a, e: parts.rssm,
        decoder=lambda specs, d, z: parts.decoder,
        reward=lambda f: parts.reward,
        cont=lambda f: parts.cont,
    )
    assert again.specs == tiny.SPECS
    assert again.discount == Discount()
    agent = tiny.agent()
    before = copy.deepcopy(agent.state_dict())
    load_fitting(agent, str(path))
    after = agent.state_dict()
    assert all(torch.equal(after[f"world_model.{name}"], value) for name, value in model.state_dict().items())
    assert any(not torch.equal(before[name], value) for name, value in after.items())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_specs_survive_as_plain_numbers():
    model = tiny.model()
    assert Specs.from_dict(model.hparams["specs"]) == tiny.SPECS


def test_world_model_with_defaults_alone_has_the_published_size():
    walker = Specs.from_dict(
        {
            "obs": {
                "orientations": {"shape": [14], "dtype": "float32", "classes": 0},
                "height": {"shape": [], "dtype": "float32", "classes": 0},
                "velocity": {"shape": [9], "dtype": "float32", "classes": 0},
            },
            "action": {"action": {"shape": [6], "dtype": "float32", "classes": 0}},
        }
    )
    model = WorldModel(walker)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    counts = [count(m) for m in (model.encoder, model.rssm, model.decoder, model.reward, model.cont)]
    assert counts == [10_112, 364_416, 51_096, 57_663, 41_153]


def test_cont_target_holds_the_discount():
    model = tiny.model()
    got = model.cont_target(torch.tensor([False, True]))
    torch.testing.assert_close(got, torch.tensor([1 - 1 / 333, 0.0]))
    assert tiny.model(discount=Discount(contdisc=False)).cont_target(torch.tensor([False])).item() == 1.0


class Guess(ExtraLoss):
    """A loss of a user's own: a linear guess of the first action from ``feat``."""

    def __init__(self, *args, entry: int = 0, **options):
        super().__init__(*args, **options)
        self.entry, self.net = entry, torch.nn.Linear(args[1], 1)

    def forward(self, records, observed):
        assert set(observed.outputs) == {"recon/position", "recon/velocity", "reward", "cont"}
        assert observed.embed.shape[:2] == records["is_first"].shape
        guess = self.net(observed.latent.feat).squeeze(-1)
        return (guess - records["prev_action"][..., self.entry]).square()


def test_a_further_loss_is_scaled_trained_and_saved():
    plain = tiny.agent()
    feat_dim, embed_dim = plain.world_model.feat_dim, plain.world_model.encoder.embed_dim
    torch.manual_seed(1)
    guess = Guess(tiny.SPECS, feat_dim, embed_dim, scale=0.5, entry=1)
    whole = Dreamer(plain.world_model, plain.actor_critic, extra={"guess": guess})
    data, noise = tiny.batch(plain), plain.noise(4, 6, torch.Generator().manual_seed(0))
    before = copy.deepcopy(plain.state_dict())
    alone = plain(data, noise=noise)
    plain.load_state_dict(before)
    both = whole(data, noise=noise)
    assert both.losses["guess"].shape == (4, 6)
    torch.testing.assert_close(both.loss, alone.loss + 0.5 * both.metrics["loss/guess"])
    both.losses["guess"].sum().backward()
    touched = {name for name, parameters in by_module(whole).items() if any(p.grad is not None for p in parameters())}
    assert touched == {"encoder", "rssm", "guess"}
    assert "extra.guess.net.weight" in whole.state_dict()
    assert any(p is guess.net.weight for p in parts(whole).groups["model"])


def test_a_further_loss_by_class_path():
    extra = {"guess": {"class_path": "test_world_model.Guess", "init_args": {"entry": 1, "scale": 0.5}}}
    options = config.parse("fit", ["dmc.yaml", f"--losses.extra={json.dumps(extra)}"])[1]
    dreamer = build_dreamer(tiny.SPECS, options)
    loss = dreamer.extra["guess"]
    assert (type(loss).__name__, loss.entry, loss.scale, dreamer.scales["guess"]) == ("Guess", 1, 0.5, 0.5)
    extra["guess"]["init_args"] = {"entri": 1}
    with pytest.raises(UserError, match="Guess has no option 'entri'"):
        config.parse("fit", ["dmc.yaml", f"--losses.extra={json.dumps(extra)}"])
    with pytest.raises(UserError, match="reward is a loss already"):
        Dreamer(dreamer.world_model, dreamer.actor_critic, extra={"reward": loss})


class Wider(WorldModel):
    """A user's own world model with an option of its own, and a loss without a scale."""

    def __init__(self, *args, pull: float = 0.1, **options):
        super().__init__(*args, **options)
        self.pull = pull

    def forward(self, records, carry, noise):
        losses, observed, metrics = super().forward(records, carry, noise)
        losses["pull"] = self.pull * observed.latent.feat.square().mean(-1)
        return losses, observed, metrics


def test_an_own_world_model_has_options_of_its_own(capsys):
    words = ["dmc.yaml", "--world_model", "test_world_model.Wider", "--world_model.pull", "0.3"]
    options = config.parse("fit", words)[1]
    dreamer = build_dreamer(tiny.SPECS, options)
    assert (dreamer.world_model.pull, dreamer.world_model.standardize is not None) == (0.3, True)
    assert "loss/pull" in dreamer(tiny.batch(dreamer)).metrics


@pytest.mark.parametrize("fast", [False, True])
def test_a_decoder_computed_twice_gives_the_same_numbers_in_less_memory(fast: bool):
    """Bit for bit, with kernels and without; what autograd keeps of the decoder is its input alone."""
    specs = Specs({"picture": Space((32, 32, 3), "uint8")}, {"action": Space((2,))})
    found, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        sizes = {"encoder": partial(DictEncoder, image=partial(MaxPoolEncoder, depth=8, mults=(1, 1, 1)))}
        sizes |= {"decoder": partial(DictDecoder, image=partial(UpsampleDecoder, depth=8, mults=(1, 1, 1)))}
        dreamer = tiny.agent(specs, sizes)
        if fast:
            kernels.accelerate(dreamer)
        dreamer.world_model.recompute = recompute
        batch, noise = tiny.batch(dreamer), dreamer.noise(4, 6, torch.Generator().manual_seed(1))
        batch["obs"] = {"picture": (batch["obs"]["picture"] * 50 + 128).clamp(0, 255).to(torch.uint8)}
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=saved: s.append(x.nbytes) or x, lambda x: x):
            output = dreamer(batch, noise=noise)
        output.loss.backward()
        grads = [parameter.grad for parameter in dreamer.parameters() if parameter.grad is not None]
        found.append([output.loss, *grads])
        kept.append(sum(saved))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1] < 0.8 * kept[0], kept

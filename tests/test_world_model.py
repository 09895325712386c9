"""The world model as a LightningModule of its own."""

import copy

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

import tiny
from dreamer_lightning.commands.initialise import load_fitting
from dreamer_lightning.types import Discount, Specs
from dreamer_lightning.world_model import WorldModel

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

"""Vectors on one scale: running statistics, their inverse, and who sees what."""

import pytest
import torch

import tiny
from dreamer_lightning.nets.standardize import Standardize
from dreamer_lightning.ops.scalars import symlog
from dreamer_lightning.types import Space, Specs

MIXED = Specs(
    {"small": Space((2,)), "large": Space(()), "kind": Space((), "int32", 3), "eye": Space((8, 8, 3), "uint8")},
    tiny.SPECS.action,
)


def observations(n: int = 4000) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(n, *shape, generator=generator)  # noqa: E731
    kind, eye = torch.zeros(n, dtype=torch.int32), torch.zeros(n, 8, 8, 3, dtype=torch.uint8)
    return {"small": 0.5 + 0.1 * draw(2), "large": 300 * draw(), "kind": kind, "eye": eye}


def test_vectors_have_mean_0_and_deviation_1_and_come_back():
    scale, obs = Standardize(MIXED), observations()
    for part in range(4):
        scale.update({name: x[part::4] for name, x in obs.items()})
    seen = scale(obs)
    for name in ("small", "large"):
        assert seen[name].shape == obs[name].shape
        assert seen[name].mean(0).abs().max() < 1e-4
        assert (seen[name].std(0) - 1).abs().max() < 1e-3
        torch.testing.assert_close(scale.undo(name, seen[name]), obs[name])
    for name in ("kind", "eye"):
        assert seen[name] is obs[name]
        assert scale.undo(name, obs[name]) is obs[name]


def test_missing_numbers_stay_missing_and_count_for_nothing():
    obs = {"small": torch.tensor([[1.0, -torch.inf], [3.0, 2.0]]), "large": torch.zeros(2)}
    scale = Standardize(Specs({"small": Space((2,)), "large": Space(())}, tiny.SPECS.action))
    scale.update(obs)
    torch.testing.assert_close(scale.stats()["small"][0], symlog(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).mean(0))
    seen = scale(obs)["small"]
    assert seen[0, 1] == -torch.inf
    assert seen.isfinite().sum() == 3


def test_batches_without_a_number_change_nothing_of_it():
    scale = Standardize(Specs({"x": Space((2,))}, tiny.SPECS.action))
    scale.update({"x": torch.tensor([[1.0, 5.0], [3.0, 9.0]])})
    before = [part.clone() for part in scale.stats()["x"]]
    for _ in range(20):
        scale.update({"x": torch.tensor([[2.0, -torch.inf], [7.0, -torch.inf]])})
    after = scale.stats()["x"]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new[1], old[1])
        assert new[0] != old[0]


def test_a_constant_is_not_blown_up():
    scale = Standardize(Specs({"x": Space((1,))}, tiny.SPECS.action))
    scale.update({"x": torch.full((8, 1), 0.7)})
    assert scale({"x": torch.full((8, 1), 0.7001)})["x"].abs().max() < 0.02


def test_late_batches_weigh_little():
    scale = Standardize(Specs({"x": Space((1,))}, tiny.SPECS.action), rate=0.01)
    for value in [0.0] * 200 + [symlog(torch.tensor(5.0)).item()]:
        scale.update({"x": torch.full((4, 1), value)})
    mean = scale.stats()["x"][0]
    torch.testing.assert_close(mean, 0.01 * symlog(symlog(torch.tensor([5.0]))))


@pytest.mark.parametrize("specs", [tiny.SPECS, MIXED], ids=["vectors", "mixed"])
def test_statistics_learn_in_training_alone(specs):
    specs = Specs({name: space for name, space in specs.obs.items() if name != "eye"}, specs.action)
    dreamer = tiny.agent(specs, {"standardize": True})
    data = tiny.records(4, 7, specs, latent=None)
    data["obs"] = {name: x.abs().int() % 3 if name == "kind" else 100 + x for name, x in data["obs"].items()}
    data["latent"] = dreamer.world_model.rssm.pack(dreamer.world_model.rssm.initial(4, 7))
    before = dreamer.world_model.standardize.moments.clone()
    dreamer.eval()
    dreamer(data)
    assert torch.equal(dreamer.world_model.standardize.moments, before)
    dreamer.train()
    dreamer(data).loss.backward()
    after = dreamer.world_model.standardize.moments.clone()
    assert not torch.equal(after, before)
    with torch.no_grad():
        dreamer(data)
    assert torch.equal(dreamer.world_model.standardize.moments, after)
    assert "world_model.standardize.moments" in dreamer.state_dict()


def test_acting_sees_what_training_sees_and_predictions_are_in_the_environments_units():
    dreamer = tiny.agent(model_options={"standardize": True})
    data = tiny.batch(dreamer)
    data["obs"] = {name: 50 + 0.1 * x for name, x in data["obs"].items()}
    for _ in range(3):
        dreamer(data)
    model, seen = dreamer.world_model, []
    hook = model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    state, first = dreamer.initial(4), torch.ones(4, dtype=torch.bool)
    dreamer.act({name: x[:, 0] for name, x in data["obs"].items()}, state, first)
    hook.remove()
    assert all(x.abs().max() < 6 for x in seen[0].values())
    latent = model.rssm.initial(4)
    for name, x in dreamer.reconstruct(latent).items():
        assert (x - 50).abs().max() < 5, name

"""Run folders as methods on tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamer_lightning.workshop.results.methods import Setting
from dreamer_lightning.workshop.results.runs import load, read_run, setting_of, version_of
from runfolders import write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, scores in enumerate(([100.0] * 5 + [900.0] * 20, [200.0] * 5 + [1000.0] * 20)):
        write_run(tmp_path / "ours" / f"seed{seed}", scores, seed)
    return tmp_path / "ours"


def test_a_run_knows_its_setting(runs: Path):
    one = read_run(runs / "seed1")
    assert (one.label, one.task, one.seed, one.benchmark) == ("ours", "reacher_easy", "1", "dmc_proprio")
    assert one.setting == Setting("2", "512", "1m", "4", "V3 imag_last 16", "training, sampled")
    slow, fast = ({"optimizer": {"init_args": {"lr": rate}}} for rate in (4e-5, 3e-4))
    assert [version_of(config) for config in (slow, fast, {"optimizer": None})] == ["V3", "V3 lr 0.0003", "V3"]
    assert (one.last, one.seconds) == (50_000, 1500)
    critic = {"class_path": "dreamer_lightning.versions.ActorCritic2023"}
    critic["init_args"] = {"gradient": {"class_path": "dreamer_lightning.nets.gradients.Pathwise"}}
    assert setting_of({"actor_critic": critic}).version == "V3-2023 dynamics"
    assert setting_of({"actor_critic": "dreamer_lightning.versions.ActorCriticV1"}).version == "V1"


def test_seeds_become_a_row_and_labels_name_it(runs: Path, tmp_path: Path):
    write_run(tmp_path / "reacher_easy-1m-s4-20261122-100000", [1.0] * 10, 4)
    series = load([str(runs), f"mine={runs}", str(tmp_path / "reacher_easy-1m-s4-20261122-100000")])
    assert [one.label for one in series] == ["ours", "ours", "mine", "mine", "dreamer 1m"]

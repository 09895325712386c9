"""Starting from other weights: parts by name, another task, another action space, frozen parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import dreamer_lightning
from dreamer_lightning.commands.run import Run
from dreamer_lightning.store import atomic, runfolder
from dreamer_lightning.types import UserError

OWN = """
import gymnasium, numpy as np

class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)

    def __init__(self, goal=0.0, arms=1):
        self.goal, self.action_space = goal, gymnasium.spaces.Box(-1, 1, (arms,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = 0.0, 0
        return np.array([self.x, self.t / 9], np.float32), {}

    def step(self, action):
        self.x, self.t = self.x + float(action.sum()), self.t + 1
        return np.array([self.x, self.t / 9], np.float32), -abs(self.x - self.goal), False, self.t >= 20, {}
"""
QUICK = {
    "evaluation.every": 0,
    "evaluation.random_episodes": 0,
    "wandb.mode": "disabled",
    "train_ratio": 64,
    "learning_starts": 16,
    "optimizer.warmup": 0,
    "world_model.standardize": True,
    "batch_size": 2,
    "batch_length": 4,
    "threads": 1,
}
BODY = ["encoder", "rssm", "decoder"]


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Path:
    """A config with an environment of one's own."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "walks.py").write_text(OWN)
    text = "env: {class_path: dreamer_lightning.envs.Custom, init_args: {path: 'walks:Walk'}}\n"
    (folder / "walk.yaml").write_text(text)
    return folder / "walk.yaml"


def train(walk: Path, name: str, **options) -> Run:
    return dreamer_lightning.fit(
        walk, "debug.yaml", run_dir=str(walk.parent / name), **{**QUICK, "updates": 4, **options}
    )


@pytest.fixture(scope="module")
def first(walk: Path) -> Run:
    return train(walk, "first")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return atomic.load_tensors(runfolder.latest_complete(run.dir) / runfolder.MODEL)["loop"]["dreamer"]


def moved(before: Run, after: Run) -> set[str]:
    """Names of the tensors that differ, without their last word."""
    old, new = weights(before), weights(after)
    return {name for name in new if name not in old or not torch.equal(old[name], new[name])}


def test_an_actor_is_tuned_to_a_second_task_with_a_frozen_model(walk: Path, first: Run, capsys):
    second = train(
        walk, "second", **{"env.kwargs": {"goal": 3.0}}, init_from=str(first.dir), init_parts=BODY, freeze=BODY
    )
    said = capsys.readouterr().out
    model = ("world_model.encoder.", "world_model.standardize.", "world_model.rssm.", "world_model.decoder.")
    count = sum(name.startswith(model) for name in weights(first))
    assert f"initialised {count} of {count} tensors of encoder, rssm, decoder from {first.dir}" in said
    assert f"frozen: {count} of {count} tensors of encoder, rssm, decoder" in said
    changed = moved(first, second)
    assert not [name for name in changed if name.startswith(model)]
    for begin in ("world_model.reward.", "world_model.cont.", "actor_critic.policy.", "actor_critic.value."):
        assert any(name.startswith(begin) for name in changed), begin

    further = dreamer_lightning.fit(resume=str(second.dir), updates=8)  # frozen as before, without the first run
    assert not [name for name in moved(first, further) if name.startswith(model)]
    assert runfolder.latest_complete(further.dir).name.endswith("update-000000008")


def test_another_action_space_trains_what_did_not_fit(walk: Path, first: Run, capsys):
    run = train(walk, "arms", **{"env.kwargs": {"arms": 3}}, init_from=str(first.dir), freeze=["world_model"])
    said = capsys.readouterr().out
    name = next(name for name, value in weights(run).items() if weights(first)[name].shape != value.shape)
    assert name.startswith("world_model.rssm.")
    assert f"skipped {name} {tuple(weights(first)[name].shape)}, here {tuple(weights(run)[name].shape)}" in said
    assert f"trained all the same, for want of weights: {name}" in said
    assert name not in json.loads((run.dir / runfolder.FROZEN).read_text())
    changed = [n for n in moved(first, run) if n.startswith("world_model.")]
    assert changed == [name]


def test_a_part_alone_is_loaded_and_may_be_frozen_as_it_was_drawn(walk: Path, first: Run):
    run = train(walk, "policy", init_from=str(first.dir), init_parts=["policy"], freeze=["policy"], updates=1)
    assert not [name for name in moved(first, run) if ".policy." in name]
    drawn = train(walk, "drawn", freeze=["encoder"], updates=1)
    assert any("encoder" in name for name in json.loads((drawn.dir / runfolder.FROZEN).read_text()))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"init_parts": ["encoder"]}, "--init_parts: names parts of what --init_from loads; give that, too"),
        ({"freeze": ["actor"]}, "--freeze: no part is called 'actor'; there are encoder, rssm, decoder, reward"),
        ({"freeze": ["world_model", "actor_critic"]}, "--freeze: nothing is left to train"),
    ],
)
def test_mistakes(walk: Path, options: dict, line: str):
    with pytest.raises(UserError, match=line):
        train(walk, "never", **options)

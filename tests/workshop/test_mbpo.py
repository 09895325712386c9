"""MBPO: dreams from replayed states by the model's own numbers, and the library's SAC on what it mixes."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import stable_baselines3
import torch

from dreamer_lightning import cli, config
from dreamer_lightning.envs.counting import Counting
from dreamer_lightning.envs.view import GymView
from dreamer_lightning.types import UserError
from dreamer_lightning.workshop import mbpo
from dreamer_lightning.workshop.mbpo import DreamSource, build_mbpo
from dreamer_lightning.workshop.results.runs import read_run

SMALL = ["dmc.yaml", "debug.yaml", "--env.task", "cartpole_balance"]


def options(*words: str) -> dict:
    return config.parse("fit", [*SMALL, *words])[1]


def source(**more) -> tuple[GymView, DreamSource]:
    torch.manual_seed(0)
    view = GymView(Counting(lengths=(20, 25), action_dim=2).make(0))
    found = DreamSource(view, {**options(), "learning_starts": 20, **more}, 100, torch.device("cpu"), Path("replay"))
    found.policy = SimpleNamespace(_predict=lambda obs, deterministic: torch.zeros(len(obs), 2))
    return view, found


def play(view: GymView, found: DreamSource, steps: int) -> None:
    obs, _ = view.reset()
    for _ in range(steps):
        action = view.action_space.sample()
        after, reward, terminated, truncated, _ = view.step(action)
        arrays = (torch.as_tensor(x).float() for x in (obs, after, action))
        found.step(*arrays, reward, terminated or truncated, truncated)
        obs = view.reset()[0] if terminated or truncated else after


def test_dreams_grow_with_the_run():
    """1 to 5 steps in fifths of 100."""
    _, found = source()
    lengths = []
    for found.steps in (0, 19, 20, 40, 79, 80, 100):
        lengths.append(found.length)
    assert lengths == [1, 1, 2, 3, 4, 5, 5]


def test_the_replay_holds_every_frame_once_and_no_update_comes_before_there_is_enough():
    view, found = source(learning_starts=10_000)
    play(view, found, 50)  # two episodes and five steps: 50 records, and the first frame of three episodes
    assert found.replay.steps == 53
    data = found.replay.data[0][:53]
    assert data["is_first"].nonzero().flatten().tolist() == [0, 21, 47]
    assert data["is_last"].nonzero().flatten().tolist() == [20, 46]
    assert data["reward"][:5].tolist() == [0, 1, 2, 3, 4]
    assert found.dreams is None


def test_dreams_begin_at_replayed_states_and_stop_where_the_model_ends_them(monkeypatch):
    view, found = source()
    play(view, found, 60)
    assert float(found.loss) > 0
    obs, action, after, ends, reward = found.dreams
    assert obs.shape == after.shape == (len(obs), 5)
    assert (action.shape, ends.shape, reward.shape) == ((len(obs), 2), (len(obs), 1), (len(obs), 1))
    played = found.numbers.one_hot(dict(found.replay.data[0][: found.replay.steps]["obs"].items()))
    assert (obs[0] == played).all(-1).any(), "a dream's first observation is a real one"
    monkeypatch.setattr(mbpo, "LENGTHS", (4, 4))
    model, rssm, found.dreams = found.model, found.model.rssm, None
    records = found.replay.sample()[:, 1:].reshape(-1)
    for cont, steps in ((1.0, 4), (0.0, 1)):
        model.cont.forward = lambda feat, cont=cont: SimpleNamespace(pred=lambda: torch.full(feat.shape[:-1], cont))
        found.dreams = None
        found.dream(rssm.initial(len(records)), records)
        assert len(found.dreams[0]) == steps * int((~records["is_last"]).sum())
        assert bool((found.dreams[3] == 1 - cont).all())


def test_sacs_batches_are_mixed():
    torch.manual_seed(0)
    view = GymView(Counting(lengths=(20, 25), action_dim=2).make(0))
    model, found = build_mbpo(stable_baselines3, view, {**options(), "learning_starts": 10_000}, 100, Path("replay"))
    model.learn(30)  # before the library's own start: no update
    assert model.replay_buffer.sample(40).rewards.shape == (40, 1)
    found.dreams = tuple(torch.full((7, n), -1.0) for n in (5, 2, 5, 1, 1))
    rewards = model.replay_buffer.sample(40).rewards
    assert rewards.shape == (40, 1)
    assert int((rewards == -1).sum()) == 38


def test_pictures_are_refused():
    view = GymView(Counting(image_size=48).make(0))
    with pytest.raises(UserError, match="'image' is a picture; take sac"):
        DreamSource(view, options(), 100, torch.device("cpu"), Path("replay"))


def test_the_command_trains_sac_in_dreams_and_compare_reads_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mbpo, "UPDATES", 2)
    words = [word for name in SMALL[:2] for word in ("--config", name)] + SMALL[2:]
    words += ["--env_steps", "260", "--env.time_limit", "100", "--learning_starts", "32", "--log_every", "100"]
    run = ["--run_dir", str(tmp_path / "run"), "--threads", "1"]
    assert cli.main(["yardstick", "--algo", "mbpo", *words, *run]) == 0
    assert "mbpo on cartpole_balance: 260 env steps" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["model/dream_length"] for row in rows if row["model/dream_length"]][-1] == "5"
    assert read_run(tmp_path / "run").setting.version.startswith("mbpo of stable-baselines3 2")
    assert cli.main(["compare", str(tmp_path / "run")]) == 0

"""What is played besides the policy, from where sequences are drawn, and when updates are made (V1, V2)."""

from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from tensordict import TensorDict

import dreamer_lightning
import tiny
from dreamer_lightning.commands import fit
from dreamer_lightning.data.collect import CollectorPolicy
from dreamer_lightning.data.episodes import EpisodeReplay
from dreamer_lightning.data.explore import Decision, Disturbed, HeldCorners, RandomFirst
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.store.replay_files import ReplayFiles, Shard
from dreamer_lightning.types import Space, Specs, UserError

MIXED = Specs({}, {"a": Space((2,)), "b": Space((), "int32", classes=3)})


def test_random_actions_are_uniform():
    actions = MIXED.actions.random((30_000,), torch.Generator().manual_seed(0))
    assert actions.shape == (30_000, 5)
    torch.testing.assert_close(actions[:, :2].mean(0), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(actions[:, :2].square().mean(0), torch.full((2,), 1 / 3), atol=0.02, rtol=0)
    assert (actions[:, 2:].sum(1) == 1).all()
    torch.testing.assert_close(actions[:, 2:].mean(0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)


def test_noise_is_added_and_cut_or_replaces_a_choice():
    own = torch.tensor([0.0, 0.95, 1.0, 0.0, 0.0]).expand(30_000, 5)
    explore = Disturbed(MIXED, 30_000, torch.Generator(), amount=0.3)
    actions = explore(decision(own, generator=torch.Generator().manual_seed(0)))
    assert actions[:, 0].std().item() == pytest.approx(0.3, abs=0.01)
    assert actions[:, :2].abs().max() <= 1
    assert (actions[:, 1] == 1).float().mean().item() == pytest.approx(0.4338, abs=0.02)  # P(normal > 0.05/0.3)
    kept = (actions[:, 2] == 1).float().mean().item()
    assert kept == pytest.approx(0.7 + 0.3 / 3, abs=0.02)  # a blind choice may be the same
    assert (actions[:, 2:].sum(1) == 1).all()


def decision(action, is_first=False, scale=1.0, **known) -> Decision:
    """A policy's actions [n, a] where all episodes begin, or none."""
    norm = SimpleNamespace(stats=lambda: (torch.zeros(()), torch.tensor(scale)))
    agent = SimpleNamespace(actor_critic=SimpleNamespace(return_norm=norm))
    return Decision({}, {}, action, torch.full((len(action),), is_first), agent=agent, **known)


def act(obs, state, is_first, generator):
    return torch.zeros(len(is_first), 2), dict(state)


def played(policy: CollectorPolicy) -> TensorDict:
    n = 64
    state = TensorDict({"deter": torch.zeros(n, 4), "stoch": torch.zeros(n, 2)}, [n])
    wire = {name: torch.zeros(n, *space.shape) for name, space in tiny.SPECS.obs.items()}
    wire |= {"latent": state, "prev_action": torch.zeros(n, 2), "is_init": torch.zeros(n, 1, dtype=torch.bool)}
    return policy(TensorDict(wire, [n]))


def test_what_is_played_is_what_the_policy_remembers():
    policy = CollectorPolicy(act, tiny.SPECS, torch.Generator().manual_seed(0))
    calm = played(policy)
    assert calm["action"].abs().sum() == 0
    assert "explored" not in calm
    place = (tiny.SPECS, 64, torch.Generator())
    policy.explore = RandomFirst(*place, steps=5, then=Disturbed(*place, amount=0.3))
    blind = played(policy)
    assert blind["action"].std().item() == pytest.approx(3**-0.5, abs=0.1)
    assert torch.equal(blind["action"], blind["next", "prev_action"])
    assert blind["explored"].all()
    policy.agent_step = 5
    disturbed = played(policy)
    assert disturbed["action"].std().item() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(disturbed["action"], disturbed["next", "prev_action"])


# Held corners.


def corners(specs=tiny.SPECS, n: int = 64, seed: int = 0, **options) -> HeldCorners:
    return HeldCorners(specs, n, torch.Generator().manual_seed(seed), **options)


def play(explore: HeldCorners, steps: int, begin: bool = True, **known) -> torch.Tensor:
    """Actions [n, t, a] of an episode in which the policy plays zeros."""
    own = torch.zeros(explore.num_envs, explore.specs.action_dim)
    return torch.stack([explore(decision(own, begin and t == 0, **known)) for t in range(steps)], 1)


def runs(values: torch.Tensor) -> list[int]:
    """Lengths of runs of equal rows of [t, a], the last one, which is cut, left out."""
    changes = (values[1:] != values[:-1]).any(-1).nonzero()[:, 0] + 1
    return torch.tensor([0, *changes.tolist()]).diff().tolist()


def test_corners_are_held_for_10_to_30_decisions():
    actions = play(corners(), 600)
    assert (actions.abs() == 1).all()
    lengths = torch.tensor([length for row in actions for length in runs(row)])
    assert lengths.min() == 10
    fresh = lengths[lengths <= 30].float()  # the next corner is the same in one of four
    assert len(fresh) > 0.7 * len(lengths)
    counts = torch.bincount(fresh.long())[10:20]  # no sum of two reaches here
    assert counts.max() < 2 * counts.min()
    torch.testing.assert_close(actions.mean((0, 1)), torch.zeros(2), atol=0.1, rtol=0)


def test_a_corner_of_one_environment_tells_nothing_about_its_neighbour():
    one, two = play(corners(n=2), 2000)
    assert abs((one * two).mean().item()) < 0.2


def test_discrete_actions_are_held_by_the_law_of_ez_greedy():
    """P(n) is proportional to 1/n^2: 1 in 61%, 2 in 15%; after it another class in three of four."""
    actions = play(corners(tiny.DISCRETE), 2000)
    assert (actions.sum(-1) == 1).all()
    explore = corners(tiny.DISCRETE, n=100_000)
    lengths = explore.durations()[:, 0]
    assert (lengths == 1).float().mean().item() == pytest.approx(0.608, abs=0.01)
    assert (lengths == 2).float().mean().item() == pytest.approx(0.152, abs=0.01)
    assert 100 < lengths.max() <= 1000


def test_actions_of_a_mixed_space_are_held_each_for_itself():
    actions = play(corners(MIXED), 300)
    pushes, choices = ([len(runs(row)) for row in part] for part in (actions[..., :2], actions[..., 2:]))
    assert max(pushes) <= 30 < torch.tensor(choices).float().mean()


def test_whole_episodes_are_chosen_and_fewer_once_dreams_tell_returns_apart():
    for scale, share in ((1.0, 0.1), (0.0, 0.1), (5.0, 0.02)):
        actions = play(corners(n=20_000), 3, env_step=2500, scale=scale)
        held = actions[..., 0] != 0
        assert (held == held[:, :1]).all()
        assert held.float().mean().item() == pytest.approx(share, abs=0.005)


def test_the_first_steps_of_a_run_are_held_everywhere_and_the_policy_takes_over_between_episodes_or_not():
    explore = corners(n=2000)
    assert (play(explore, 3, env_step=2499) != 0).all()
    after = play(explore, 3, begin=False, env_step=2500)
    assert (after[..., 0] != 0).float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert explore.metrics()["explore/episodes"] == 2000
    play(explore, 3, env_step=2500)
    assert 2100 < explore.metrics()["explore/episodes"] < 2300


def test_held_corners_repeat_and_go_on_from_their_state():
    one, two, other = corners(), corners(), corners(seed=1)
    known = {"env_step": 3000}
    assert torch.equal(play(one, 50, **known), play(two, 50, **known))
    other.load_state_dict(one.state_dict())
    again = play(other, 50, begin=False, **known)
    assert torch.equal(again, play(two, 50, begin=False, **known))
    assert again.abs().sum() > 0
    assert other.metrics() == two.metrics()


@pytest.mark.parametrize(("options", "word"), [({"shortest": 0}, "shortest"), ({"share": 2.0}, "share")])
def test_what_cannot_be_held_is_refused(options, word):
    with pytest.raises(UserError, match=word):
        corners(**options)


# Windows within episodes.


def records(*lengths: int, ended: bool = True) -> dict:
    """One stream of episodes: ``value`` counts records, ``episode`` says which."""
    first = torch.cat([torch.arange(n) == 0 for n in lengths])
    last = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    last[-1] = ended
    total, episode = sum(lengths), torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return {
        "obs": {"value": torch.arange(total).float()[:, None], "episode": episode.float()[:, None]},
        "latent": {"deter": torch.zeros(total, 2), "stoch": torch.zeros(total, 2)},
        "prev_action": torch.zeros(total, 1),
        "reward": torch.zeros(total),
        "is_first": first,
        "is_last": last,
        "is_terminal": torch.zeros(total, dtype=torch.bool),
    }


def filled(*lengths: int, ended: bool = True, batch: int = 512, **options) -> EpisodeReplay:
    replay = EpisodeReplay(capacity=200, batch_size=batch, length=4, num_streams=1, latents=False, **options)
    replay.extend([TensorDict(records(*lengths, ended=ended), [sum(lengths)])])
    return replay


def test_training_steps_lie_within_one_complete_episode():
    """Windows of 3 steps in episodes of 5, 2, 9 and (still played) 6 records; the very first record is lost."""
    replay = filled(5, 2, 9, 6, ended=False)
    batch = replay.sample()
    episodes = batch["obs", "episode"][:, 1:, 0]
    assert (episodes == episodes[:, :1]).all()
    counts = Counter(episodes[:, 0].tolist())
    assert set(counts) == {0.0, 2.0}
    assert 180 < counts[0.0] < 330  # episodes are drawn alike, whatever their length
    assert set(batch["obs", "value"][:, 1, 0].tolist()) == {1, 2, 7, 8, 9, 10, 11, 12, 13}
    assert len(replay) == 2 + 7


def test_an_ended_episode_joins_and_an_overwritten_one_leaves():
    replay = filled(5, 6, ended=False)
    assert {span.begin for span in replay.episodes()} == {1}
    replay.extend([TensorDict(records(3), [3])])
    assert [(span.begin, span.end) for span in replay.episodes()] == [(1, 5), (5, 11), (11, 14)]
    replay.extend([TensorDict(records(195), [195])])  # 200 slots: records 0 to 8 are gone
    assert [(span.begin, span.end) for span in replay.episodes()] == [(11, 14), (14, 209)]


def test_prioritised_ends_are_seen_as_often_as_middles():
    """9 records, 3 of them trained on: 7 places, and 3 more that mean the last: it has 4 chances of 10."""
    for prioritize, share in ((False, 1 / 7), (True, 4 / 10)):
        replay = filled(5, 9, prioritize_ends=prioritize, batch=4000)
        start = replay.sample()["obs", "value"][:, 1, 0]
        start = start[start >= 5]
        assert (start == 11).float().mean().item() == pytest.approx(share, abs=0.03)


def test_sequences_without_stored_latents_begin_like_episodes_and_write_nothing_back():
    for replay in (filled(5, 9), Replay(capacity=200, batch_size=8, length=4, online=False, latents=False)):
        if not len(replay):
            replay.extend([TensorDict(records(5, 9), [14])])
        batch = replay.sample()
        assert batch["is_first"][:, :2].all()
        fresh = {"deter": torch.ones(len(batch), 3, 2), "stoch": torch.ones(len(batch), 3, 2)}
        assert replay.write_latents(batch["index"], fresh) == 0
        assert replay.data["latent", "deter"][:, :14].sum() == 0
    keeping = Replay(capacity=200, batch_size=64, length=4, online=False)
    keeping.extend([TensorDict(records(5, 9), [14])])
    batch = keeping.sample()
    assert torch.equal(
        batch["is_first"][:, 1], (batch["obs", "value"][:, 1, 0] % 5 == 0) & (batch["obs", "value"][:, 1, 0] < 6)
    )


def test_a_saved_buffer_knows_its_episodes(tmp_path):
    replay = filled(5, 2, 9)
    files = ReplayFiles(replay, tmp_path)
    shard = Shard(tmp_path, files.save(), replay.state_dict())
    again = EpisodeReplay(capacity=200, batch_size=512, length=4, num_streams=1, latents=False)
    ReplayFiles(again, tmp_path).load([shard])
    assert again.episodes() == replay.episodes()
    assert torch.equal(again.sample()["index"], replay.sample()["index"])


# When updates are made.


class Watch:
    """Remembers the agent steps at which updates were made, and what was played."""

    seen: ClassVar[list[int]] = []
    actions: ClassVar[list[float]] = []

    def on_train_batch_end(self, loop, metrics):
        Watch.seen.append(loop.clocks.agent_step)

    def on_collect_end(self, loop, wire):
        Watch.actions.append(wire["action"].item())


QUICK = {
    "env": {
        "class_path": "dreamer_lightning.envs.Custom",
        "init_args": {"path": "learnable:Echo", "repeat": 1, "pixels": False, "vectors": True},
    },
    "num_envs": 1,
    "env_steps": 400,
    "batch_size": 2,
    "batch_length": 10,
    "learning_starts": 1,
    "size": {"deter": 8, "hidden": 8, "classes": 4, "units": 8},
    "evaluation": {"every": 0, "random_episodes": 0},
    "wandb": {"mode": "disabled"},
}


@pytest.fixture
def watched(monkeypatch):
    build = fit.build_callbacks
    monkeypatch.setattr(fit, "build_callbacks", lambda *args: [*build(*args), Watch()])


def run(folder: str, preset: str, **options) -> list[int]:
    Watch.seen.clear()
    Watch.actions.clear()
    if preset:
        dreamer_lightning.fit(preset, "debug.yaml", **{**QUICK, "run_dir": folder, **options})
    else:
        dreamer_lightning.fit(resume=folder, **options)
    return list(Watch.seen)


def test_prefill_pretrain_and_bursts(tmp_path, watched):
    """20 steps a batch at ratio 4 owe one update in 5 decisions: 4 in 20. A run stopped in a burst ends that first."""
    folder = str(tmp_path / "run")
    bursts = {"prefill": 64, "pretrain": 3, "burst": 4, "train_ratio": 4, "collector": {"explore": None}}
    seen = run(folder, "dreamer_v1.yaml", updates=9, **bursts)
    assert seen == [64] * 3 + [84] * 4 + [104] * 2
    blind = torch.tensor(Watch.actions[:64])
    assert blind.std().item() == pytest.approx(3**-0.5, abs=0.15)
    assert run(folder, "", updates=13) == [104] * 2 + [124] * 2


def test_updates_come_one_by_one_otherwise(tmp_path, watched):
    assert run(str(tmp_path / "run"), "dreamer_v2.yaml", updates=4, train_ratio=4) == [21, 26, 31, 36]

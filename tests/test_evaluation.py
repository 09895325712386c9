"""Evaluation, tested with a world whose dreams can be computed by hand: a clock that pays its own time."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from dreamer_lightning.dreamer import Imagined
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.evaluation import pictures
from dreamer_lightning.evaluation.coverage import coverage, inside
from dreamer_lightning.evaluation.evaluator import Evaluator, compare
from dreamer_lightning.evaluation.gap import GapAlarm, choose_starts, dreamed_returns, real_returns
from dreamer_lightning.evaluation.openloop import open_loop
from dreamer_lightning.evaluation.rollout import rollout
from dreamer_lightning.types import Discount, Latent, Space, Specs

HORIZON = 20.0
GAMMA = 1 - 1 / HORIZON
SPECS = Specs({"clock": Space((2,), "float32"), "image": Space((8, 8, 3), "uint8")}, {"action": Space((3,), "float32")})


class Clock(EnvBase):
    """Observes (time, -1) and a grey picture; pays 0.1 * time; ends at ``end``, by terminal state or time limit."""

    def __init__(self, end: int, terminal: bool):
        super().__init__(batch_size=[])
        self.end, self.terminal, self.time = end, terminal, 0
        self.observation_spec = Composite(
            clock=Unbounded((2,)), image=Unbounded((8, 8, 3), dtype=torch.uint8), shape=()
        )
        self.action_spec = Bounded(-1, 1, (3,))
        self.reward_spec = Unbounded((1,))

    def _obs(self):
        return {
            "clock": torch.tensor([float(self.time), -1.0]),
            "image": torch.full((8, 8, 3), self.time, dtype=torch.uint8),
        }

    def _reset(self, tensordict=None, **kwargs):
        self.time = 0
        return TensorDict(self._obs(), [])

    def _step(self, tensordict):
        self.time += 1
        over = torch.tensor([self.time >= self.end])
        flags = {"terminated": over & self.terminal, "truncated": over & (not self.terminal), "done": over}
        return TensorDict({**self._obs(), "reward": torch.tensor([0.1 * self.time]), **flags}, [])

    def _set_seed(self, seed):
        torch.manual_seed(seed)


@dataclass
class Clocks(EnvFactory):
    end: int = 60
    terminal: bool = False
    name: str = "clock"
    repeat: int = 1

    def make(self, seed, pixels_for_video=False):
        return Clock(self.end, self.terminal)


class PerfectDreamer:
    """Knows the clock; ``bias`` is added to each dreamed reward. deter = [time, last action's first entry]."""

    specs = SPECS

    def __init__(self, end: int, terminal: bool, bias: float = 0.0):
        self.end, self.terminal, self.bias = end, terminal, bias
        self.world_model = SimpleNamespace(discount=Discount(HORIZON))

    def initial(self, n):
        return {
            "deter": torch.zeros(n, 2),
            "stoch": torch.zeros(n, 1, dtype=torch.uint8),
            "prev_action": torch.zeros(n, 3),
        }

    def act(self, obs, state, is_first, generator=None, greedy=False):
        n = len(is_first)
        assert (state["deter"][:, 0] + 1 == obs["clock"][:, 0])[~is_first].all(), "the state is one step behind"
        action = torch.zeros(n, 3) if greedy else torch.randn(n, 3, generator=generator)
        deter = torch.stack([obs["clock"][:, 0], torch.where(is_first, 0, state["prev_action"][:, 0])], -1)
        return action, {"deter": deter, "stoch": torch.ones(n, 1, dtype=torch.uint8), "prev_action": action}

    def imagine(self, state, length, actions=None, generator=None, decode=True):
        deter = state.deter if isinstance(state, Latent) else state["deter"]
        n = len(deter)
        time = deter[:, :1] + torch.arange(length + 1)
        deter = torch.stack([time, torch.zeros_like(time)], -1)
        latent = Latent(deter, torch.ones(n, length + 1, 1))
        cont = GAMMA * (1 - ((time >= self.end) & self.terminal).float())
        action = torch.zeros(n, length + 1, 3) if actions is None else torch.cat([actions, actions[:, :1] * 0], 1)
        obs = self.reconstruct(latent) if decode else {}
        return Imagined(latent, action, 0.1 * time + self.bias, cont, time * 0 + 7.0, obs)

    def reconstruct(self, latent):
        time = latent.deter[..., 0]
        image = (time / 255)[..., None, None, None].expand(*time.shape, 8, 8, 3)
        return {"clock": torch.stack([time, time * 0 - 1.0], -1), "image": image}


def play(end, terminal, episodes=3, num_envs=2, **kwargs):
    env = make_batched(Clocks(end, terminal), num_envs, seed=0)
    return rollout(PerfectDreamer(end, terminal), env, episodes, False, torch.Generator().manual_seed(0), **kwargs)


def test_rollout_aligns_time_and_splits_the_episodes_between_environments():
    episodes = play(end=7, terminal=True)
    assert [episode.length for episode in episodes] == [7, 7, 7]
    for episode in episodes:
        np.testing.assert_allclose(episode.obs["clock"][:, 0], np.arange(8))
        np.testing.assert_allclose(episode.reward, 0.1 * np.arange(8), rtol=1e-6)
        np.testing.assert_allclose(episode.latent["deter"][:, 0], np.arange(8))
        np.testing.assert_allclose(episode.latent["deter"][1:, 1], episode.action[:, 0])
        np.testing.assert_allclose(episode.state(3)["prev_action"], episode.action[2])
        np.testing.assert_allclose(episode.state(0)["prev_action"], 0)
        assert episode.score == pytest.approx(2.8)
        assert episode.terminated
        assert episode.obs["image"].dtype == np.uint8


def test_rollout_of_one_unbatched_environment_with_pictures_and_limits():
    env = Clocks(30, False).make(0)
    picture = np.zeros((4, 4, 3), np.uint8)
    episode, second = rollout(PerfectDreamer(30, False), env, 2, True, keep=5, frame=lambda env: picture)
    assert (episode.length, episode.kept, len(episode.frames)) == (30, 5, 30)
    assert not episode.action.any()  # the greedy action of this agent
    assert rollout(PerfectDreamer(30, False), Clocks(30, False).make(0), 1, False)[0].action.any()
    assert not episode.terminated
    assert episode.last["deter"][0] == 30
    assert second.length == 30
    (cut,) = rollout(PerfectDreamer(30, False), Clocks(30, False).make(0), 1, True, max_length=4)
    assert (cut.length, cut.terminated) == (4, False)


def test_returns_by_hand():
    (episode,) = play(end=4, terminal=True, episodes=1, num_envs=1)
    starts = choose_starts([episode], 4)
    assert [start.time for start in starts] == [0, 1, 2, 3]
    expected = 0.1 + GAMMA * 0.2
    assert real_returns(starts, GAMMA, 2)[0] == pytest.approx(expected, rel=1e-6)
    assert real_returns(starts, GAMMA)[2] == pytest.approx(0.3 + GAMMA * 0.4, rel=1e-6)
    reward, survive = np.array([[9.0, 1.0, 2.0, 4.0]]), np.array([[0.1, 0.5, 0.25, 9.0]])
    assert dreamed_returns(reward, survive, 3)[0] == pytest.approx(1 + 0.5 * 2 + 0.125 * 4)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_perfect_model_has_no_gap_and_no_error(terminal):
    episodes = play(end=60, terminal=terminal)
    metrics = compare(PerfectDreamer(60, terminal), episodes, 30, None)
    names = [name for name in metrics if name.startswith("openloop/") or "return" in name and "real" not in name]
    expected = {f"gap/{name}@{k}" for name in ("return", "return_actions") for k in (15, 50)} | {"gap/return"}
    expected |= {f"openloop/{x}_error@{k}" for x in ("clock", "image", "reward", "cont") for k in (1, 5, 15, 50)}
    assert expected == set(names)
    if terminal:  # past the end the world pays nothing, and the dream knows
        assert [name for name in names if abs(metrics[name]) > 1e-4] == []
    starts = choose_starts(episodes, 30)
    tail = np.array([0 if terminal else 7.0 * GAMMA ** (60 - start.time) for start in starts])
    assert metrics["gap/value"] == pytest.approx((7 - real_returns(starts, GAMMA) - tail).mean(), rel=1e-5)


def test_the_band_of_many_futures_by_hand():
    """Of 99 futures 1 to 99, a hundredth of what comes lies between two of them: the band goes from 5 to 95."""
    futures = np.arange(1.0, 100.0)[None, :, None]
    real = np.array([[5.0], [95.0], [50.0], [4.9], [95.1]])
    assert inside(real, futures.repeat(5, 0))[:, 0].tolist() == [True, True, True, False, False]
    draws = np.random.default_rng(0).normal(size=(20_000, 33, 1))
    assert inside(draws[:, 0], draws[:, 1:]).mean() == pytest.approx(0.9, abs=0.01)


class VagueDreamer(PerfectDreamer):
    """Dreams rewards with the right mean, drawn from a normal of some width; its clock is never late."""

    def __init__(self, width: float):
        super().__init__(60, False)
        self.width, self.widest = width, 0

    def imagine(self, state, length, actions=None, generator=None, decode=True):
        imagined = super().imagine(state, length, actions, generator, decode)
        self.widest = max(self.widest, len(imagined.reward))
        noise = self.width * torch.randn(imagined.reward.shape, generator=generator)
        return imagined._replace(reward=imagined.reward + noise)


def test_coverage_says_whether_dreams_are_too_certain():
    episodes = play(end=60, terminal=False)
    starts = choose_starts(episodes, 30)
    perfect = coverage(PerfectDreamer(60, False), starts)
    assert perfect == {f"openloop/coverage@{k}": 1.0 for k in (1, 5, 15, 50)}
    wrong = coverage(PerfectDreamer(60, False, bias=1.0), starts)
    assert set(wrong.values()) == {2 / 3}, "both entries of the clock are right, the reward never is"
    dreamer = VagueDreamer(0.5)
    vague = coverage(dreamer, starts, torch.Generator().manual_seed(0))
    assert dreamer.widest == 16 * 32
    assert min(vague.values()) == 1.0, "the mean is always inside"
    (short,) = play(end=4, terminal=True, episodes=1, num_envs=1)
    assert set(coverage(PerfectDreamer(4, True), choose_starts([short], 4))) == {"openloop/coverage@1"}


def test_short_episodes_skip_what_they_cannot_tell():
    metrics = compare(PerfectDreamer(8, False), play(end=8, terminal=False), 30, None)
    assert "gap/return@15" not in metrics
    assert "openloop/clock_error@5" in metrics
    assert "openloop/clock_error@15" not in metrics
    assert metrics["gap/return"] == pytest.approx(0, abs=1e-5)
    terminated = compare(PerfectDreamer(8, True), play(end=8, terminal=True), 30, None)
    assert terminated["gap/return@50"] == pytest.approx(0, abs=1e-5)


def test_a_biased_dream_raises_one_warning_at_the_third_evaluation(caplog):
    evaluator = Evaluator(Clocks(60, True), episodes=2, starts=8)
    random = torch.get_rng_state()
    results = [evaluator.evaluate(PerfectDreamer(60, True, bias=5.0)) for _ in range(5)]
    assert torch.equal(random, torch.get_rng_state())
    assert [metrics["gap/alarm"] for metrics, _ in results] == [0, 0, 1, 0, 0]
    assert [record.message.split(":")[0] for record in caplog.records] == ["gap/return"]
    assert all(option in caplog.text for option in ("imag_length", "value_aware", "train_ratio"))
    metrics, episodes = results[0]
    assert metrics["eval/greedy_score"] == metrics["eval/sampled_score"] == pytest.approx(183.0)
    assert [episode.greedy for episode in episodes] == [True, True, False, False]
    assert metrics == {**results[1].metrics}


def test_lengths_are_env_steps_and_nothing_else_is_changed_by_the_repeat():
    once, thrice = (
        Evaluator(Clocks(60, True, repeat=repeat), episodes=2, starts=8).evaluate(PerfectDreamer(60, True)).metrics
        for repeat in (1, 3)
    )
    names = ("eval/greedy_length", "eval/sampled_length")
    assert [once[name] for name in names] == [60, 60]
    assert [thrice[name] for name in names] == [180, 180]
    assert once == {**thrice, **{name: once[name] for name in names}}


def test_the_alarm_counts_evaluations_running_and_survives_a_checkpoint():
    bad, good = {"gap/return": 3.0, "gap/real_return": 4.0}, {"gap/return": 1.0, "gap/real_return": 4.0}
    alarm = GapAlarm()
    assert not any(alarm.update(metrics) for metrics in (bad, bad, good, bad, bad))
    resumed = GapAlarm()
    resumed.load_state_dict(alarm.state_dict())
    assert resumed.update(bad)
    assert not any(GapAlarm(3.5).update(bad) for _ in range(3))


def test_open_loop_joins_seen_steps_and_dream_and_goes_on_past_the_end():
    (episode,) = play(end=20, terminal=True, episodes=1, num_envs=1)
    dream = open_loop(PerfectDreamer(20, True), episode, start=3, context=5, length=30, samples=2)
    assert dream.dream["clock"].shape == (2, 35, 2)
    np.testing.assert_allclose(dream.dream["clock"][1, :, 0], np.arange(3, 38))
    np.testing.assert_allclose(dream.truth["clock"][:18, 0], np.arange(3, 21))
    assert np.isnan(dream.truth["clock"][18:]).all()
    np.testing.assert_allclose(dream.truth["cont"][16:18], [1, 0])
    np.testing.assert_allclose(dream.dream["cont"][0, :18], dream.truth["cont"][:18], atol=1e-6)
    np.testing.assert_allclose(dream.dream["image"][0, :18], dream.truth["image"][:18], atol=1e-6)


def test_pictures(tmp_path):
    (episode,) = play(end=20, terminal=True, episodes=1, num_envs=1)
    dream = open_loop(PerfectDreamer(20, True), episode, context=5, length=10, samples=3)
    assert pictures.image_keys(SPECS, dream) == ["image"]
    video = pictures.dream_video([dream], "image", scale=1, named=False)
    assert video.shape == (15, 3 * 12, 3 * 12, 3)
    assert tuple(video[4, 0, 0]) == pictures.GREEN
    assert tuple(video[5, 0, 0]) == pictures.RED
    assert video[7, 2 * 12 + 6, 6].tolist() == [128, 128, 128]  # no error is grey
    path = pictures.write_video(tmp_path / "videos" / "dream.mp4", video)
    assert path.stat().st_size > 500


def test_pictures_say_what_they_show(tmp_path):
    (episode,) = play(end=20, terminal=True, episodes=1, num_envs=1)
    dream = open_loop(PerfectDreamer(20, True), episode, context=5, length=10, samples=3)
    plain, named = (pictures.dream_video([dream], "image", named=named) for named in (False, True))
    left = named.shape[2] - plain.shape[2]
    assert left > 0
    assert np.array_equal(named[:, :, left:], plain)
    for panel in np.split(named[0, :, :left], 3):
        assert (panel < 100).any(), "a name in black"
        assert (panel[:20] > 200).all(), "in the middle of its row"
    (axis,) = pictures.film_strip(dream, "image", count=3).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["truth", "model", "error"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["-4", "3", "10"]
    assert axis.get_xlabel() == "agent steps from now"
    assert axis.images[0].get_array().shape[:2] == (plain.shape[1], plain.shape[2])  # three moments, one future each
    figure = pictures.dream_figure(SPECS, dream)
    labels = [axis.get_xlabel() for axis in figure.axes if axis.get_visible()]
    assert labels == ["", "", *["agent steps from now"] * 3]
    path = pictures.save_figure(tmp_path / "plots" / "dream.png", figure)
    assert path.stat().st_size > 10_000

"""A gymnasium VectorEnv in one process: the same numbers as its rows one by one, in both autoreset modes."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import dreamer_lightning
from dreamer_lightning.data.collect import CollectorPolicy, make_collector
from dreamer_lightning.data.records import to_records
from dreamer_lightning.envs import Custom, Vector, make_batched, specs_of
from dreamer_lightning.envs.batched import batch_of
from dreamer_lightning.envs.vector import writer
from dreamer_lightning.types import LATENT, PREV_ACTION, EnvFailure, Layout, Space, UserError


class Walkers(VectorEnv):
    """Random walks, row ``i`` of episodes of 3 + i % 4 steps; observes a place, a clock and a small picture."""

    def __init__(self, num_envs: int, mode: str = "SameStep", fails: int = 0):
        self.num_envs, self.metadata, self.fails = num_envs, {"autoreset_mode": AutoresetMode(mode)}, fails
        self.single_observation_space = spaces.Dict(
            {
                "place": spaces.Box(-np.inf, np.inf, (2,), np.float64),
                "clock": spaces.Discrete(9, start=-1),
                "eye": spaces.Box(0, 255, (3, 20, 30), np.uint8),
            }
        )
        self.single_action_space = spaces.Box(-2.0, 4.0, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.length = 3 + np.arange(num_envs) % 4
        self.place, self.time = np.zeros((num_envs, 2)), np.zeros(num_envs, np.int64)

    def reset(self, *, seed=None, options=None):
        rows = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        super().reset(seed=seed)
        self.place[rows], self.time[rows] = self.np_random.normal(size=(rows.sum(), 2)), 0
        return self._see(), {}

    def step(self, actions):
        assert self.action_space.contains(actions)
        self.place, self.time = self.place + actions, self.time + 1
        if self.fails and self.time[0] == self.fails:
            raise RuntimeError("the plug was pulled")
        ends, reward, info = self.time == self.length, self.place.sum(-1), {}
        if ends.any() and self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            info["final_obs"] = self._see()
            self.reset(options={"reset_mask": ends})
        odd = np.arange(self.num_envs) % 2 == 1
        return self._see(), reward, ends & odd, ends & ~odd, info

    def _see(self):
        eye = np.broadcast_to(self.time[:, None, None, None], (self.num_envs, 3, 20, 30)).astype(np.uint8)
        return {"place": self.place.copy(), "clock": self.time - 1, "eye": eye}

    def get_state(self):
        return {"place": self.place, "time": self.time, "random": self.np_random.bit_generator.state}

    def set_state(self, state):
        self.place, self.time = state["place"].copy(), state["time"].copy()
        self.np_random.bit_generator.state = state["random"]


class Forgetful(Walkers):
    get_state = set_state = None


def walkers(kind="Walkers", **kwargs) -> Vector:
    return Vector(f"test_envs_vector:{kind}", kwargs)


def play(env, steps: int, seed: int = 0, state=None):
    """What each decision led to, and the state to go on from."""
    state, generator, rows = env.reset() if state is None else state, torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        action = 2 * torch.rand(*env.batch_size, 2, generator=generator) - 1
        stepped, state = env.step_and_maybe_reset(state.set("action", action))
        rows.append(stepped.clone())
    return rows, state


def test_rows_begin_anew_one_by_one_and_both_modes_agree():
    same, disabled = (make_batched(walkers(mode=mode), 5, 3) for mode in ("SameStep", "Disabled"))
    assert specs_of(same).obs["clock"].start == -1
    assert specs_of(same).obs == {
        "clock": Space((), "int32", 9),
        "eye": Space((64, 64, 3), "uint8"),
        "place": Space((2,)),
    }
    for step, (one, other) in enumerate(zip(play(same, 30)[0], play(disabled, 30)[0], strict=True), 1):
        for key in one.keys(True, True):
            assert torch.equal(one[key], other[key]), (step, key)
        length = 3 + torch.arange(5) % 4
        assert torch.equal(one["next", "done"][:, 0], step % length == 0)
        assert torch.equal(one["next", "terminated"][:, 0], (step % length == 0) & (torch.arange(5) % 2 == 1))
        assert torch.equal(one["next", "clock"], torch.where(step % length == 0, length, step % length).int())
        assert torch.equal(one["is_init"][:, 0], (step - 1) % length == 0)
        assert (one["next", "eye"][:, 0, 0, 0] == one["next", "clock"]).all()
        moved = one["next", "place"] - one["place"]
        torch.testing.assert_close(moved, 1 + 3 * one["action"], rtol=0, atol=1e-5)


def test_a_second_reset_begins_other_episodes():
    env, other = make_batched(walkers(), 3, 0), make_batched(walkers(), 3, 0)
    first = env.reset()["place"]
    assert torch.equal(first, other.reset()["place"])
    assert not torch.equal(first, env.reset()["place"])


def test_cartpoles_are_gymnasiums_own():
    env, single = make_batched(Vector("CartPole-v1"), 3, 11), [gymnasium.make("CartPole-v1") for _ in range(3)]
    state, want = env.reset(), [one.reset(seed=11 + i)[0] for i, one in enumerate(single)]
    generator = np.random.default_rng(0)
    for _ in range(60):
        actions = generator.integers(0, 2, 3)
        assert np.array_equal(state["observation"].numpy(), np.stack(want))
        stepped, state = env.step_and_maybe_reset(state.set("action", torch.eye(2)[actions]))
        for i, one in enumerate(single):
            want[i], _, terminated, truncated, _ = one.step(actions[i])
            assert np.array_equal(stepped["next", "observation"][i].numpy(), want[i])
            assert bool(stepped["next", "done"][i]) == (terminated or truncated)
            want[i] = one.reset()[0] if terminated or truncated else want[i]


def test_the_example_of_the_page_begins_ended_rows_anew(tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[1] / "docs" / "running.md").read_text()
    (tmp_path / "my_cartpoles.py").write_text(re.search(r"```python\n# my_cartpoles.py\n(.*?)```", page, re.S)[1])
    monkeypatch.syspath_prepend(tmp_path)
    env = make_batched(Vector("my_cartpoles:CartPoles"), 32, 0)
    state, ends = env.reset(), 0
    for step in range(60):
        stepped, state = env.step_and_maybe_reset(state.set("action", torch.eye(2)[torch.arange(32) % 2]))
        done = stepped["next", "done"][:, 0]
        ends += int(done.sum())
        assert (state["observation"][done].abs() <= 0.05).all()
        assert torch.equal(state["observation"][~done], stepped["next", "observation"][~done])
        assert (stepped["next", "observation"][done][:, [0, 2]].abs() > torch.tensor([2.4, 0.2])).any(-1).all()
        assert step < 7 or ends
    assert ends >= 32 * 4


def test_records_hold_each_last_frame_once():
    primers = {(LATENT, "h"): ((1,), torch.float32), PREV_ACTION: ((2,), torch.float32)}
    env = make_batched(walkers(), 4, 0, primers=primers)
    act = lambda obs, state, first, noise: (torch.zeros(4, 2), {**state, PREV_ACTION: torch.zeros(4, 2)})  # noqa: E731
    collector = make_collector(env, CollectorPolicy(act, specs_of(env)), 12)
    records, _ = to_records(next(iter(collector)))
    collector.shutdown()
    for stream, length in enumerate((3, 4, 5, 6)):
        clocks = records["obs", "clock"][records["stream"] == stream].tolist()
        assert clocks[: 2 * (length + 1)] == 2 * list(range(length + 1))


def test_what_saves_itself_goes_on_and_what_does_not_begins_anew():
    env, other = make_batched(walkers(), 4, 0), make_batched(walkers(), 4, 9)
    _, state = play(env, 5)
    other.reset()
    assert batch_of(other).set_states(batch_of(env).get_states()) == []
    for one, two in zip(play(env, 12, 1, state.clone())[0], play(other, 12, 1, state.clone())[0], strict=True):
        assert torch.equal(one["next", "place"], two["next", "place"])
    forgetful = make_batched(walkers("Forgetful"), 4, 0)
    assert batch_of(forgetful).get_states() == [None] * 4
    assert batch_of(forgetful).set_states([None] * 4) == [0, 1, 2, 3]


def test_actions_of_every_kind_are_spoken_in_batches():
    space = spaces.Dict({"a": spaces.Discrete(3, start=5), "b": spaces.Box(0, 10, (1,), np.float64)})
    layout = Layout({"a": Space((), "int32", 3), "b": Space((1,))})
    said = writer(space, layout)(torch.tensor([[0.0, 0, 1, -1], [1, 0, 0, 0.5]]))
    assert said["a"].tolist() == [7, 5]
    assert said["b"].tolist() == [[0.0], [7.5]]
    assert writer(spaces.Discrete(3, start=-1), layout)(torch.eye(3)).tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: walkers(mode="NextStep"), "autoreset mode AutoresetMode.NEXT_STEP.*SAME_STEP and DISABLED work"),
        (lambda: Vector("CartPole-v1", {"vectorization_mode": "vector_entry_point"}), "NEXT_STEP"),
        (lambda: Vector("CartPole-v1", repeat=2), "env.repeat: envs.Vector does not have it"),
        (lambda: Vector("envs_samples:Sample"), "cannot be made"),
        (lambda: Vector("CardPole-v1"), "cannot be made"),
        (lambda: Custom("test_envs_vector:Walkers", {"num_envs": 2}), "write --env dreamer_lightning.envs.Vector"),
    ],
)
def test_mistakes_get_one_line(make, words):
    with pytest.raises(UserError, match=words):
        make_batched(make(), 2, 0)


def test_an_environment_that_fails_ends_the_run_in_one_line():
    env = make_batched(walkers(fails=2), 3, 0)
    with pytest.raises(EnvFailure, match="batched environment raised RuntimeError: the plug was pulled"):
        play(env, 4)


def test_an_agent_trains_on_them_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = {"class_path": "dreamer_lightning.envs.Vector", "init_args": {"task": "test_envs_vector:Walkers"}}
    options = {"env": env | {"init_args": env["init_args"] | {"hide": ["eye"]}}, "updates": 1, "num_envs": 8}
    options |= {"learning_starts": 1, "batch_size": 1, "batch_length": 4, "wandb": {"mode": "disabled"}, "log_every": 8}
    evaluation = {"every": 32, "episodes": 2, "random_episodes": 1}
    run = dreamer_lightning.fit("gym.yaml", "debug.yaml", run_dir="run", evaluation=evaluation, **options)
    assert min(run.series("episode/length")[1]) == 3
    assert run.series("eval/sampled_score")[1]
    resumed = dreamer_lightning.fit(resume=run, updates=2)
    losses = resumed.series("loss/dyn")[1]
    assert losses
    assert np.isfinite(losses).all()

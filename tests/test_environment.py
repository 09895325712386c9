"""The state of environments: what was saved goes on as if nothing had happened."""

from __future__ import annotations

import io
import os
import signal
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from dreamer_lightning.envs import DMC, Atari, Custom, Gym, make_batched
from dreamer_lightning.envs.base import specs_of, step
from dreamer_lightning.envs.batched import batch_of
from dreamer_lightning.envs.counting import Counting
from dreamer_lightning.store.environment import NoState, packed, unpacked


class Remembers(gymnasium.Env):
    """A user's environment that can tell its state: a random walk, whose length is random too."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.walk = self.np_random.normal(size=2)
        return self.walk.copy(), {}

    def step(self, action):
        self.walk = self.walk + self.np_random.normal(size=2) * action
        return self.walk.copy(), float(self.walk[0]), bool(self.np_random.random() < 0.1), False, {}

    def get_state(self):
        return {"walk": self.walk}

    def set_state(self, state):
        self.walk = state["walk"]


class Forgets(Remembers):
    get_state = None


def play(env, state, steps, generator):
    actions, seen = specs_of(env).actions, []
    for _ in range(steps):
        state, after = step(env, state, actions.random(env.batch_size, generator))
        seen.append(after.clone())
    return state, seen


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


FACTORIES = {
    "walker": DMC("walker_walk", time_limit=30),
    "reacher": DMC("reacher_easy", time_limit=30),  # moves its target in the model
    "finger": DMC("finger_turn_hard", time_limit=30),
    "dog": DMC("dog_fetch", time_limit=30),
    "cartpole": Gym("CartPole-v1", repeat=2),
    "pendulum": Gym("Pendulum-v1", time_limit=23),
    "acrobot": Gym("Acrobot-v1", time_limit=23),
    "mountain": Gym("MountainCarContinuous-v0", time_limit=23),
    "counting": Counting((5, 3), (True, False)),
    "pong": Atari("pong", noops=10, sticky=0.25, time_limit=120),
    "user": Custom("test_environment:Remembers", time_limit=20),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_a_fresh_environment_goes_on_bit_for_bit(name):
    factory = FACTORIES[name]
    env, other = factory.make(3), factory.make(3)
    generator = torch.Generator().manual_seed(0)
    state, _ = play(env, env.reset(), 9, generator)
    saved, noise, root = through_a_file(factory.get_state(env)), generator.get_state(), state.clone()
    _, want = play(env, state, 40, generator)

    play(other, other.reset(), 4, torch.Generator().manual_seed(7))  # it has been elsewhere
    factory.set_state(other, saved)
    _, got = play(other, root, 40, generator.set_state(noise))
    assert any(after["done"] for after in want), "an episode ends on the way"
    for one, two in zip(want, got, strict=True):
        for key in one.keys():  # noqa: SIM118 (a TensorDict iterates over its batch)
            assert torch.equal(one[key], two[key]), key


@pytest.mark.parametrize(("backend", "count"), [("serial", 2), ("process", 1)])
def test_a_batch_goes_on_and_says_who_cannot(backend, count):
    factory = Counting((7, 4))
    env, other = (make_batched(factory, count, 0, backend) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    state, _ = play(env, env.reset(), 5, generator)
    saved, noise, root = through_a_file(batch_of(env).get_states()), generator.get_state(), state.clone()
    _, want = play(env, state, 12, generator)
    other.reset()
    odd = {"state": {"odd": 1}, "seed": saved[0]["seed"], "made": 1}
    assert batch_of(other).set_states([odd, None][:count]) == [0, 1][:count]
    assert batch_of(other).set_states(saved) == []
    _, got = play(other, root, 12, generator.set_state(noise))
    for one, two in zip(want, got, strict=True):
        assert (one["count"] == two["count"]).all()
    env.close()
    other.close()


def test_what_cannot_be_known_is_not_guessed():
    for factory in (
        Custom("test_environment:Forgets"),
        Custom("envs_samples:Lib"),
        Custom("test_environment:wrapped"),
        Gym("FrozenLake-v1"),
    ):
        env = factory.make(0)
        env.reset()
        assert factory.get_state(env) is None


def wrapped():
    return gymnasium.wrappers.NormalizeObservation(Remembers())  # means and variances that nobody gives away


def test_plain_values_come_back_as_they_were():
    value = {
        "a": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "b": [np.float32(0.1), (1, 2.5, None, True, "x")],
        "c": np.zeros((0, 2)),
        1: np.array(3.5),
        "big": 2**100,
        "f": np.float64(0.1),
    }
    back = unpacked(through_a_file(packed(value)))
    assert back["a"].dtype == np.uint32
    assert (back["a"] == value["a"]).all()
    assert back["b"] == value["b"]
    assert type(back["b"][0]) is np.float32
    assert back["c"].shape == (0, 2)
    assert back[1].shape == ()
    assert back["big"] == 2**100
    assert type(back["f"]) is np.float64
    with pytest.raises(NoState):
        packed({"thing": object()})


def test_a_worker_still_answers_after_sigterm():
    """As when a scheduler stops the whole group: the main process saves first."""
    env = make_batched(Counting((7,)), 1, 0, "process")
    try:
        env.reset()
        os.kill(batch_of(env).seats[0].process.pid, signal.SIGTERM)
        time.sleep(0.3)
        assert batch_of(env).get_states()[0] is not None
    finally:
        env.close()

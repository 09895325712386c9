"""``check-env``: what it says of environments that keep the contract, and of each way to break it."""

from __future__ import annotations

import re
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dreamer_lightning import cli
from dreamer_lightning.arguments import with_environment
from dreamer_lightning.envs import Custom, Gym
from dreamer_lightning.envs.contract import examine

LOCK = threading.Lock()


class Walk(gymnasium.Env):
    """A random walk that keeps the contract; ``bad`` names what it breaks."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, bad: str = ""):
        self.bad, self.x, self.t = bad, 0.0, 0

    def reset(self, *, seed=None, options=None):
        if self.bad == "reset" and 0 < self.t < 9:
            raise RuntimeError("still playing")
        super().reset(seed=seed)
        self.x, self.t = 0.0, 0
        return self._see(), {}

    def step(self, action):
        self.t += 1
        if self.bad == "raise" and self.t == 5:
            raise KeyError("arm")
        drift = np.random.default_rng().normal() if self.bad == "seed" else self.np_random.normal()
        self.x += drift + (0.0 if self.bad == "blind" else action)
        return self._see(), 0.0 if self.bad == "reward" else self.x, False, self.t == 9 and self.bad != "endless", {}

    def _see(self):
        x = {"nan": np.nan, "bounds": 200.0}.get(self.bad, self.x) if self.t == 3 else self.x
        return np.array([x, self.t], np.float64 if self.bad == "type" else np.float32)

    def get_state(self):
        return {"x": self.x} if self.bad == "state" else {"x": self.x, "t": self.t}

    def set_state(self, state):
        self.x, self.t = state["x"], state.get("t", 0)


class Plain(Walk):
    """It cannot save its state."""

    get_state = set_state = None


def findings(bad: str, kind: str = "Walk", **options):
    found = examine(Custom(f"test_check_env:{kind}", {"bad": bad} if bad else {}, **options), 40, 0)
    return {(each.check, each.state): f"{each.found} {each.mend}" for each in found}


def test_an_environment_that_keeps_the_contract():
    found = findings("")
    assert not [check for check, state in found if state == "wrong"]
    assert "4 episodes of 9 to 9: 0 terminated, 4 truncated" in found["play", "ok"]
    assert {"rules", "spaces", "play", "rewards", "seed", "resume", "travel"} <= {
        c for c, state in found if state == "ok"
    }
    assert "rgb_array" in found["pictures", "note"]


@pytest.mark.parametrize(
    ("bad", "where", "words"),
    [
        ("raise", ("play", "wrong"), "KeyError: 'arm'"),
        ("nan", ("play", "wrong"), "NaN.* step 3.*--faults.numbers mask"),
        ("seed", ("seed", "wrong"), "differ in observation at decision 1 .*np_random"),
        ("state", ("resume", "wrong"), "goes on differently in observation, 1 decisions"),
        ("bounds", ("spaces", "note"), "observation holds 200, its space goes from -100 to 100 at decision 3"),
        ("type", ("spaces", "note"), "observation is float64, its space float32"),
        ("endless", ("play", "note"), "no episode ended in 40 random decisions env.time_limit"),
        ("reward", ("rewards", "note"), "always 0"),
        ("reset", ("reset", "note"), "refuses a reset within an episode: still playing"),
    ],
)
def test_each_breach_is_named(bad, where, words):
    found = findings(bad)
    assert where in found, found
    assert re.search(words, found[where])


def test_states_wrappers_and_pickling():
    found = findings("", "Plain")
    assert "begins a new episode" in found["resume", "note"]
    hidden = Gym("CartPole-v1", wrappers=[gymnasium.wrappers.Autoreset])
    found = {(each.check, each.state): each.found for each in examine(hidden, 60, 0)}
    assert "Autoreset" in found["reset", "wrong"]
    held = Gym("CartPole-v1", wrappers=[lambda env, lock=LOCK: env])
    assert "worker" in next(
        each.found for each in examine(held, 5, 0) if each.check == "travel" and each.state == "note"
    )


GYM, OWN = "dreamer_lightning.envs.Gym", "dreamer_lightning.envs.Custom"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([("", "dmc.yaml"), ("--env.task", "x")], [("", "dmc.yaml"), ("--env.task", "x")]),
        ([("", "A-v1")], [("--config", "gym.yaml"), ("--env", GYM), ("--env.task", "A-v1")]),
        ([("", "pkg.envs:A-v3")], [("--config", "gym.yaml"), ("--env", GYM), ("--env.task", "pkg.envs:A-v3")]),
        ([("", "small.yaml"), ("", "a:B")], [("--env", OWN), ("--env.path", "a:B"), ("", "small.yaml")]),
    ],
)
def test_what_may_be_named(typed, words):
    assert with_environment(typed) == words


def test_the_command_prints_both_tables_and_its_exit_code(capsys):
    assert cli.main(["check-env", "test_check_env:Walk", "--steps", "30", "--env.repeat", "1"]) == 0
    said = capsys.readouterr().out
    assert "SymlogMLPEncoder" in said
    assert "walk: 0 wrong" in said
    assert cli.main(["check-env", "test_check_env:Walk", "--steps", "30", "--env.kwargs", "{bad: raise}"]) == 1
    capsys.readouterr()
    assert cli.main(["check-env"]) == 2
    assert "check-env needs a config, an id or module:Class" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "word"), [("FourValues", "terminated,"), ("NoSeed", "seed=None")])
def test_what_breaks_the_api_is_told_in_its_row(kind, word, capsys):
    assert cli.main(["check-env", f"envs_samples:{kind}", "--steps", "5"]) == 1
    said = capsys.readouterr().out
    assert "│ wrong │" in said
    assert word in said

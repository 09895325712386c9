"""What an environment says of itself is what the agent sees; what breaks its word is refused by name and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dreamer_lightning.data.arrays import to_action, to_tensors
from dreamer_lightning.envs import Custom, make_batched, specs_of
from dreamer_lightning.envs.batched import batch_of
from dreamer_lightning.envs.guarded import Failures
from dreamer_lightning.types import Space, UserError
from envs_samples import Given


def given(space, *values, action=None, rewards=(1.0,), **options) -> Custom:
    kwargs = {"space": space, "values": values or (space.sample(),), "action": action, "rewards": rewards}
    return Custom("envs_samples:Given", kwargs, **options)


def bytes_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def box(shape, low=0, high=255, dtype=np.uint8) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "options", "name", "seen", "words"),
    [
        (box((12, 64, 64)), {}, "image", Space((64, 64, 12), "uint8"), "channels first"),
        (box((3, 64, 64)), {}, "image", Space((64, 64, 3), "uint8"), "channels first"),
        (box((8, 84, 84)), {}, "image", Space((64, 64, 8), "uint8"), "channels first"),
        (box((64, 64, 64)), {"channels": "first"}, "image", Space((64, 64, 64), "uint8"), "channels first"),
        (box((64, 64, 64)), {}, "image", Space((64, 64, 64), "uint8"), "uint8 (64, 64, 64)"),
        (box((64, 64, 12)), {"channels": "last"}, "image", Space((64, 64, 12), "uint8"), "uint8"),
        (box((7, 7, 3)), {}, "observation", Space((147,)), "from 0 to 255"),
        (box((7, 7, 3)), {"kinds": {"observation": 11}}, "observation", Space((147,), "int32", 11), "uint8"),
        (box((9, 9, 3)), {"kinds": {"image": "image"}}, "image", Space((64, 64, 3), "uint8"), "uint8"),
        (box((64, 64, 3)), {"kinds": {"image": "numbers"}}, "observation", Space((12288,)), "uint8"),
        (box((6, 7), 0, 2), {}, "observation", Space((6, 7), "int32", 3), "from 0 to 2"),
        (box((6, 7), -1, 1, np.int8), {}, "observation", Space((6, 7), "int32", 3), "from -1 to 1"),
        (box((64, 64, 3), 0, 1, np.float32), {}, "image", Space((64, 64, 3), "uint8"), "from 0 to 1"),
        (box((64, 64, 1), 0, 10, np.float32), {}, "image", Space((64, 64, 1), "uint8"), "from 0 to 10"),
        (box((4, 64, 64), 0, 1, np.float32), {}, "image", Space((64, 64, 4), "uint8"), "channels first"),
    ],
)
def test_what_an_array_is_taken_for(space, options, name, seen, words):
    env = given(space, np.zeros(space.shape, space.dtype), **options).make(0)
    assert specs_of(env).obs == {name: seen}
    assert words in specs_of(env).obs[name].source
    assert env.reset()[name].shape == seen.shape


def test_channels_first_are_moved_and_never_resized_across():
    image = bytes_of(4, 64, 64)
    seen = given(box((4, 64, 64)), image).make(0).reset()["image"].numpy()
    assert np.array_equal(seen, image.transpose(1, 2, 0))


def test_float_pictures_are_scaled_from_their_bounds():
    image = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64, 1)
    seen = given(box((64, 64, 1), -1, 1, np.float32), image).make(0).reset()["image"].numpy()
    assert (seen.flat[0], seen.flat[-1]) == (0, 255)
    np.testing.assert_allclose(seen / 127.5 - 1, image, atol=1 / 255 + 1e-6)


def test_a_table_is_its_codes():
    board = np.arange(42).reshape(6, 7) % 3 - 1
    env = given(box((6, 7), -1, 1, np.int8), board.astype(np.int8)).make(0)
    assert np.array_equal(env.reset()["observation"].numpy(), board + 1)


@pytest.mark.parametrize(
    ("space", "bad", "words"),
    [
        (spaces.Discrete(4), 4, "holds 4 at step 2; observation_space says Discrete"),
        (spaces.Discrete(4, start=10), 3, "holds 3 at step 2"),
        (spaces.MultiDiscrete([3, 4]), np.array([3, 0]), "holds 3 at step 2"),
        (box((6, 7), 0, 2), np.full((6, 7), 3, np.uint8), "holds 3 at step 2"),
        (box((64, 64, 3)), np.full((64, 64, 3), 0.5, np.float32), "holds fractions .float32. at step 2"),
        (box((64, 64, 3), 0, 1, np.float32), np.full((64, 64, 3), 200, np.float32), "holds 200.0 at step 2"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}, "at step 2 the observations are b"),
    ],
)
def test_what_leaves_its_space_is_refused_with_environment_key_and_step(space, bad, words):
    good = space.sample()
    env = make_batched(given(space, good, good, bad), 2, 0)
    with pytest.raises(UserError, match=f"environment 0: env: .*{words}"):
        env.rollout(5)


def test_tuples_may_be_lists():
    space = spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)))
    env = given(space, [2, np.ones(2, np.float32)]).make(0)
    assert specs_of(env).obs == {"0": Space((), "int32", 3), "1": Space((2,))}
    assert int(env.reset()["0"]) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_actions_stay_in_their_bounds(dtype):
    bounds = np.array([-3.3, -0.7, 0.1], dtype), np.array([1.7, 3.1, 0.3], dtype)
    env = given(spaces.Discrete(2), 0, action=spaces.Box(*bounds, dtype=dtype)).make(0)
    state = env.reset()
    for value in (-1.0, 1.0, 5.0, *np.linspace(-1, 1, 50)):  # the environment asserts that its space holds them
        state = env.step(state.set("action", torch.full((3,), float(value))))["next"]
    taken = env.base_env._env.unwrapped.taken
    np.testing.assert_allclose(taken[0], bounds[0], rtol=1e-15)
    np.testing.assert_allclose(taken[1], bounds[1], rtol=1e-15)


@pytest.mark.parametrize(
    ("low", "high", "chosen", "got"), [(0, 5, [1.0] + [0.0] * 11, 0), (-500, 500, [0.5013, -1.0], 251)]
)
def test_whole_numbers_are_chosen_or_rounded(low, high, chosen, got):
    env = given(spaces.Discrete(2), 0, action=spaces.Box(low, high, (2,), np.int32)).make(0)
    action = torch.tensor(chosen)
    if high == 5:
        assert specs_of(env).action == {f"action_0{i}": Space((), "int32", 6) for i in range(2)}
        action[6] = 1.0
    env.step(env.reset().set("action", action))
    assert env.base_env._env.unwrapped.taken[0][0] == got


def test_the_agent_speaks_the_numbers_of_the_environment():
    space = spaces.Dict({"a": spaces.Discrete(5, start=10), "b": spaces.MultiDiscrete([3, 4], start=[5, 7])})
    env = given(space, action=spaces.Discrete(3, start=-1)).make(0)
    specs = specs_of(env)
    obs = {"a": np.array(14), "b": np.array([7, 7])}
    tensors, single = to_tensors(specs, obs, 1, torch.device("cpu"))
    assert single
    assert int(tensors["a"]) == 4
    assert tensors["b"].tolist() == [[2, 0]]
    assert to_action(specs, torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [-1]
    with pytest.raises(UserError, match="obs: a holds 3"):
        to_tensors(specs, {**obs, "a": np.array(3)}, 1, torch.device("cpu"))


def test_rewards_are_one_number():
    env = given(spaces.Discrete(2), 0, rewards=(np.array([0.5]), np.float32(2), np.array([1.0, 2.0]))).make(0)
    with pytest.raises(UserError, match="the reward at step 3 is array"):
        env.rollout(3)
    env = given(spaces.Discrete(2), 0, rewards=(np.array([0.5]), np.float32(2))).make(0)
    assert env.rollout(2)["next", "reward"].flatten().tolist() == [0.5, 2.0]


def test_a_misspelt_log_entry_is_named_after_the_first_episode():
    failures = Failures()
    env = make_batched(given(spaces.Discrete(2), 0, log_info=["speed", "sped"]), 1, 0, failures=failures)
    env.rollout(9, break_when_any_done=False)
    told = failures.read()
    failures.close()
    assert [event["kind"] for event in told] == ["note"]
    assert "no entry 'sped' in its first episode" in told[0]["what"]
    assert "did you mean speed?" in told[0]["what"]


class Numbered(Given):
    num_envs = 1

    def __init__(self):
        super().__init__(spaces.Discrete(2), (0,))


def test_an_attribute_num_envs_makes_no_batch():
    env = Custom("test_envs_strict:Numbered").make(0)
    assert env.batch_size == ()
    assert env.rollout(2)["next", "observation"].shape == (2,)


def test_torchrl_environments_that_keep_nothing_themselves():
    env = make_batched(Custom("torchrl.envs:PendulumEnv"), 2, 0)
    assert {"th", "thdot"} <= specs_of(env).obs.keys()
    before = env.reset()
    after = env.rollout(3, auto_reset=False, tensordict=before.clone())["next"]
    assert (after["th"][:, 0] != before["th"]).all()
    assert after["reward"].shape == (2, 3, 1)


class Leaves(Given):
    """Calls ``sys.exit`` in its third step."""

    def step(self, action):
        if self.time == 2:
            raise SystemExit(0)
        return super().step(action)


def test_an_environment_that_exits_has_failed():
    failures = Failures(limit=9)
    factory = Custom("test_envs_strict:Leaves", {"space": spaces.Discrete(2), "values": (0,)})
    env = make_batched(factory, 1, 0, failures=failures)
    wire = env.rollout(6, break_when_any_done=False)
    told = failures.read()
    failures.close()
    assert wire["next", "truncated"].flatten().tolist() == [False, False, True] * 2
    assert "tried to end the process: SystemExit" in told[0]["what"]


class Refuses(Given):
    """Wants an episode to be played to its end."""

    playing = False

    def reset(self, **options):
        if self.playing:
            raise RuntimeError("finish the episode first")
        self.playing = True
        return super().reset(**options)

    def step(self, action):
        after = super().step(action)
        self.playing = not after[2]
        return after


def test_an_episode_that_has_just_begun_is_begun_again_without_the_environment():
    kwargs = {"space": spaces.Discrete(9), "values": range(9)}
    env = Custom("test_envs_strict:Refuses", kwargs).make(0)  # which resets it for its seed
    assert [int(env.reset()["observation"]) for _ in range(2)] == [0, 0]
    assert env.rollout(9, break_when_any_done=False)["next", "observation"].tolist() == [1, 2, 3, 4] * 2 + [1]
    with pytest.raises(RuntimeError, match="finish the episode first"):
        env.reset()


class Counted(Given):
    made = 0

    def __init__(self):
        super().__init__(spaces.Discrete(2), (0,))
        Counted.made += 1


def test_each_environment_is_made_once():
    Counted.made = 0
    env = make_batched(Custom("test_envs_strict:Counted"), 3, 0)
    assert Counted.made == len(batch_of(env).seats) == 3


class Clings(Given):
    def close(self):
        raise AttributeError("already gone")


def test_an_environment_that_cannot_be_closed_costs_nothing():
    kwargs = {"space": spaces.Discrete(2), "values": (0,)}
    make_batched(Custom("test_envs_strict:Clings", kwargs), 2, 0).close()

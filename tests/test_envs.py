"""Every kind of environment ends on the same wire: names, types, scales, ends of episodes, seeds."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image
from torchrl.data import Composite, Unbounded
from torchrl.envs.utils import check_env_specs

import dreamer_lightning
from dreamer_lightning.commands.build import probe
from dreamer_lightning.envs import DMC, Atari, Custom, Gym, make_batched, random_score, specs_of, step
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.counting import Counting
from dreamer_lightning.envs.pictures import resize
from dreamer_lightning.types import Space, UserError
from envs_samples import Sample


def sample(observation="vector", action="box", **options) -> Custom:
    kwargs = {"observation": observation, "action": action, **options.pop("kwargs", {})}
    return Custom("envs_samples:Sample", kwargs, **options)


def play(env, actions) -> list:
    """What each action led to, from a reset on."""
    state, out = env.reset(), []
    for action in actions:
        state, after = step(env, state, action)
        out.append(after)
    return out


def uniform(env, count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [specs_of(env).actions.random(env.batch_size, generator) for _ in range(count)]


vector, image = Space((3,)), Space((64, 64, 3), "uint8")
KINDS = [
    pytest.param(sample("vector"), {"observation": vector}, id="vector"),
    pytest.param(sample("scalar"), {"observation": Space((1,))}, id="scalar"),
    pytest.param(sample("image"), {"image": image}, id="image"),
    pytest.param(sample("image", image_size=0), {"image": Space((32, 48, 3), "uint8")}, id="image as it is"),
    pytest.param(sample("gray", image_size=16), {"image": Space((16, 16, 1), "uint8")}, id="gray"),
    pytest.param(sample("bytes"), {"observation": Space((128,))}, id="bytes"),
    pytest.param(sample("stacked", image_size=16), {"image": Space((16, 16, 6), "uint8")}, id="stacked"),
    pytest.param(sample("discrete"), {"observation": Space((), "int32", 5)}, id="discrete"),
    pytest.param(sample("multi"), {"observation": Space((2,), "int32", 4)}, id="multi"),
    pytest.param(sample("dict"), {"state": Space((2,)), "in/a": Space((), "int32", 3)}, id="dict"),
    pytest.param(sample("tuple"), {"0": Space((2,)), "1": Space((), "int32", 3)}, id="tuple"),
    pytest.param(sample("vector", pixels=True), {"observation": vector, "image": image}, id="vector and rendered"),
    pytest.param(sample("vector", pixels=True, vectors=False), {"image": image}, id="rendered"),
    pytest.param(Custom("envs_samples:Lib"), {"robot/time": Space((1,)), "start": Space((1,))}, id="torchrl"),
    pytest.param(Gym("CartPole-v1"), {"observation": Space((4,))}, id="CartPole"),
    pytest.param(Gym("Pendulum-v1"), {"observation": vector}, id="Pendulum"),
    pytest.param(DMC("cartpole_swingup"), {"position": vector, "velocity": Space((2,))}, id="dmc cartpole"),
    pytest.param(
        DMC("walker_walk"),
        {"orientations": Space((14,)), "height": Space((1,)), "velocity": Space((9,))},
        id="dmc walker",
    ),
    pytest.param(
        DMC("reacher_easy"),
        {"position": Space((2,)), "to_target": Space((2,)), "velocity": Space((2,))},
        id="dmc reacher",
    ),
    pytest.param(Atari("pong"), {"image": image}, id="atari"),
    pytest.param(
        Atari("james_bond", gray=True, image_size=96, actions="all", sticky=0.25),
        {"image": Space((96, 96, 1), "uint8")},
        id="atari gray",
    ),
]


@pytest.mark.parametrize(("factory", "obs"), KINDS)
def test_what_arrives_is_what_the_specs_say(factory, obs):
    env = factory.make(3)
    assert specs_of(env).obs == obs
    check_env_specs(env, return_contiguous=True)
    batched = make_batched(factory, 2, 3)
    assert specs_of(batched) == specs_of(env)
    for after in play(batched, uniform(batched, 3)):
        for name, space in obs.items():
            assert after[name].shape == (2, *space.shape)
            assert after[name].dtype == getattr(torch, space.dtype)
        assert after["reward"].dtype == torch.float32
        assert all(after[key].shape == (2, 1) for key in ("reward", "done", "terminated", "truncated"))


@pytest.mark.parametrize(("factory", "obs"), KINDS)
def test_a_seed_is_a_trajectory(factory, obs):
    first, second = factory.make(1), factory.make(1)
    actions = uniform(first, 4)
    for a, b in zip(play(first, actions), play(second, actions), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("factory", [sample(), Custom("envs_samples:Lib"), Gym("CartPole-v1"), DMC("walker_walk")])
def test_seeds_and_neighbours_differ(factory):
    name = {"walker_walk": "orientations", "lib": "start"}.get(factory.name, "observation")
    assert (factory.make(1).reset()[name] != factory.make(2).reset()[name]).any()
    both = make_batched(factory, 2, 0).reset()[name]
    assert (both[0] != both[1]).any()


@pytest.mark.parametrize(
    ("action", "flat", "given"),
    [
        ("box", [0.5, -1.0, 0.25], [1.0, 0.0, 0.25]),
        ("box", [9.0, 3.0, -7.0], [2.0, 10.0, -1.0]),
        ("discrete", [0.0, 0.0, 1.0, 0.0], 1),
        ("multi", [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], [1, 3]),
        ("same", [0.0, 1.0, 0.0, 0.0, 0.0, 1.0], [1, 2]),
        ("binary", [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [0, 1, 0]),
        ("half", [-1.0, 1.0], [10.0, -5.0]),
        ("half", [0.5, -3.0], [11.5, -7.0]),
        ("one", [0.0, 0.0, 1.0], [7]),
        ("bit", [0.0, 1.0], [1]),
    ],
)
def test_actions_are_scaled_clipped_and_chosen(action, flat, given):
    env = sample(action=action).make(0)
    play(env, [torch.tensor(flat)])
    inner = env.base_env._env.unwrapped
    np.testing.assert_allclose(inner.actions[-1], given)
    assert inner.actions[-1] in inner.action_space
    assert specs_of(env).action_dim == len(flat)


def test_the_wire_keeps_the_action_of_the_policy():
    env = make_batched(sample(), 2, 0)
    state = env.reset().set("action", torch.full((2, 3), 5.0))
    assert (env.step(state)["action"] == 5.0).all()


def test_action_spaces():
    two = {"action_00": Space((), "int32", 3), "action_01": Space((), "int32", 4)}
    assert specs_of(sample(action="multi").make(0)).action == two
    assert specs_of(sample(action="discrete").make(0)).action == {"action": Space((), "int32", 4)}
    assert specs_of(sample().make(0)).action == {"action": Space((3,))}
    assert specs_of(sample(action="one").make(0)).action == {"action": Space((), "int32", 3)}


def test_the_flat_vector_of_many_actions_is_in_their_own_order():
    env = sample(action="many").make(0)
    actions, sizes = specs_of(env).action, [2 + i % 7 for i in range(120)]
    assert [actions[name].classes for name in sorted(actions)] == sizes
    play(env, [torch.cat([torch.eye(size)[-1] for size in sizes])])
    assert [n + 1 for n in env.base_env._env.unwrapped.actions[-1]] == sizes


@pytest.mark.parametrize("path", ["envs_samples:Sample", "envs_samples:Lib"])
def test_a_repeat_sums_rewards_and_stops_at_the_end(path):
    factory = Custom(path, {"end": 5}, repeat=2)
    env = factory.make(0)
    action = torch.full((specs_of(env).action_dim,), 1.0)
    after = play(env, [action] * 3)
    once = 1.5 if path.endswith("Sample") else 6.0
    assert [float(x["reward"]) for x in after] == [2 * once, 2 * once, once]
    assert [bool(x["done"]) for x in after] == [False, False, True]


ENDS = [
    (sample(kwargs={"end": 4}), 4, "terminated"),
    (sample(time_limit=4), 4, "truncated"),
    (sample(time_limit=4, repeat=2), 2, "truncated"),
    (sample(kwargs={"end": 4}, time_limit=4), 4, "both"),
    (Custom("envs_samples:Lib", {"end": 4}), 4, "terminated"),
    (Custom("envs_samples:Lib", time_limit=4), 4, "truncated"),
    (Gym("Pendulum-v1", time_limit=5, repeat=2), 3, "truncated"),
    (DMC("reacher_easy", time_limit=6), 3, "truncated"),
    (DMC("reacher_easy", time_limit=7, repeat=3), 3, "truncated"),
    (Atari("pong", time_limit=10), 3, "truncated"),
]


@pytest.mark.parametrize(("factory", "length", "end"), ENDS)
def test_how_an_episode_ended_is_kept(factory, length, end):
    env = factory.make(0)
    after = play(env, uniform(env, length + 1))
    assert [bool(x["done"]) for x in after] == [False] * (length - 1) + [True, False]
    assert bool(after[-2]["terminated"]) == (end in ("terminated", "both"))
    assert bool(after[-2]["truncated"]) == (end in ("truncated", "both"))


def test_dm_control_ends_itself_after_a_thousand_frames():
    env = DMC("cartpole_balance", repeat=20).make(0)
    after = play(env, [torch.zeros(1)] * 50)
    assert [bool(x["truncated"]) for x in after] == [False] * 49 + [True]
    assert float(after[0]["reward"]) > 15  # twenty rewards of at most one


def test_hidden_observations_and_log_entries_are_no_specs():
    env = sample("dict", hide=["sta.*"], log_info=["speed", "parts/left", "never"]).make(0)
    assert list(specs_of(env).obs) == ["in/a"]
    [after, _] = play(env, uniform(env, 2))
    assert "state" not in set(after.keys())
    logged = {name: float(after[name]) for name in ("log/speed", "log/parts/left", "log/never")}
    assert logged == {"log/speed": 1.0, "log/parts/left": 2.0, "log/never": 0.0}
    assert after["log/x"].shape == (1,)


def test_what_log_info_makes_of_entries():
    entries = {"parts/left": 2.0, "parts/right": 7.0, "parts/up/down": 5.0, "none": 0.0, "empty": 0.0}
    entries |= {"nan": float("nan"), "huge": float("inf")}
    env = make_batched(sample(log_info=list(entries)), 1, 0)
    after = play(env, uniform(env, 1))[0]
    np.testing.assert_equal({name: float(after[f"log/{name}"]) for name in entries}, entries)  # NaN is NaN here


class Noting(Counting):
    """Makes environments without our transform, which observe a ``log/x`` that is NaN."""

    def make(self, seed, pixels_for_video=False):
        env = super().make(seed)
        observe = env._observe
        env.__dict__["_observe"] = lambda echo: {**observe(echo), "log/x": torch.full((1,), torch.nan)}
        env.observation_spec = Composite({**env.observation_spec, "log/x": Unbounded((1,))})
        return env


def test_what_is_only_logged_may_be_nan_without_our_transform_too():
    env = make_batched(Noting(), 1, 0)
    assert play(env, uniform(env, 2))[1]["log/x"].isnan().all()


def test_a_plain_string_is_one_name():
    env = sample("dict", hide="state", log_info="speed").make(0)
    assert set(env.observation_spec.keys()) == {"in/a", "log/x", "log/speed"}
    assert Gym(hide="vel").hide == DMC(hide="vel").hide == Atari(hide="vel").hide == ["vel"]
    assert Gym(log_info="speed").log_info == Atari(log_info="speed").log_info == ["speed"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_pictures_of_any_number_of_channels_are_resized(channels):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
    image[..., -1] //= 128  # would be nearly transparent
    planes = [Image.fromarray(image[..., i]).resize((16, 16), Image.Resampling.BILINEAR) for i in range(channels)]
    assert np.array_equal(resize(image, 16), np.stack(planes, -1))
    assert np.array_equal(resize(image, 0), image)


def test_what_the_policy_carries_is_kept_in_time_and_zero_after_a_reset():
    primers = {
        ("latent", "deter"): ((4,), torch.float32),
        ("latent", "stoch"): ((2,), torch.uint8),
        "prev_action": ((3,), torch.float32),
    }
    env = make_batched(sample(kwargs={"end": 3}), 2, 0, primers=primers)
    assert list(specs_of(env).obs) == ["observation"]
    state = env.reset()
    for time in range(1, 6):
        assert state["is_init"].all() == (time in (1, 4))
        for key, (shape, dtype) in primers.items():
            kept = 0 if time in (1, 4) else time - 1
            assert (state[key] == kept).all()
            state["next", *((key,) if isinstance(key, str) else key)] = torch.full((2, *shape), time, dtype=dtype)
        stepped, state = env.step_and_maybe_reset(state.set("action", torch.zeros(2, 3)))
        assert (stepped["next", "latent", "deter"] == time).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DMC("walker_wlak").make(0), ["env.task", "walker_wlak", "walker_walk"]),
        (lambda: Gym("CartPol-v1").make(0), ["env.task", "CartPol-v1", "CartPole-v1"]),
        (lambda: Gym("no_such:CartPole-v1").make(0), ["env.task", "cannot import no_such", "No module named"]),
        (lambda: Gym("envs_samples:Registered-v7").make(0), ["env.task", "Registered-v7", "Registered-v0"]),
        (lambda: Gym("Pendulum-v1", kwargs={"gravity": 1}).make(0), ["env.kwargs", "gravity"]),
        (lambda: Atari("pongg").make(0), ["env.task", "pongg", "did you mean pong?"]),
        (lambda: Atari(actions="some"), ["env.actions", "needed"]),
        (lambda: DMC(vectors=False), ["pixels and vectors"]),
        (lambda: DMC(hide=[".*"]).make(0), ["no observation is left", "hide"]),
        (lambda: Custom("envs_samples").make(0), ["env.path", "module:Class"]),
        (lambda: Custom("envs_sample:Sample").make(0), ["env.path", "envs_sample.py"]),
        (lambda: Custom("envs_samples:Sampel").make(0), ["env.path", "did you mean Sample?"]),
        (lambda: Custom("envs_samples:ACTIONS").make(0), ["env.path", "envs_samples:ACTIONS"]),
        (lambda: sample(kwargs={"speed": 1}).make(0), ["env.kwargs", "speed"]),
        (lambda: sample("taken").make(0), ["prev_action", "rename it", "env.hide"]),
        (lambda: sample("init").make(0), ["is_init", "rename it", "env.hide"]),
        (lambda: sample("own", pixels=True).make(0), ["pixels", "image of its own", "env.hide"]),
        (lambda: sample("private").make(0), ["_x", "rename it", "env.hide"]),
        (lambda: sample("text").make(0), ["observation", "Text", "env.hide"]),
        (lambda: sample("odd", hide=["list", "in/0"]).make(0), ["observation", "Graph", "env.hide"]),
        (lambda: sample("text", hide=["observation"]).make(0), ["no observation is left", "hide"]),
        (lambda: Gym(hide=["["]), ["env.hide", "'['", "regular expression"]),
        (lambda: sample(hide=["*x"]), ["env.hide", "'*x'", "regular expression"]),
        (lambda: DMC(hide="["), ["env.hide", "'['", "regular expression"]),
        (lambda: Atari(hide="["), ["env.hide", "'['", "regular expression"]),
        (lambda: Gym(repeat=0), ["env.repeat", "0", "at least 1"]),
        (lambda: sample(repeat=-1), ["env.repeat", "-1", "at least 1"]),
        (lambda: DMC(repeat=0), ["env.repeat", "0", "at least 1"]),
        (lambda: Atari(repeat=0), ["env.repeat", "0", "at least 1"]),
        (lambda: Gym(time_limit=0), ["env.time_limit", "0", "at least 1"]),
        (lambda: sample(time_limit=-1), ["env.time_limit", "-1", "at least 1"]),
        (lambda: DMC(time_limit=0), ["env.time_limit", "0", "at least 1"]),
        (lambda: Atari(time_limit=0), ["env.time_limit", "0", "at least 1"]),
        (lambda: Gym(image_size=-1), ["env.image_size", "-1", "at least 0"]),
        (lambda: sample(image_size=-1), ["env.image_size", "-1", "at least 0"]),
        (lambda: DMC(image_size=0), ["env.image_size", "0", "at least 1"]),
        (lambda: Atari(image_size=0), ["env.image_size", "0", "at least 1"]),
        (lambda: Atari(noops=-1), ["env.noops", "-1", "at least 0"]),
        (lambda: Atari(sticky=2.0), ["env.sticky", "2.0", "0 to 1"]),
        (lambda: Atari(sticky=-0.1), ["env.sticky", "-0.1", "0 to 1"]),
        (lambda: DMC(camera=2).make(0), ["env.camera", "walker_walk has 2 cameras", "not 2"]),
        (lambda: DMC(camera=-2).make(0), ["env.camera", "walker_walk has 2 cameras", "not -2"]),
        (lambda: sample(log_info=["why"]).make(0).rollout(9), ["env.log_info", "'why'", "a str", "step 1"]),
        (lambda: sample(log_info=["parts"]).make(0).rollout(9), ["env.log_info", "'parts'", "a dict", "a number"]),
        (lambda: Custom("envs_samples:NoSeed").make(0), ["NoSeed.reset()", "'seed'", "reset(self, *, seed=None"]),
        (lambda: Custom("envs_samples:NoInfo").make(0), ["reset returns no pair", "(observation, info)"]),
        (lambda: Custom("envs_samples:FourValues").make(0).rollout(9), ["five values", "truncated, info)"]),
        (lambda: Custom("envs_samples:FourValues", time_limit=5).make(0).rollout(9), ["five values", "step(self"]),
        (lambda: Custom("envs_samples.py:Sample").make(0), ["env.path", "did you mean envs_samples:Sample?"]),
        (lambda: Custom("envs_samples:OldApi").make(0), ["makes a OldApi", "shimmy.GymV21CompatibilityV0"]),
        (lambda: Custom("envs_samples:Team").make(0), ["several rewards", "one agent"]),
        (lambda: make_batched(sample(kwargs={"bad": "nan"}), 1, 0).rollout(9), ["observation is NaN", "step 3"]),
        (lambda: make_batched(sample(kwargs={"bad": "reward"}), 1, 0).rollout(9), ["reward is NaN", "step 3"]),
        (lambda: make_batched(sample(kwargs={"bad": "shape"}), 1, 0).rollout(9), ["(4,)", "step 3", "(3,)"]),
        (lambda: make_batched(sample(kwargs={"bad": "kind"}), 1, 0).rollout(9), ["are a;", "step 3", "observation"]),
    ],
)
def test_mistakes_get_one_line(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_gymnasium_id_with_its_module():
    env = Gym("envs_samples:Registered-v0").make(0)
    assert env.rollout(2)["next", "observation"].shape == (2, 3)
    assert Gym("envs_samples:Registered-v0").name == "Registered-v0"


@pytest.mark.parametrize("observation", ["text", "lone", "odd", "own"])
@pytest.mark.parametrize("options", [{"hide": [".*"]}, {"vectors": False}])
def test_a_hidden_observation_may_be_of_any_kind(observation, options):
    env = sample(observation, pixels=True, **options).make(0)
    assert list(env.observation_spec.keys()) == ["image"]
    assert env.rollout(2)["next", "image"].shape == (2, 64, 64, 3)


def test_observations_beside_hidden_ones_of_other_kinds():
    env = make_batched(sample("odd", hide=["observation", "list", "in/0"]), 1, 0)
    assert list(specs_of(env).obs) == ["in/1", "state"]
    assert env.rollout(5)["next", "state"].shape == (1, 5, 2)


def test_atari_without_ale_py_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(UserError, match=r"pip install 'dreamer-lightning\[atari\]'"):
        Atari("pong").make(0)


def test_atari_shows_the_maximum_of_two_frames_and_idles_first():
    env = Atari("breakout", log_info=["frame_number", "lives"]).make(0)
    after = play(env, [torch.eye(4)[1]] * 2)
    assert [float(x["log/frame_number"]) for x in after] == [4.0, 8.0]
    assert float(after[0]["log/lives"]) == 5.0
    console = env.base_env._env.unwrapped
    assert np.array_equal(console.frames[1], console.ale.getScreenRGB())
    idle = set()
    for _ in range(4):
        env.reset()
        idle.add(console.ale.getEpisodeFrameNumber())
    assert len(idle) > 1
    assert max(idle) <= 30


class Blind(Sample):
    """Takes no ``render_mode``."""

    def __init__(self):
        super().__init__()


def test_an_environment_that_cannot_be_drawn_plays_all_the_same(request):
    gymnasium.register("Blind-v0", Blind)
    request.addfinalizer(lambda: gymnasium.registry.pop("Blind-v0"))
    factory = Gym("Blind-v0")
    env = factory.make(0, pixels_for_video=True)
    assert factory.frame(env) is None
    with pytest.raises(UserError, match=r"env.kwargs: Blind-v0 does not take .*render_mode"):
        Gym("Blind-v0", pixels=True).make(0)


class Unmade(Sample):
    def __init__(self, kind=TypeError):
        raise kind("words of its own")


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_what_an_environment_raises_when_it_is_made_are_its_own_words(request, kind):
    gymnasium.register("Unmade-v0", Unmade)
    request.addfinalizer(lambda: gymnasium.registry.pop("Unmade-v0"))
    with pytest.raises(kind, match="^words of its own$"):
        Custom("test_envs:Unmade", {"kind": kind}).make(0)
    with pytest.raises(UserError, match=f"Unmade-v0 cannot be made: {kind.__name__}: words of its own"):
        Gym("Unmade-v0", {"kind": kind}).make(0)


def test_a_picture_that_needs_a_missing_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    factory = Gym("CartPole-v1")
    env = factory.make(0, pixels_for_video=True)
    env.reset()
    assert factory.frame(env) is None
    assert "pygame is not installed" in factory.no_picture


def test_random_score():
    assert random_score(sample(kwargs={"end": 6}, repeat=2), 0, episodes=2) == (9.0, 3.0)
    assert random_score(sample(), 0, max_steps=5) == (7.5, 5.0)  # an endless task
    assert random_score(DMC("walker_walk", repeat=10), 0, 1) == random_score(DMC("walker_walk", repeat=10), 0, 1)


def test_gymnasium_frames():
    factory = sample()
    env = make_batched(factory, 2, 0, pixels_for_video=True)
    env.reset()
    assert factory.frame(env).shape == (30, 40, 3)
    assert factory.frame(factory.make(0)) is None  # not asked for pictures
    assert isinstance(factory.make(0).base_env._env, gymnasium.Env)


def test_worker_processes(tmp_path, monkeypatch):
    module = "import envs_samples\n\n\nclass Mine(envs_samples.Sample):\n    pass\n"
    (tmp_path / "beside_the_config.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    threads = torch.get_num_threads()
    factory = Custom("beside_the_config:Mine", {"bad": "nan"})
    workers, here = (make_batched(factory, 2, 5, backend) for backend in ("process", "serial"))
    assert workers.batch_size == here.batch_size
    actions = uniform(here, 2)
    for a, b in zip(play(workers, actions), play(here, actions), strict=True):
        assert (a == b).all()
    assert torch.get_num_threads() == threads
    with pytest.raises(UserError, match="observation is NaN or infinite at step 3"):
        play(workers, uniform(here, 4))


class Bare(EnvFactory):
    """A user's own factory that makes what gymnasium makes."""

    def make(self, seed, pixels_for_video=False):
        return gymnasium.make("CartPole-v1")


def test_an_own_factory_has_a_name_and_makes_what_torchrl_wraps():
    assert Bare().name == "Bare"
    with pytest.raises(UserError, match=r"env: Bare.make returns a TimeLimit, no TorchRL EnvBase; .*Custom wires"):
        probe(Bare(), 0)


def test_the_environment_of_a_config_is_a_gymnasium_env():
    env = dreamer_lightning.gym_env("gym.yaml", env={"task": "Pendulum-v1", "repeat": 2}, seed=3)
    before, _ = env.reset()
    assert env.observation_space.contains(before)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    after, reward, terminated, truncated, _ = env.step(np.array([0.5], np.float32))
    plain = gymnasium.make("Pendulum-v1").unwrapped
    plain.reset()
    plain.state = np.array([np.arctan2(before[1], before[0]), before[2]])
    steps = [plain.step(np.array([1.0], np.float32)) for _ in range(2)]  # half of the torque, twice
    np.testing.assert_allclose(after, steps[1][0], atol=1e-5)
    assert reward == pytest.approx(steps[0][1] + steps[1][1], abs=1e-4)
    assert [terminated, truncated] == [False, False]
    env.close()

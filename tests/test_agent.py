"""The Python door: numpy in, numpy out."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch

from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.agent import Agent
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.envs import Custom, specs_of
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.planning import CEM
from dreamer_lightning.types import Space, Specs, UserError
from dreamer_lightning.world_model import WorldModel

VECTORS = {"position": Space((3,), "float32"), "legs": Space((), "int32", classes=4)}
ACTIONS = {
    "continuous": {"action": Space((2,), "float32")},
    "discrete": {"action": Space((), "int32", classes=5)},
    "multi": {"action_00": Space((), "int32", classes=3), "action_01": Space((), "int32", classes=2)},
}


def tiny(obs: dict[str, Space], action: dict[str, Space], native: dict | None = None) -> Dreamer:
    torch.manual_seed(0)
    specs = Specs(obs, action, native or {})
    model = WorldModel(specs, rssm=partial(BlockRSSM, deter=16, hidden=8, stoch=4, classes=4, blocks=2))
    return Dreamer(model, ActorCritic(specs, model.feat_dim))


@pytest.fixture(params=list(ACTIONS))
def agent(request) -> Agent:
    return Agent(tiny(VECTORS, ACTIONS[request.param]), seed=3)


def observe(*lead: int) -> dict[str, np.ndarray]:
    return {"position": np.random.default_rng(0).normal(size=(*lead, 3)), "legs": np.full(lead, 2)}


def test_act_takes_one_environment_or_several(agent):
    action, state = agent.act(observe(), agent.initial(1))
    actions, _ = agent.act(observe(4), agent.initial(4))
    kinds = {2: "continuous", 5: "discrete"}
    kind = kinds.get(agent.specs.action_dim) if len(agent.specs.action) == 1 else "multi"
    shapes = {"continuous": (2,), "discrete": (), "multi": (2,)}
    assert np.shape(action) == shapes[kind]
    assert actions.shape == (4, *shapes[kind])
    if kind == "continuous":
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1
    else:
        assert np.issubdtype(actions.dtype, np.integer)
        assert (actions >= 0).all()
        assert (np.asarray(actions).reshape(4, -1) < [5] if kind == "discrete" else actions < [3, 2]).all()
    assert not state["is_first"].any()


@pytest.mark.parametrize("horizon", [2, 3])
def test_a_planner_acts_in_place_of_the_policy(agent, horizon):
    """The state keeps its plan; the policy may act between, or a planner of another horizon."""
    planner = CEM(samples=16, rounds=1, elites=4, horizon=2, policy_plans=4)
    action, state = agent.act(observe(4), agent.initial(4), planner=planner)
    assert action.shape == agent.act(observe(4), agent.initial(4))[0].shape
    assert state["plan"].shape == (4, 2, agent.specs.action_dim)
    _, between = agent.act(observe(4), state)
    assert "plan" not in between
    other = CEM(samples=16, rounds=1, elites=4, horizon=horizon, policy_plans=4)
    for before in (state, between):
        _, after = agent.act(observe(4), agent.reset(before, [True, False, False, True]), planner=other)
        assert after["plan"].shape[1] == horizon
    with pytest.raises(UserError, match="'mpi' is none of"):
        agent.act(observe(4), state, planner="mpi")


def test_the_state_remembers_where_an_episode_begins():
    agent = Agent(tiny(VECTORS, ACTIONS["continuous"]), seed=3)
    _, after = agent.act(observe(), agent.initial(1))
    junk = {**agent.initial(1), "deter": torch.full_like(after["deter"], 9.0)}
    agent.generator.manual_seed(3)
    assert torch.equal(agent.act(observe(), junk)[1]["deter"], after["deter"])  # is_first empties the latent
    agent.generator.manual_seed(3)
    assert not torch.equal(agent.act(observe(), after)[1]["deter"], after["deter"])


def test_reset_begins_the_episodes_that_ended():
    agent = Agent(tiny(VECTORS, ACTIONS["continuous"]), seed=3)
    _, state = agent.act(observe(3), agent.initial(3))
    assert agent.reset(state, [False, True, False])["is_first"].tolist() == [False, True, False]
    assert agent.reset(state, True)["is_first"].all()
    assert not state["is_first"].any()


def test_seeds_decide_what_is_drawn():
    agents = [Agent(tiny(VECTORS, ACTIONS["continuous"]), seed=seed) for seed in (1, 1, 2)]
    first, again, other = [agent.act(observe(), agent.initial(1))[0] for agent in agents]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_imagine_gives_futures_from_an_observation_or_from_a_state(agent):
    dream = agent.imagine(observe(), length=6, samples=3)
    assert {key: value.shape[:2] for key, value in dream.items()} == dict.fromkeys(
        ["position", "legs", "reward", "cont", "value", "action"], (3, 7)
    )
    assert dream["position"].shape == (3, 7, 3)
    assert dream["cont"].min() >= 0
    assert dream["cont"].max() <= 1
    assert np.array_equal(dream["position"][0, 0], dream["position"][1, 0])  # now is the same in all futures
    _, state = agent.act(observe(), agent.initial(1))
    assert agent.imagine(None, 4, 2, state)["reward"].shape == (2, 5)


def test_a_lone_image_needs_no_name_and_comes_back_between_0_and_1():
    agent = Agent(tiny({"image": Space((48, 48, 3), "uint8")}, ACTIONS["discrete"]))
    picture = np.zeros((48, 48, 3), np.uint8)
    _, state = agent.act(picture, agent.initial(1))
    dream = agent.imagine(picture, length=2, samples=2, state=state)
    assert dream["image"].shape == (2, 3, 48, 48, 3)
    assert dream["image"].min() >= 0
    assert dream["image"].max() <= 1


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({"position": np.zeros(3)}, "legs missing"),
        ({"position": np.zeros((2, 3)), "legs": np.zeros(2)}, r"position has shape \(2, 3\)"),
    ],
)
def test_wrong_observations_are_named(obs, words):
    agent = Agent(tiny(VECTORS, ACTIONS["continuous"]))
    with pytest.raises(UserError, match=words):
        agent.act(obs, agent.initial(1))


def test_load_names_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        Agent.load(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match="no complete checkpoint"):
        Agent.load(tmp_path)


def test_an_observation_that_is_called_like_a_prediction_keeps_a_place_of_its_own():
    agent = Agent(tiny({"value": Space((3,)), "cont": Space((2,))}, ACTIONS["continuous"]), seed=3)
    seen = {"value": np.zeros(3, np.float32), "cont": np.zeros(2, np.float32)}
    dream = agent.imagine(seen, length=4, samples=2)
    shapes = {name: value.shape[2:] for name, value in dream.items()}
    assert shapes == {"obs/value": (3,), "obs/cont": (2,), "reward": (), "cont": (), "value": (), "action": (2,)}


RAW = {
    "box": gymnasium.spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([-1.0, 10.0], np.float32)),
    "table": gymnasium.spaces.Box(0.0, 4.0, (2, 3), np.float64),
    "discrete": gymnasium.spaces.Discrete(3, start=-1),
    "multi": gymnasium.spaces.MultiDiscrete([3, 2], start=[5, 0]),
    "binary": gymnasium.spaces.MultiBinary(3),
    "integers": gymnasium.spaces.Box(0, 255, (2,), np.uint8),
    "nested": gymnasium.spaces.Dict(
        {
            "arm": gymnasium.spaces.Tuple([gymnasium.spaces.Box(-2, 2, (2,)), gymnasium.spaces.Discrete(4)]),
            "grip": gymnasium.spaces.MultiBinary(2),
        }
    ),
}


class Room(gymnasium.Env):
    """Looks at a picture and at two numbers, and takes actions of any space."""

    observation_space = gymnasium.spaces.Dict(
        {"camera": gymnasium.spaces.Box(0, 255, (40, 60, 3), np.uint8), "body": gymnasium.spaces.Box(-1, 1, (2,))}
    )

    def __init__(self, actions: str = "box"):
        self.action_space = RAW[actions]

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("kind", list(RAW))
def test_acts_in_the_spaces_of_the_environment_itself(kind):
    env = Custom("test_agent:Room", {"actions": kind}, image_size=48)
    specs = Specs.from_dict(json.loads(json.dumps(asdict(specs_of(env.make(0))))))
    agent, inner = Agent(tiny(specs.obs, specs.action, specs.native)), Room(kind)
    obs, state = inner.reset()[0], agent.initial(1)
    for _ in range(5):
        action, state = agent.act(obs, state)
        obs = inner.step(action)[0]
    two = {name: np.stack([value, value]) for name, value in obs.items()}
    actions, _ = agent.act(two, agent.initial(2))
    for each in gymnasium.vector.utils.iterate(gymnasium.vector.utils.batch_space(RAW[kind], 2), actions):
        assert RAW[kind].contains(each)


def test_scaled_actions_are_what_the_wire_makes_of_the_others():
    played = []
    env = Custom("test_agent:Room", {"actions": "box"}, image_size=48).make(0)
    specs = specs_of(env)
    agent, again = (Agent(tiny(specs.obs, specs.action, specs.native), seed=1) for _ in range(2))
    inner = env.base_env._env
    inner.write, write = lambda action: played.append(write(action)) or played[-1], inner.write
    obs = Room.observation_space.sample()
    action, _ = agent.act(obs, agent.initial(1))
    plain, _ = again.act(obs, again.initial(1), scaled=False)
    assert np.abs(plain).max() <= 1
    env.step(env.reset().set("action", torch.from_numpy(plain)))
    assert np.allclose(played[0], action, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 96, 3), (3, 64, 96), (48, 48, 3)])
def test_pictures_of_any_size(shape):
    agent = Agent(tiny({"image": Space((48, 48, 3), "uint8")}, ACTIONS["discrete"]))
    assert agent.act(np.zeros(shape, np.uint8), agent.initial(1))[0].shape == ()
    assert agent.act(np.zeros((2, *shape), np.uint8), agent.initial(2))[0].shape == (2,)


def test_imagine_plays_given_actions(agent):
    given = agent.imagine(observe(), length=6, samples=3)["action"]
    dream = agent.imagine(observe(), samples=3, actions=given[:, :6])
    assert np.allclose(dream["action"][:, :6], given[:, :6])
    assert agent.imagine(observe(), samples=2, actions=given[0])["reward"].shape == (2, 8)
    with pytest.raises(UserError, match="actions: shape"):
        agent.imagine(observe(), samples=2, actions=given)

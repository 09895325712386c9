"""A dream as an environment of gymnasium and of TorchRL: their own checks, the same numbers, gradients, restarts."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torchrl.envs.utils import check_env_specs

import tiny
from dreamer_lightning.agent import Agent
from dreamer_lightning.dream_env import DreamEnv, Dreams, DreamTorchEnv, DreamVectorEnv
from dreamer_lightning.types import Space, Specs, UserError

SEEN = Specs({"position": Space((3,)), "room": Space((), "int32", classes=3, start=5)}, tiny.SPECS.action)


def parts(specs: Specs = tiny.SPECS):
    dreamer = tiny.agent(specs).eval()
    rssm = dreamer.world_model.rssm
    return dreamer, rssm.pack(rssm.initial(4))


@pytest.mark.filterwarnings("ignore:.*spec is not initialised|.*Box (observation|action).*:UserWarning")
@pytest.mark.parametrize("specs", [tiny.SPECS, tiny.DISCRETE, SEEN], ids=["numbers", "classes", "both seen"])
@pytest.mark.parametrize("observe", ["decoded", "latent"])
def test_gymnasium_checks_it(specs, observe):
    dreamer, starts = parts(specs)
    check_env(DreamEnv(dreamer, starts, length=20, observe=observe), skip_render_check=True, skip_close_check=True)


def test_a_room_keeps_its_own_numbers():
    dreamer, starts = parts(SEEN)
    env = DreamEnv(dreamer, starts)
    obs, _ = env.reset(seed=0)
    assert 5 <= obs["room"] <= 7
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize("specs", [tiny.SPECS, tiny.DISCRETE], ids=["numbers", "classes"])
def test_torchrl_checks_it(specs):
    dreamer, starts = parts(specs)
    check_env_specs(DreamTorchEnv(dreamer, starts, 3, length=4, seed=1))


def test_of_scores_for_classes_the_largest_counts():
    dreamer, starts = parts(tiny.DISCRETE)
    scores, sure = torch.tensor([[0.9, -0.9, 0.2, 0.5]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    dreams = [Dreams(dreamer, starts, 1, seed=2) for _ in range(2)]
    with torch.no_grad():
        rewards = [each.step(action)[0] for each, action in zip(dreams, (scores, sure), strict=True)]
    torch.testing.assert_close(*rewards, atol=0, rtol=0)


def test_rewards_have_gradients_to_the_actions():
    dreamer, starts = parts()
    env = DreamTorchEnv(dreamer, starts, 2)
    state, action = env.reset(), torch.zeros(2, 2, requires_grad=True)
    for _ in range(3):
        after = env.step(state.set("action", action))
        state = after["next"]
    after["next", "reward"].sum().backward()
    assert action.grad.isfinite().all()
    assert action.grad.abs().sum() > 0


def test_many_dreams_are_cut_and_begin_anew():
    """Length 3 without an end by chance: truncated at every third step, the step after it only resets."""
    dreamer, starts = parts()
    env = DreamVectorEnv(dreamer, starts, 5, length=3, ends=False)
    obs, _ = env.reset(seed=0)
    assert obs["position"].shape == (5, 3)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    cut, paid = [], []
    for _ in range(8):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert not terminated.any()
        cut.append(bool(truncated.all()))
        paid.append(bool((reward != 0).all()))
    assert cut == [False, False, True, False, False, False, True, False]
    assert paid == [True, True, True, False, True, True, True, False]


def test_a_dream_is_the_world_models_own():
    """Three steps by hand with the same draws."""
    dreamer, starts = parts()
    dreams, actions = Dreams(dreamer, starts, 2, seed=7), torch.rand(3, 2, 2) * 2 - 1
    model, generator = dreamer.world_model, torch.Generator().manual_seed(7)
    torch.randint(4, (2,), generator=generator)
    latent = model.rssm.unpack({name: value[:2] for name, value in starts.items()})
    with torch.no_grad():
        for action in actions:
            reward, _ = dreams.step(action)
            latent, _ = model.rssm.imagine_step(latent, action, model.rssm.noise(2, generator=generator))
            torch.rand(2, generator=generator)
            torch.testing.assert_close(reward, model.predict(latent.feat)[0])
            torch.testing.assert_close(dreams.look()["position"], dreamer.reconstruct(latent)["position"])


def test_the_same_seed_is_the_same_dream():
    dreamer, starts = parts()
    env = DreamEnv(dreamer, starts)
    runs = []
    for _ in range(2):
        env.reset(seed=3)
        runs.append([env.step(np.full(2, 0.5, np.float32))[1] for _ in range(4)])
    assert runs[0] == runs[1]


def test_another_default_dtype_changes_nothing():
    dreamer, starts = parts()

    def rewards() -> np.ndarray:
        env = DreamVectorEnv(dreamer, starts, 3, seed=4, ends=False)
        env.reset(seed=1)
        return np.stack([env.step(np.full((3, 2), 0.3))[1] for _ in range(3)])

    wanted = rewards()
    torch.set_default_dtype(torch.float64)
    try:
        found = rewards()
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, wanted)


def test_refused_in_words():
    dreamer, starts = parts()
    with pytest.raises(UserError, match="num_envs=0 dreams nothing"):
        Dreams(dreamer, starts, 0)
    with pytest.raises(UserError, match="neither 'gymnasium' nor 'torchrl'"):
        Agent(dreamer).dream_env(api="gym", starts=starts)
    with pytest.raises(UserError, match="no task to begin in; give starts"):
        Agent(dreamer).dream_env()
    assert isinstance(Agent(dreamer).dream_env(2, "torchrl", starts=starts), DreamTorchEnv)


@pytest.mark.slow
def test_an_agent_of_the_package_dreams_and_ppo_trains_in_it():
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    env = Agent.load("CartPole-v1").dream_env(length=200)
    learner = stable_baselines3.PPO("MlpPolicy", env, n_steps=128, batch_size=64, device="cpu", seed=0)
    learner.learn(1024)
    assert learner.num_timesteps >= 1024

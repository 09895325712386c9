"""The trained agents that come with the package."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dreamer_lightning import agents
from dreamer_lightning.agent import Agent
from dreamer_lightning.cli import main
from dreamer_lightning.evaluation.evaluator import Evaluator

NAMES = agents.names()
each = pytest.mark.parametrize("name", NAMES)
TOGETHER = 6e6  # bytes of all agents


def test_there_are_agents_and_they_are_small():
    assert "cartpole_balance" in NAMES
    assert sum(path.stat().st_size for path in agents.FOLDER.rglob("*") if path.is_file()) < TOGETHER


@each
def test_an_agent_loads_by_name_acts_and_dreams(name: str):
    agent = Agent.load(name, device="cpu")
    with np.load(agents.FOLDER / name / agents.EPISODE) as episode:
        obs = {key.removeprefix("obs/"): episode[key][0] for key in episode if key.startswith("obs/")}
    action, state = agent.act(obs, agent.initial(1))
    dream = agent.imagine(None, length=3, samples=2, state=state)
    assert np.isfinite(np.asarray(action)).all()
    assert np.isfinite(dream["reward"]).all()
    assert dream["reward"].shape == (2, 4)


@each
def test_a_card_tells_where_an_agent_comes_from(name: str):
    card = agents.card(agents.FOLDER / name)
    told = ("task", "seed", "configs", "env_step", "score", "score_min", "random_score", "commit", "licence")
    assert set(told) <= card.keys()
    assert card["score"] > 2 * card["random_score"]
    assert json.dumps(card).isascii()


@each
def test_weights_are_those_of_the_networks_alone(name: str):
    from safetensors import safe_open

    with safe_open(agents.FOLDER / name / agents.WEIGHTS, "pt") as file:
        stored = set(file.keys())
    assert stored == set(Agent.load(name, device="cpu").dreamer.state_dict())


def test_the_command_lists_them(capsys):
    assert main(["agents"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in NAMES)


def test_a_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert agents.home("cartpole_balance").as_posix() == "runs/cartpole_balance"
    (tmp_path / "cartpole_balance").mkdir()
    assert agents.home("cartpole_balance").as_posix() == "cartpole_balance"


@pytest.mark.slow
@each
def test_an_agent_plays_as_its_card_says(name: str):
    """Ten greedy episodes: the mean is within three standard errors of the card's."""
    agent, card = Agent.load(name, device="cpu"), agents.card(agents.FOLDER / name)
    played = Evaluator(agent.env_factory, 10, 77, num_envs=2).play(
        agent.dreamer, torch.Generator().manual_seed(3), True
    )
    mean = np.mean([episode.score for episode in played])
    assert mean > card["score"] - 3 * max(card["score_std"], 0.02 * card["score"]) / 10**0.5

"""An agent that leaves the house: a folder of its own, loaded without environments and what trains."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dreamer_lightning import Agent
from dreamer_lightning.cli import main
from dreamer_lightning.store import package, runfolder
from dreamer_lightning.types import UserError

LINE = """
import gymnasium
import numpy as np
from torch import nn

from dreamer_lightning.nets.encoders import Encoder, concat_vectors
from dreamer_lightning.types import Specs
from {helper} import WIDTH


class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-3.0, 5.0, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {{}}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {{}}


class Flat(Encoder):
    def __init__(self, specs: Specs):
        super().__init__()
        self.spaces, self.embed_dim = specs.obs, WIDTH
        self.net = nn.Linear(2, WIDTH)

    def forward(self, obs):
        return self.net(concat_vectors(obs, self.spaces, squash=True))
"""
FOREIGN = """
import sys, numpy
from dreamer_lightning import Agent
agent = Agent.load(sys.argv[1])
action, state = agent.act(numpy.zeros(2, numpy.float32), agent.initial(), greedy=True)
assert -3 <= action[0] <= 5
print(action[0], sorted({"torchrl", "wandb", "dm_control", "mujoco"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    mine = tmp_path_factory.mktemp("mine")
    (mine / "leaving_line.py").write_text(LINE.format(helper="leaving_width"))
    (mine / "leaving_width.py").write_text("WIDTH = 8\n")
    env = {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "leaving_line:Line", "time_limit": 20}}
    text = {"env": env, "encoder": {"class_path": "leaving_line.Flat"}}
    (mine / "mine.yaml").write_text(yaml.safe_dump(text))
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["fit", "gym.yaml", "debug.yaml", str(mine / "mine.yaml"), f"--run_dir={folder}", "--updates=1"]
    assert main(words) == 0
    shutil.rmtree(mine)
    return folder


def foreign(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FOREIGN, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_run_keeps_its_own_classes_and_loads_without_what_trains(run: Path):
    assert sorted(path.name for path in (run / package.MODULES).glob("*.py")) == ["leaving_line.py", "leaving_width.py"]
    action, loaded = foreign(run).split(" ", 1)
    assert loaded == "[]"
    assert -3 <= float(action) <= 5


def test_a_saved_agent_is_the_same_agent_elsewhere(run: Path, tmp_path: Path):
    agent = Agent.load(run)
    there = agent.save(tmp_path / "saved")
    again = Agent.load(shutil.move(there, tmp_path / "moved"))
    assert again.clocks.items() >= agent.clocks.items()
    assert again.specs.native == agent.specs.native == {"kind": "Box", "low": [-3.0], "high": [5.0], "dtype": "float32"}
    obs = np.zeros(2, np.float32)
    assert np.array_equal(again.act(obs, again.initial())[0], agent.act(obs, agent.initial())[0])
    for name, value in agent.dreamer.state_dict().items():
        assert torch.equal(again.dreamer.state_dict()[name], value)
    assert foreign(tmp_path / "moved").endswith("[]")


def test_a_checkpoint_can_be_named(run: Path):
    found = runfolder.latest_complete(run, replay=False)
    assert Agent.load(found).clocks == Agent.load(found / runfolder.MODEL).clocks == Agent.load(run).clocks


def test_an_agent_of_no_run_says_so(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="came from no run folder"):
        Agent(Agent.load(run).dreamer).save(tmp_path)

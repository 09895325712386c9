"""What works in a process that somebody else has set up: its torch, its forks, its locale, its folders."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch

from dreamer_lightning.agent import Agent
from dreamer_lightning.kernels.process import torch_defaults
from test_agent import ACTIONS, VECTORS, observe, tiny


@pytest.fixture
def agent() -> Agent:
    return Agent(tiny(VECTORS, ACTIONS["continuous"]), seed=3)


def test_an_agent_acts_whatever_the_default_type_is(agent):
    wanted, _ = agent.act(observe(4), agent.initial(4))
    agent.generator.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    try:
        action, state = agent.act(observe(4), agent.initial(4))
        assert agent.imagine(observe(), length=3, samples=2)["reward"].shape == (2, 4)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert action.dtype == np.float32
    assert state["deter"].dtype == torch.float32
    np.testing.assert_array_equal(action, wanted)


def test_training_has_gradients_whatever_the_caller_switched_off():
    with torch.inference_mode(), torch_defaults():
        weight = torch.ones(2, requires_grad=True)
        (weight * 2).sum().backward()
    assert weight.grad.tolist() == [2, 2]
    torch.set_grad_enabled(False)
    try:
        with torch_defaults():
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("n", [1, 64])
def test_an_agent_acts_in_a_forked_child_after_it_acted_in_the_parent(agent, n):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(512, 512) @ torch.ones(512, 512)  # now OpenMP's threads are there
        agent.act(observe(n), agent.initial(n))
        child = os.fork()
        if not child:
            agent.act(observe(n), agent.initial(n))
            torch.ones(512, 512) @ torch.ones(512, 512)
            os._exit(0)
        for _ in range(200):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.05)
        else:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child does not come back")
        assert status == 0
    finally:
        torch.set_num_threads(threads)

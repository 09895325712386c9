"""The exported acting step beside PyTorch's over 200 steps, and the files of the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import tiny
from dreamer_lightning import cli
from dreamer_lightning.export.command import write, write_torch
from dreamer_lightning.export.step import PREV, ActingStep

CASES = {"numbers": tiny.SPECS, "classes": tiny.DISCRETE}


def onward(step: ActingStep, given: tuple[torch.Tensor, ...], out: list) -> tuple[torch.Tensor, ...]:
    """The next step's inputs: new observations and draws, the state that came out, no episode beginning but one."""
    fresh = dict(zip(step.inputs, step.example(len(given[0])), strict=True))
    state = dict(zip(step.outputs, map(torch.as_tensor, out), strict=True))
    fresh |= {name: state[f"next_{name}"] for name in (*step.latent, PREV)}
    fresh["is_first"] = torch.zeros_like(fresh["is_first"])
    return tuple(fresh.values())


@pytest.mark.parametrize("specs", CASES.values(), ids=CASES)
@pytest.mark.parametrize("greedy", [False, True])
def test_onnx_does_what_torch_does_over_200_steps(specs, greedy, tmp_path):
    torch.manual_seed(0)
    step = ActingStep(tiny.agent(specs, {"standardize": True}), greedy)
    write(step, tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    given = step.example(5)  # it was traced with three environments
    for _ in range(200):
        with torch.no_grad():
            want = step(*given)
        got = session.run(None, {name: value.numpy() for name, value in zip(step.inputs, given, strict=True)})
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-4)
        given = onward(step, given, list(want))


@pytest.mark.parametrize("specs", CASES.values(), ids=CASES)
def test_a_program_of_torch_does_the_same(specs, tmp_path):
    torch.manual_seed(0)
    step = ActingStep(tiny.agent(specs, {"standardize": True}))
    write_torch(step, tmp_path / "step.pt2")
    program = torch.export.load(tmp_path / "step.pt2").module()
    given = step.example(5)
    for _ in range(20):
        with torch.no_grad():
            want, got = step(*given), program(*given)
        for mine, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
        given = onward(step, given, list(want))


def test_it_is_the_agents_own_step():
    """The same draws through ``Dreamer.act``."""
    dreamer = tiny.agent().eval()
    step, generator = ActingStep(dreamer), torch.Generator().manual_seed(5)
    given = dict(zip(step.inputs, step.example(3), strict=True))
    given["latent_noise"] = dreamer.world_model.rssm.noise(3, generator=generator)
    given["action_noise"] = dreamer.actor_critic.policy.noise((3,), generator, dreamer.device)
    with torch.no_grad():
        out = dict(zip(step.outputs, step(*given.values()), strict=True))
    obs = {name: given[f"obs/{name}"] for name in dreamer.specs.obs}
    first = torch.ones(3, dtype=torch.bool)
    action, state = dreamer.act(obs, dreamer.initial(3), first, torch.Generator().manual_seed(5))
    torch.testing.assert_close(out[f"next_{PREV}"], action)
    torch.testing.assert_close(out["next_stoch"], state["stoch"])


def test_an_episode_without_this_package(tmp_path, monkeypatch, capsys):
    """The example of docs/deploy.md, as it stands there."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "CartPole-v1", "--greedy", "true", "--out", "step.onnx"]) == 0
    assert "wrote step.onnx" in capsys.readouterr().out
    card = json.loads(Path("step.json").read_text())
    assert list(card["inputs"]) == ["obs/observation", "deter", "stoch", PREV, "is_first", "latent_noise"]
    page = (Path(__file__).resolve().parents[1] / "docs" / "deploy.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "dreamer" not in example
    found = {}
    exec(example, found)
    assert found["score"] >= 475

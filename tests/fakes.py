"""A training loop in miniature for the tests of callbacks: real Fabric, real replay, no model and no environment."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.fabric import Fabric
from tensordict import TensorDict
from torch import nn

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.sanity import Sanity
from dreamer_lightning.schedule import Clocks, Limits, Ratio
from dreamer_lightning.types import Space, Specs


class FakeDreamer(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.specs = Specs({"position": Space((3,))}, {"action": Space((2,))})
        self.world_model = SimpleNamespace(feat_dim=6, rssm=None)
        value = SimpleNamespace(bins=range(255))
        self.actor_critic = SimpleNamespace(
            starts=lambda b, t: b * t, imag_length=15, value=value, gradient=SimpleNamespace(needs_gradient=False)
        )

    def initial(self, n: int) -> dict[str, torch.Tensor]:
        return {
            "deter": torch.zeros(n, 4),
            "stoch": torch.zeros(n, 2, dtype=torch.uint8),
            "prev_action": torch.zeros(n, 2),
        }


class FakeFactory:
    name, repeat = "walker_walk", 2


class FakeLoop:
    """What callbacks may ask of a loop; ``play`` and ``update`` stand for one collect and one gradient step."""

    def __init__(self, run_dir: Path, callbacks: list[Any], seed: int = 0, loggers: Any = None, **limits: Any):
        self.fabric = limits.pop("fabric", None) or Fabric(accelerator="cpu", devices=1, loggers=loggers)
        self.fabric._callbacks = callbacks
        world, seed = self.fabric.world_size, seed + self.fabric.global_rank
        self.callbacks, self.run_dir = callbacks, Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.world = world
        self.clocks, self.limits, self.ratio = Clocks(), Limits(**limits), Ratio(learning_starts=8, learning=True)
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(0)
        self.dreamer = FakeDreamer()
        self.optimizer = torch.optim.Adam(self.dreamer.parameters(), lr=0.01)
        self.replay = Replay(capacity=400, batch_size=2, length=5, num_streams=2, seed=seed)
        self.env_factory, self.specs, self.last, self.pending = FakeFactory(), self.dreamer.specs, {}, {}
        self.timers = {"collect": 0.0, "train": 0.0}
        self.waited = 0.0
        self.stop_reason, self.sanity = None, Sanity()
        self.time = torch.zeros(2, dtype=torch.int64)

    def call(self, hook: str, **kwargs: Any) -> None:
        self.fabric.call(hook, loop=self, **kwargs)

    def stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    @property
    def should_stop(self) -> bool:
        return self.stop_reason is not None

    def agreed(self, mine: bool, among: Any) -> bool:
        return mine

    def sound(self) -> bool:
        return self.sanity.problem is None

    def log(self, metrics: dict[str, Any]) -> None:
        self.pending.update(metrics)

    def play(self, steps: int = 4, length: int = 10) -> None:
        """Two environments, reward 1 a step, episodes of ``length`` decisions."""
        begin = self.time[:, None] + torch.arange(steps)  # [b t]
        self.time += steps
        done = (begin + 1) % length == 0
        shape = (2, steps, 1)
        wire = TensorDict(
            {
                "is_init": (begin % length == 0)[..., None],
                "next": {
                    "reward": torch.ones(shape),
                    "done": done[..., None],
                    "log/height": (begin % length).float()[..., None],
                },
            },
            [2, steps],
        )
        rows = [
            {
                ("obs", "position"): torch.rand(steps, 3, generator=self.generator),
                "prev_action": torch.zeros(steps, 2),
                "reward": torch.ones(steps),
                "is_first": begin[i] % length == 0,
                "is_last": done[i],
                "is_terminal": torch.zeros(steps, dtype=torch.bool),
                ("latent", "deter"): torch.rand(steps, 4, generator=self.generator),
                ("latent", "stoch"): torch.zeros(steps, 2, dtype=torch.uint8),
            }
            for i in range(2)
        ]
        self.replay.extend([TensorDict(row, [steps]) for row in rows])
        self.clocks.agent_step += 2 * steps * self.world
        self.clocks.env_step += 4 * steps * self.world
        self.timers["collect"] += 0.01
        self.call("on_collect_end", wire=wire)

    def update(self) -> None:
        batch = self.replay.sample()
        loss = (self.dreamer(batch["obs", "position"]) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.clocks.update += 1
        self.timers["train"] += 0.01
        self.call("on_train_batch_end", metrics={"loss/model": loss.detach(), "opt/lr": torch.tensor(0.01)})

    def flush(self) -> None:
        row, self.pending = {**vars(self.clocks), **self.pending, "replay/steps": self.replay.steps}, {}
        self.call("on_log", row=row)
        self.last.update(row)

    def round(self, log_every: int = 2) -> None:
        self.play()
        if self.replay.steps >= 16:
            self.update()
        if self.clocks.agent_step // (8 * self.world) % log_every == 0:
            self.flush()
        self.clocks.seconds = time.perf_counter()
        self.call("on_iteration_end")

    def state_dict(self) -> dict[str, Any]:
        return {
            "dreamer": self.dreamer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "clocks": dict(vars(self.clocks)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dreamer.load_state_dict(state["dreamer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.clocks = Clocks(**state["clocks"])

    def rank_state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "time": self.time}

    def load_rank_state_dict(self, state: dict[str, Any]) -> list[int]:
        self.generator.set_state(state["generator"])
        self.time = state["time"]
        return []


def media(loop) -> list[tuple[str, Path]]:
    seen = []

    class Look:
        def on_media(self, name, path):
            seen.append((name, path))

    loop.fabric._callbacks.append(Look())
    return seen

"""A world whose dreams can be computed by hand: a clock that pays its own time, and agents that know it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from dreamer_lightning.dreamer import Imagined
from dreamer_lightning.envs.base import EnvFactory
from dreamer_lightning.envs.batched import make_batched
from dreamer_lightning.evaluation.rollout import rollout
from dreamer_lightning.types import Discount, Latent, Space, Specs

HORIZON = 20.0


GAMMA = 1 - 1 / HORIZON


SPECS = Specs({"clock": Space((2,), "float32"), "image": Space((8, 8, 3), "uint8")}, {"action": Space((3,), "float32")})


class Clock(EnvBase):
    """Observes (time, -1) and a grey picture; pays 0.1 * time; ends at ``end``, by terminal state or time limit."""

    def __init__(self, end: int, terminal: bool):
        super().__init__(batch_size=[])
        self.end, self.terminal, self.time = end, terminal, 0
        self.observation_spec = Composite(
            clock=Unbounded((2,)), image=Unbounded((8, 8, 3), dtype=torch.uint8), shape=()
        )
        self.action_spec = Bounded(-1, 1, (3,))
        self.reward_spec = Unbounded((1,))

    def _obs(self):
        return {
            "clock": torch.tensor([float(self.time), -1.0]),
            "image": torch.full((8, 8, 3), self.time, dtype=torch.uint8),
        }

    def _reset(self, tensordict=None, **kwargs):
        self.time = 0
        return TensorDict(self._obs(), [])

    def _step(self, tensordict):
        self.time += 1
        over = torch.tensor([self.time >= self.end])
        flags = {"terminated": over & self.terminal, "truncated": over & (not self.terminal), "done": over}
        return TensorDict({**self._obs(), "reward": torch.tensor([0.1 * self.time]), **flags}, [])

    def _set_seed(self, seed):
        torch.manual_seed(seed)


@dataclass
class Clocks(EnvFactory):
    end: int = 60
    terminal: bool = False
    name: str = "clock"
    repeat: int = 1

    def make(self, seed, pixels_for_video=False):
        return Clock(self.end, self.terminal)


class PerfectDreamer:
    """Knows the clock; ``bias`` is added to each dreamed reward. deter = [time, last action's first entry]."""

    specs = SPECS

    def __init__(self, end: int, terminal: bool, bias: float = 0.0):
        self.end, self.terminal, self.bias = end, terminal, bias
        self.world_model = SimpleNamespace(discount=Discount(HORIZON))

    def initial(self, n):
        return {
            "deter": torch.zeros(n, 2),
            "stoch": torch.zeros(n, 1, dtype=torch.uint8),
            "prev_action": torch.zeros(n, 3),
        }

    def act(self, obs, state, is_first, generator=None, greedy=False):
        n = len(is_first)
        assert (state["deter"][:, 0] + 1 == obs["clock"][:, 0])[~is_first].all(), "the state is one step behind"
        action = torch.zeros(n, 3) if greedy else torch.randn(n, 3, generator=generator)
        deter = torch.stack([obs["clock"][:, 0], torch.where(is_first, 0, state["prev_action"][:, 0])], -1)
        return action, {"deter": deter, "stoch": torch.ones(n, 1, dtype=torch.uint8), "prev_action": action}

    def imagine(self, state, length, actions=None, generator=None, decode=True):
        deter = state.deter if isinstance(state, Latent) else state["deter"]
        n = len(deter)
        time = deter[:, :1] + torch.arange(length + 1)
        deter = torch.stack([time, torch.zeros_like(time)], -1)
        latent = Latent(deter, torch.ones(n, length + 1, 1))
        cont = GAMMA * (1 - ((time >= self.end) & self.terminal).float())
        action = torch.zeros(n, length + 1, 3) if actions is None else torch.cat([actions, actions[:, :1] * 0], 1)
        obs = self.reconstruct(latent) if decode else {}
        return Imagined(latent, action, 0.1 * time + self.bias, cont, time * 0 + 7.0, obs)

    def reconstruct(self, latent):
        time = latent.deter[..., 0]
        image = (time / 255)[..., None, None, None].expand(*time.shape, 8, 8, 3)
        return {"clock": torch.stack([time, time * 0 - 1.0], -1), "image": image}


def play(end, terminal, episodes=3, num_envs=2, **kwargs):
    env = make_batched(Clocks(end, terminal), num_envs, seed=0)
    return rollout(PerfectDreamer(end, terminal), env, episodes, False, torch.Generator().manual_seed(0), **kwargs)

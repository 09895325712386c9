"""Times one update of size1m on walker's vectors, batch 16x64, 15 dreamed steps: median of 7 after 2.

OMP_NUM_THREADS=2 python benchmarks/update.py [imag_last]
"""

import statistics
import sys
import time

import torch

from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.optim import LaProp
from dreamer_lightning.runtime import keep_memory
from dreamer_lightning.types import Space, Specs
from dreamer_lightning.world_model import WorldModel

keep_memory()
torch.manual_seed(0)
obs = {"orientations": Space((14,)), "height": Space(()), "velocity": Space((9,))}
specs = Specs(obs, {"action": Space((6,))})
model = WorldModel(specs)
agent = Dreamer(model, ActorCritic(specs, model.feat_dim, imag_last=int(sys.argv[1]) if len(sys.argv) > 1 else 0))
optimizer = LaProp([p for p in agent.parameters() if p.requires_grad])
b, t = 16, 65
none = torch.zeros(b, t, dtype=torch.bool)
batch = {"obs": {name: torch.randn(b, t, *space.shape) for name, space in obs.items()}}
batch |= {"prev_action": torch.randn(b, t, 6), "reward": torch.rand(b, t), "is_last": none, "is_terminal": none}
batch |= {"is_first": torch.rand(b, t) < 0.01, "latent": model.rssm.pack(model.rssm.initial(b, t))}
times = []
for _ in range(9):
    start = time.perf_counter()
    agent(batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    agent.actor_critic.update_slow_critic()
    times.append(time.perf_counter() - start)
print(f"{statistics.median(times[2:]):.3f} s an update, {torch.get_num_threads()} threads")

"""Times one update of size1m on walker's vectors, batch 16x64, 15 dreamed steps: median of 7 after 5.

    OMP_NUM_THREADS=2 python benchmarks/update.py [imag_last] [--compare] [--against CHECKOUT] [--actor_gradient mix]

With ``--compare`` updates take turns: those of an agent with fast twins, of one whose twins do without compiled
kernels, and of a plain one. With ``--against`` they take turns with those of another checkout of this project, in a
process of its own.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from dreamer_lightning import kernels
from dreamer_lightning.actor_critic import ActorCritic
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.kernels import native
from dreamer_lightning.kernels.process import keep_memory
from dreamer_lightning.nets.gradients import Mix, Pathwise, ScoreFunction
from dreamer_lightning.optim import LaProp
from dreamer_lightning.types import Space, Specs
from dreamer_lightning.world_model import WorldModel

GRADIENTS = {"reinforce": ScoreFunction, "dynamics": Pathwise, "mix": Mix}


def build(imag_last: int, actor_gradient: str = "reinforce", fast: bool = True):
    """An update as a function, on one fixed batch of random records."""
    torch.manual_seed(0)
    obs = {"orientations": Space((14,)), "height": Space(()), "velocity": Space((9,))}
    specs = Specs(obs, {"action": Space((6,))})
    model = WorldModel(specs)
    actor_critic = ActorCritic(specs, model.feat_dim, imag_last=imag_last, gradient=GRADIENTS[actor_gradient])
    agent = Dreamer(model, actor_critic)
    if fast:
        kernels.accelerate(agent)
    optimizer = LaProp([p for p in agent.parameters() if p.requires_grad])
    b, t = 16, 65
    none = torch.zeros(b, t, dtype=torch.bool)
    batch = {"obs": {name: torch.randn(b, t, *space.shape) for name, space in obs.items()}}
    batch |= {"prev_action": torch.randn(b, t, 6), "reward": torch.rand(b, t), "is_last": none, "is_terminal": none}
    batch |= {"is_first": torch.rand(b, t) < 0.01, "latent": model.rssm.pack(model.rssm.initial(b, t))}

    def update() -> None:
        agent(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        agent.actor_critic.update_slow_critic()

    return update


def clock(update, compiled: bool = True) -> float:
    """Seconds of one update, with compiled kernels or without."""
    with contextlib.nullcontext() if compiled else native.unused():
        start = time.perf_counter()
        update()
        return time.perf_counter() - start


class Server:
    """Updates of another checkout, one at a time."""

    def __init__(self, checkout: Path, imag_last: int, actor_gradient: str):
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
        command = [sys.executable, __file__, str(imag_last), "--serve", "--actor_gradient", actor_gradient]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def update(self) -> float:
        """Seconds of one."""
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imag_last", nargs="?", type=int, default=0)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--actor_gradient", default="reinforce", choices=("reinforce", "dynamics", "mix"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    keep_memory()
    update, threads = build(given.imag_last, given.actor_gradient), torch.get_num_threads()
    if given.serve:
        for _ in sys.stdin:
            print(clock(update), flush=True)
        return
    if given.against:
        theirs = Server(given.against, given.imag_last, given.actor_gradient)
        times = [(clock(update), theirs.update()) for _ in range(26)][5:]
        ours, other = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(f"{ours:.3f} s here, {other:.3f} s there, {threads} threads; {ratio:.2f} of the time, pair by pair")
        return
    ways = {"fast twins": (update, True)}
    if given.compare:
        ways["twins by torch alone"] = (update, False)
        ways["plain"] = (build(given.imag_last, given.actor_gradient, fast=False), False)
    rounds = [[clock(*way) for way in ways.values()] for _ in range(12)][5:]
    for name, column in zip(ways, zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(a / b for a, b in zip(column, (row[-1] for row in rounds), strict=True))
        print(f"{statistics.median(column):.3f} s an update, {threads} threads: {name}; {ratio:.2f} of the last line's")


if __name__ == "__main__":
    main()

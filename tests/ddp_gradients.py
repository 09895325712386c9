"""Run by test_ddp and test_hosts: a share of a batch in each process, and then the whole batch in one, step by step."""

import os
import sys
from pathlib import Path

import torch
from lightning.fabric import Fabric

import agreement
import tiny
from dreamer_lightning.dreamer import Dreamer, Noise, TrainOutput


def main(folder: Path, gradient: str) -> None:
    hosts = int(os.environ.get("HOSTS", 1))  # with a process on each, else two on one
    fabric = Fabric(accelerator="cpu", devices=1 if hosts > 1 else 2, num_nodes=hosts, strategy="ddp")
    fabric.launch()
    dreamer = agreement.agent(gradient)
    data = tiny.batch(dreamer)
    noise = dreamer.noise(4, 6, torch.Generator().manual_seed(7))
    whole = agreement.agent(gradient, steps=True)
    module, _ = fabric.setup(dreamer, torch.optim.SGD(dreamer.parameters(), lr=0.1))

    size = 4 // fabric.world_size
    share = slice(size * fabric.global_rank, size * fabric.global_rank + size)
    mine = {k: {n: x[share] for n, x in v.items()} if isinstance(v, dict) else v[share] for k, v in data.items()}
    n = len(noise.imag) // fabric.world_size
    dreams = slice(n * fabric.global_rank, n * fabric.global_rank + n)
    output = module(mine, noise=Noise(noise.post[share], noise.imag[dreams], noise.action[dreams]))
    fabric.backward(output.loss)
    state = result(dreamer, output)
    fabric.barrier()
    torch.save(state, folder / f"rank{fabric.global_rank}.pt")
    torch.distributed.destroy_process_group()
    if fabric.is_global_zero:  # alone again: the whole batch in one process
        output = whole(data, noise=noise)
        output.loss.backward()
        torch.save(result(whole, output), folder / "whole.pt")


def result(dreamer: Dreamer, output: TrainOutput) -> dict:
    """What the parent compares: all numbers, each parameter's gradient, the return normaliser's state."""
    grads = {name: p.grad for name, p in dreamer.named_parameters() if p.grad is not None}
    numbers = agreement.numbers(dreamer, output)
    return {"numbers": numbers, "grads": grads, "range": dreamer.actor_critic.return_norm.range}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

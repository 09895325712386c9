"""Run by test_ddp in two processes: half a batch each, and then the whole batch in one, step by step."""

import sys
from pathlib import Path

import torch
from lightning.fabric import Fabric

import agreement
import tiny
from dreamer_lightning.dreamer import Dreamer, Noise, TrainOutput


def main(folder: Path, gradient: str) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    dreamer = agreement.agent(gradient)
    data = tiny.batch(dreamer)
    noise = dreamer.noise(4, 6, torch.Generator().manual_seed(7))
    whole = agreement.agent(gradient, steps=True)
    module, _ = fabric.setup(dreamer, torch.optim.SGD(dreamer.parameters(), lr=0.1))

    half = slice(2 * fabric.global_rank, 2 * fabric.global_rank + 2)
    mine = {k: {n: x[half] for n, x in v.items()} if isinstance(v, dict) else v[half] for k, v in data.items()}
    n = len(noise.imag) // 2
    dreams = slice(n * fabric.global_rank, n * fabric.global_rank + n)
    output = module(mine, noise=Noise(noise.post[half], noise.imag[dreams], noise.action[dreams]))
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

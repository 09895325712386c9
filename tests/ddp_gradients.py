"""Run by test_ddp in two processes: gradients of half a batch each, averaged, are those of the whole batch in one."""

import sys
from pathlib import Path

import torch
from lightning.fabric import Fabric

import tiny
from dreamer_lightning.dreamer import Noise


def main(folder: Path, gradient: str) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    dreamer = tiny.agent(actor_gradient=gradient)
    data = tiny.batch(dreamer)
    noise = dreamer.noise(4, 6, torch.Generator().manual_seed(7))
    whole = tiny.agent(actor_gradient=gradient)
    module, _ = fabric.setup(dreamer, torch.optim.SGD(dreamer.parameters(), lr=0.1))

    half = slice(2 * fabric.global_rank, 2 * fabric.global_rank + 2)
    mine = {k: {n: x[half] for n, x in v.items()} if isinstance(v, dict) else v[half] for k, v in data.items()}
    n = len(noise.imag) // 2
    dreams = slice(n * fabric.global_rank, n * fabric.global_rank + n)
    fabric.backward(module(mine, noise=Noise(noise.post[half], noise.imag[dreams], noise.action[dreams])).loss)
    grads = {name: p.grad for name, p in dreamer.named_parameters() if p.grad is not None}
    state = {"grads": grads, "range": dreamer.actor_critic.return_norm.range}
    fabric.barrier()
    torch.save(state, folder / f"rank{fabric.global_rank}.pt")
    torch.distributed.destroy_process_group()
    if fabric.is_global_zero:  # alone again: the whole batch in one process
        whole(data, noise=noise).loss.backward()
        grads = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
        torch.save({"grads": grads, "range": whole.actor_critic.return_norm.range}, folder / "whole.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

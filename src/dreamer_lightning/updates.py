"""One gradient step on one batch: op by op, or replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision.amp import MixedPrecision
from tensordict import TensorDictBase
from torch import Tensor

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.dreamer import Dreamer, Noise, TrainOutput
from dreamer_lightning.sanity import Sanity, story
from dreamer_lightning.types import IS_FIRST, BadNumbers, Metrics, UserError

WARM_UP = 3  # updates before the capture: libraries allocate their workspaces, the optimizer its moments


@dataclass
class Update:
    """Replay a batch, one gradient step on one scalar, write fresher latents back.

    Args:
        fabric: launched Fabric.
        dreamer: the raw agent.
        module: the agent as Fabric wrapped it, whose forward trains.
        optimizer: of all parameters, as Fabric wrapped it.
        replay: this rank's records.
        generator: source of the training noise.
        sanity: judges loss and gradient before they reach the weights.
    """

    fabric: Fabric
    dreamer: Dreamer
    module: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    replay: Replay
    generator: torch.Generator
    sanity: Sanity = field(default_factory=Sanity)
    moving: list[Tensor] = field(default_factory=list)  # buffers of the agent

    def __call__(self) -> Metrics:
        """One update; returns 0-d tensors, none if it was left out."""
        batch = self.replay.sample()
        index = batch.pop("index")
        batch = batch.to(self.fabric.device, non_blocking=True)
        self.moving = self.moving or list(self.dreamer.buffers())  # to look for them takes longer than to copy them
        held = [buffer.clone() for buffer in self.moving]  # normalisers move in the forward
        output, norm = self.gradients(batch, None)
        apply, well = self.sanity.fine(output.loss, norm, self.fabric._precision.precision == "16-mixed")
        if not well:
            what = story(self.dreamer, output, batch, index, self.replay.num_streams)
            self.sanity.note(what, applied=apply)
        if not apply:
            self.optimizer.zero_grad()
            for buffer, value in zip(self.moving, held, strict=True):
                buffer.copy_(value)
            return {}
        self.apply()  # launched before the latents are waited for
        if well:
            self.sanity.in_a_row = 0
            self.replay.write_latents(index, output.latents)
        return {**output.metrics, "opt/grad_norm": norm}

    def step(self, batch: Any, noise: Noise | None) -> tuple[dict[str, Tensor], Metrics]:
        """Everything on a batch, unjudged; returns packed latents [b, t, .] and metrics."""
        output, norm = self.gradients(batch, noise)
        self.apply()
        return output.latents, {**output.metrics, "opt/grad_norm": norm}

    def gradients(self, batch: Any, noise: Noise | None) -> tuple[TrainOutput, Tensor]:
        """Forward and backward; returns the forward's output and the norm of the whole gradient."""
        b, t = batch[IS_FIRST].shape
        noise = noise or self.dreamer.noise(b, t - 1, self.generator)  # not in the forward, which may be compiled
        output = self.module(batch, None, noise)
        self.fabric.backward(output.loss)
        grads = [p.grad for p in self.dreamer.parameters() if p.grad is not None]
        return output, torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))

    def apply(self) -> None:
        """Optimizer and slow critic."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.dreamer.actor_critic.update_slow_critic()

    def finish(self) -> None:
        """Leave nothing half done: called before the replay is saved."""


@dataclass
class StaticUpdate(Update):
    """The same step with every input and output at a fixed address, as a CUDA graph needs it.

    Batch and noise are copied into buffers, the step runs on them, and its latents are fetched while the next step
    runs: they reach the replay one update later than ``Update`` writes them. Away from a GPU the step runs op by op,
    which is how the tests hold the buffers to ``Update``.
    """

    def __post_init__(self) -> None:
        self.batch: TensorDictBase | None = None
        self.graph: Any = None
        self.side: Any = None  # stream
        self.outputs: tuple[dict[str, Tensor], Metrics]
        self.calls = 0
        self.pending: tuple[Tensor, dict[str, Tensor], Any] | None = None

    def __call__(self) -> Metrics:
        batch = self.replay.sample()  # while the device still works on the step before
        index = batch.pop("index")
        self.fill(batch)
        latents, metrics = self.run()
        judged = {"loss": metrics["loss/total"], "norm": metrics["opt/grad_norm"]}
        before, self.pending = self.pending, (index, *self.fetch({**latents, **judged}))
        self.write(before)
        return metrics

    def fill(self, batch: TensorDictBase) -> None:
        """Copy a batch and fresh noise into the buffers."""
        batch, (b, t) = self.to_device(batch), batch[IS_FIRST].shape
        noise = self.dreamer.noise(b, t - 1, self.generator)
        if self.batch is None:
            self.batch, self.noise = batch.clone(), Noise(*(x.clone() for x in noise))
            return
        for key, value in batch.items(True, True):
            self.batch[key].copy_(value)
        for old, new in zip(self.noise, noise, strict=True):
            old.copy_(new)

    def to_device(self, batch: TensorDictBase) -> TensorDictBase:
        """The batch on the device; a GPU copies it on a stream of its own, beside the step that still runs there."""
        device = self.fabric.device
        if device.type != "cuda":
            return batch.to(device)
        self.side = self.side or torch.cuda.Stream(device)
        with torch.cuda.stream(self.side):
            moved = batch.to(device, non_blocking=True)  # from pinned memory
        waiting = torch.cuda.current_stream(device)
        waiting.wait_stream(self.side)
        for value in moved.values(True, True):  # its memory is not given out again before the waiting stream is done
            value.record_stream(waiting)
        return moved

    def run(self) -> tuple[dict[str, Tensor], Metrics]:
        """The step on the buffers; from the fourth on a CUDA device, the captured one."""
        if self.fabric.device.type != "cuda":
            return self.step(self.batch, self.noise)
        if self.graph is not None:
            self.graph.replay()
            return self.outputs
        self.calls += 1
        if self.calls <= WARM_UP:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                outputs = self.step(self.batch, self.noise)
            torch.cuda.current_stream().wait_stream(side)
            return outputs
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # another thread may act meanwhile
            self.outputs = self.step(self.batch, self.noise)
        self.graph.replay()  # the capture itself computed nothing
        return self.outputs

    def fetch(self, latents: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        """Start copying latents to where the replay is, numbers to the host; the event says when they have come."""
        if self.fabric.device.type != "cuda":
            return latents, None
        stays = self.replay.storage.device.type == "cuda"
        found = {
            key: value.clone() if stays and value.ndim else torch.empty_like(value, device="cpu", pin_memory=True)
            for key, value in latents.items()
        }
        for key, value in found.items():
            if value.device.type == "cpu":
                value.copy_(latents[key], non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return found, event

    def write(self, fetched: tuple[Tensor, dict[str, Tensor], Any] | None) -> None:
        """Write the latents of an earlier step to the replay."""
        if fetched is None:
            return
        index, latents, event = fetched
        if event is not None:
            event.synchronize()
        if self.sanity.fine(latents.pop("loss"), latents.pop("norm"))[1]:
            self.replay.write_latents(index, latents)
        else:  # the step is taken: its weights will not be saved
            self.sanity.problem = BadNumbers(
                "NaN or infinite loss or gradient; without --cuda_graph the run says where"
            )

    def finish(self) -> None:
        fetched, self.pending = self.pending, None
        self.write(fetched)


def as_they_are(fabric: Fabric) -> None:
    """Let the training forward have its inputs in float32 under mixed precision, too.

    Autocast casts what enters each product. Fabric rounds to 16 bits whatever enters the module, also what is a target
    or a random draw: rewards and latent noise would keep eight bits.
    """
    if isinstance(fabric._precision, MixedPrecision):
        fabric._precision.convert_input = lambda data: data  # type: ignore[method-assign]


def compiled(fabric: Fabric, dreamer: Dreamer) -> Any:
    """The agent with a training forward by torch.compile.

    Raises:
        UserError: on a CPU, where that unrolls the scans for many minutes.
    """
    if fabric.device.type == "cpu":
        raise UserError(
            "--compile: is for GPUs; on a CPU it takes many minutes, and C loops are faster: leave it false"
        )
    return torch.compile(dreamer)


def check_capture(fabric: Fabric, optimizer: torch.optim.Optimizer) -> None:
    """Whether the update can be one CUDA graph.

    Raises:
        UserError: not on this device, with this precision or by this optimizer.
    """
    if fabric.device.type != "cuda" or fabric.world_size > 1:
        what = f"{fabric.world_size} devices" if fabric.world_size > 1 else f"the {fabric.device.type}"
        raise UserError(f"--cuda_graph: needs exactly one GPU, and this run is on {what}; leave it false")
    if fabric._precision.precision == "16-mixed":
        raise UserError("--cuda_graph: 16-mixed looks at every loss; take --fabric.precision bf16-mixed or 32-true")
    if not all(group.get("capturable") for group in optimizer.param_groups):
        raise UserError(f"--cuda_graph: {type(optimizer).__name__} is not capturable; take LaProp or capturable: true")

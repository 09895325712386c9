"""One gradient step on one batch, op by op or replayed as one CUDA graph, and the judgement of its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision.amp import MixedPrecision
from tensordict import TensorDictBase
from torch import Tensor, nn

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.dreamer import Dreamer, Noise
from dreamer_lightning.sanity import Sanity, story
from dreamer_lightning.types import IS_FIRST, Metrics, UserError

WARM_UP = 3  # updates before the capture: libraries allocate their workspaces, the optimizer its moments


class Outcome(NamedTuple):
    """Of a step: packed ``latents`` [b, t, .], 0-d ``metrics``, and ``norms`` [p] of the ``parameters``' gradients.

    ``losses`` [b] are means over each sequence, for a replay that wants them.
    """

    latents: dict[str, Tensor]
    metrics: Metrics
    norms: Tensor
    parameters: list[nn.Parameter]
    losses: dict[str, Tensor]


class Sent(NamedTuple):
    """An update that is to be judged by ``numbers``; on a GPU they and the latents have arrived after ``event``."""

    records: Tensor
    batch: Any
    outcome: Outcome
    numbers: Tensor
    event: Any


@dataclass
class Update:
    """Replay a batch, one gradient step on one scalar, write fresher latents back.

    Once it is applied, an update is judged by its loss and the norm of its gradient. On a GPU nothing waits for them:
    they are fetched while the next update runs, together with the latents, which reach the replay then. After a bad
    update its latents stay out of the replay, and ``sanity.problem`` says that its weights must not be saved.

    Args:
        fabric: launched Fabric.
        dreamer: the raw agent.
        module: the agent as Fabric wrapped it, whose forward trains.
        optimizer: of all parameters, as Fabric wrapped it.
        replay: this rank's records.
        generator: source of the training noise.
        late: whether an update is judged during the next one, or at once; None: late on a GPU.
        sanity: keeps the judgements.
    """

    fabric: Fabric
    dreamer: Dreamer
    module: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    replay: Replay
    generator: torch.Generator
    late: bool | None = None
    sanity: Sanity = field(default_factory=Sanity)

    def __post_init__(self) -> None:
        self.late = self.fabric.device.type == "cuda" if self.late is None else self.late
        self.sent: Sent | None = None
        scaled = self.fabric._precision.precision == "16-mixed"  # its scaler minds a gradient that overflows
        self.judged = ("loss/total",) if scaled else ("loss/total", "opt/grad_norm")

    def __call__(self) -> Metrics:
        """One update; returns 0-d tensors."""
        batch = self.replay.sample()  # while the device still works on the update before
        index, batch = batch.pop("index"), self.to_device(batch)
        outcome = self.run(batch)
        before, self.sent = self.sent, self.send(index, batch, outcome)
        self.judge(before)
        if not self.late:
            self.finish()
        return outcome.metrics

    def to_device(self, batch: TensorDictBase) -> TensorDictBase:
        return batch.to(self.fabric.device, non_blocking=True)

    def run(self, batch: TensorDictBase) -> Outcome:
        """The step on a batch that is on the device."""
        return self.step(batch, None)

    def step(self, batch: Any, noise: Noise | None) -> Outcome:
        """Gradients of a batch, and what they change."""
        outcome = self.gradients(batch, noise)
        self.apply()
        return outcome

    def gradients(self, batch: Any, noise: Noise | None) -> Outcome:
        """Forward and backward; the metric ``opt/grad_norm`` is the norm of the whole gradient."""
        b, t = batch[IS_FIRST].shape
        noise = noise or self.dreamer.noise(b, t - 1, self.generator)  # not in the forward, which may be compiled
        output = self.module(batch, None, noise)
        self.fabric.backward(output.loss)
        parameters = [p for p in self.dreamer.parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([p.grad for p in parameters]))  # type: ignore[misc]
        metrics = {**output.metrics, "opt/grad_norm": torch.linalg.vector_norm(norms)}
        losses = {
            name: value.detach().float().reshape(b, -1).mean(1)
            for name, value in (output.losses.items() if self.replay.wants_losses else ())
        }
        return Outcome(output.latents, metrics, norms, parameters, losses)

    def apply(self) -> None:
        """Optimizer and slow critic."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.dreamer.actor_critic.update_slow_critic()

    def numbers(self, outcome: Outcome) -> Tensor:
        """What an update is judged by, the loss first."""
        return torch.stack([outcome.metrics[name].float() for name in self.judged])

    def send(self, index: Tensor, batch: Any, outcome: Outcome) -> Sent:
        """Start copying the latents to where the replay is, and what is judged to the host."""
        numbers = self.numbers(outcome)
        if self.fabric.device.type != "cuda":
            return Sent(index, batch, outcome, numbers, None)
        if self.replay.storage.device.type != "cuda":
            outcome = outcome._replace(latents={key: to_host(value) for key, value in outcome.latents.items()})
        outcome = outcome._replace(losses={name: to_host(value) for name, value in outcome.losses.items()})
        numbers, event = to_host(numbers), torch.cuda.Event()
        event.record()
        return Sent(index, batch, outcome, numbers, event)

    def judge(self, sent: Sent | None) -> None:
        """Write the latents of a good update to the replay; a bad one is the end of the run."""
        if sent is None:
            return
        if sent.event is not None:
            sent.event.synchronize()
        if self.sanity.fine(*sent.numbers.tolist()):
            self.tell(sent.records, sent.outcome)
        else:
            self.sanity.stop(self.story(sent.records, sent.batch, sent.outcome))

    def tell(self, index: Tensor, outcome: Outcome) -> None:
        """Write latents to the replay, and let it hear the losses if it wants them."""
        self.replay.write_latents(index, outcome.latents)
        if outcome.losses:
            starts, streams = index[:, 0] // self.replay.num_streams, index[:, 0] % self.replay.num_streams
            self.replay.after_update(streams, starts, outcome.losses)

    def story(self, index: Tensor, batch: Any, outcome: Outcome) -> str:
        """Where the bad numbers of an update are."""
        norms = dict(zip(outcome.parameters, outcome.norms.tolist(), strict=True))
        return story(self.dreamer, outcome.metrics, norms, batch, index, self.replay.num_streams)

    def finish(self) -> None:
        """Judge the last update: called before anything is saved."""
        sent, self.sent = self.sent, None
        self.judge(sent)


class SkippingUpdate(Update):
    """The same, but judged before it is applied: weights, normalisers and replay are as if a bad update had not been.

    All ranks leave out the same updates. The judgement waits for the device.
    """

    def __call__(self) -> Metrics:
        """One update; returns 0-d tensors, none if it was left out."""
        batch = self.replay.sample()
        index, batch = batch.pop("index"), self.to_device(batch)
        buffers = list(self.dreamer.buffers())
        before = [buffer.clone() for buffer in buffers]  # normalisers move in the forward
        outcome = self.gradients(batch, None)
        numbers = self.numbers(outcome)
        if self.fabric.world_size > 1:
            numbers = torch.as_tensor(self.fabric.all_reduce(numbers, reduce_op="mean"))
        if not self.sanity.fine(*numbers.tolist()):
            self.sanity.skip(self.story(index, batch, outcome))
            self.optimizer.zero_grad()
            torch._foreach_copy_(buffers, before)
            return {}
        self.apply()
        self.tell(index, outcome)
        return outcome.metrics


@dataclass
class StaticUpdate(Update):
    """The same step with every input and output at a fixed address, as a CUDA graph needs it.

    Batch and noise are copied into buffers, and the step runs on them. Away from a GPU it runs op by op, which is how
    the tests hold the buffers to ``Update``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.late = True
        self.batch: TensorDictBase | None = None
        self.graph: Any = None
        self.side: Any = None  # stream
        self.outcome: Outcome
        self.calls = 0

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

    def fill(self, batch: TensorDictBase) -> None:
        """Copy a batch and fresh noise into the buffers."""
        b, t = batch[IS_FIRST].shape
        noise = self.dreamer.noise(b, t - 1, self.generator)
        if self.batch is None:
            self.batch, self.noise = batch.clone(), Noise(*(x.clone() for x in noise))
            return
        for key, value in batch.items(True, True):
            self.batch[key].copy_(value)
        for old, new in zip(self.noise, noise, strict=True):
            old.copy_(new)

    def run(self, batch: TensorDictBase) -> Outcome:
        """The step on the buffers; from the fourth on a CUDA device, the captured one."""
        self.fill(batch)
        if self.fabric.device.type != "cuda":
            return self.step(self.batch, self.noise)
        if self.graph is not None:
            self.graph.replay()
            return self.outcome
        self.calls += 1
        if self.calls <= WARM_UP:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                outcome = self.step(self.batch, self.noise)
            torch.cuda.current_stream().wait_stream(side)
            return outcome
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # another thread may act meanwhile
            self.outcome = self.step(self.batch, self.noise)
        self.graph.replay()  # the capture itself computed nothing
        return self.outcome

    def send(self, index: Tensor, batch: Any, outcome: Outcome) -> Sent:
        if self.replay.storage.device.type == "cuda":  # the next replay of the graph writes to the same addresses
            outcome = outcome._replace(latents={key: value.clone() for key, value in outcome.latents.items()})
        return super().send(index, None, outcome)

    def story(self, index: Tensor, batch: Any, outcome: Outcome) -> str:
        return "NaN or infinite loss or gradient; without --cuda_graph the run says where"


def to_host(value: Tensor) -> Tensor:
    """A copy in page-locked memory, complete once the device's stream has come so far."""
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)


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

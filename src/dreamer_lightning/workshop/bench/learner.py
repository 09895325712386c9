"""Times of one update of an agent, of its parts, of its dreams, of decoding and of acting."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from lightning.fabric import Fabric
from tensordict import TensorDict, TensorDictBase

from dreamer_lightning import kernels
from dreamer_lightning.data.collect import CollectorPolicy
from dreamer_lightning.dreamer import Dreamer
from dreamer_lightning.kernels import native
from dreamer_lightning.planning import Lookahead, Planner
from dreamer_lightning.types import IS_FIRST, IS_LAST, IS_TERMINAL, LATENT, OBS, PREV_ACTION, REWARD, Specs
from dreamer_lightning.updates import StaticUpdate, Update
from dreamer_lightning.workshop.bench import floor
from dreamer_lightning.workshop.bench.timing import Shares, median_ms, samples

Row = dict[str, Any]
PIPELINE = 5  # updates without a wait between them, on a GPU


@dataclass
class Learner:
    """An agent that can be updated on one fixed batch, without a replay.

    Args:
        fabric: launched Fabric.
        dreamer: the raw agent.
        module: the agent as Fabric wrapped it.
        optimizer: as Fabric wrapped it.
        batch: records [b, 1+t] on the device.
    """

    fabric: Fabric
    dreamer: Dreamer
    module: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    batch: TensorDictBase

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """Sequences, trained steps of each, dreams, dreamed steps of each."""
        (b, t), agent = self.batch[IS_FIRST].shape, self.dreamer.actor_critic
        return b, t - 1, agent.starts(b, t - 1), agent.imag_length

    def update(self, static: bool = False) -> Callable[[], Any]:
        """One update of the whole agent; ``static`` replays it as a CUDA graph where there is one."""
        parts = (self.fabric, self.dreamer, self.module, self.optimizer)
        generator = torch.Generator(self.device).manual_seed(0)
        nothing: Any = SimpleNamespace(wants_losses=False)  # no replay
        made = (StaticUpdate if static else Update)(*parts, nothing, generator)
        return lambda: made.run(self.batch)

    def stepwise(self) -> Learner:
        """The same without fast twins, step by step, on weights of its own."""
        twin = copy.deepcopy(self.dreamer)
        twin.zero_grad()
        kernels.restore(twin)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.0)
        return Learner(self.fabric, twin, self.fabric.setup_module(twin), optimizer, self.batch)


def random_batch(specs: Specs, dreamer: Dreamer, b: int, t: int, seed: int = 0) -> TensorDict:
    """Records [b, t] of random numbers in the ranges that the spaces name."""
    generator = torch.Generator().manual_seed(seed)

    def draw(space: Any) -> torch.Tensor:
        shape = (b, t, *space.shape)
        if space.image or space.discrete:
            high = space.classes or 256
            return torch.randint(high, shape, generator=generator).to(getattr(torch, space.dtype))
        return torch.randn(shape, generator=generator).to(getattr(torch, space.dtype))

    rare = lambda: torch.rand(b, t, generator=generator) < 0.002  # noqa: E731
    rssm: Any = dreamer.world_model.rssm
    packed = {key: value.cpu() for key, value in rssm.pack(rssm.initial(b, t)).items()}
    flags = {IS_FIRST: rare(), IS_LAST: rare(), IS_TERMINAL: rare()}
    action = specs.actions.random((b, t), generator)
    reward = torch.rand(b, t, generator=generator)
    obs = {name: draw(space) for name, space in specs.obs.items()}
    return TensorDict({OBS: obs, LATENT: packed, PREV_ACTION: action, REWARD: reward, **flags}, [b, t])


def time_update(learner: Learner, repeats: int, static: bool = False, compiled: bool = False) -> Row:
    """Median time of an update, its spread, and what the first call took on top (compiling or capturing)."""
    update, device = learner.update(static), learner.device
    start = time.perf_counter()
    for _ in range(4 if static else 1):
        update()
    samples(lambda: None, device, 1)  # waits
    first = time.perf_counter() - start
    found = samples(update, device, repeats, warm_up=5, inner=PIPELINE if device.type == "cuda" else 1)
    median = statistics.median(found)
    return {
        "update_ms": 1e3 * median,
        "update_ms_min": 1e3 * min(found),
        "update_ms_max": 1e3 * max(found),
        "compile_s": max(0.0, first - median) if static or compiled else 0.0,
    }


def time_floor(learner: Learner, repeats: int) -> Row:
    """What the products of an update cost alone, and their number of operations.

    The floor has the shapes of the update or, if they are faster, of its step-by-step twin, each product in one piece.
    """
    device, twin = learner.device, learner.stepwise()
    half = learner.fabric._precision.precision.startswith("bf16")
    floors = {}
    with native.unused():  # neither sees into compiled loops
        for name, call in {"floor_update_ms": learner.update(), "floor_steps_ms": twin.update()}.items():
            floors[name] = 1e3 * floor.own_shape_seconds(floor.products(call), device, repeats)
        work = floor.gflop(twin.update())
    peak = floor.peak_rate(device, torch.bfloat16 if half else torch.float32)
    rates = {"gflop": work, "peak_gflops": peak, "peak_rate_floor_ms": 1e3 * work / peak}
    return {"floor_ms": min(floors["floor_update_ms"], floors["floor_steps_ms"]), **floors, **rates}


def time_parts(learner: Learner, repeats: int) -> Row:
    """Mean milliseconds of the parts of an update; they sum to it, but for the waits between them on a GPU."""
    model, agent = learner.dreamer.world_model, learner.dreamer.actor_critic
    shares, update = Shares(learner.device), learner.update()
    sections: list[tuple[str, tuple[Any, str]]] = [
        ("heads_ms", (learner.dreamer, "forward")),  # all of the forward that is nothing of the following
        ("observe_ms", (model.encoder, "forward")),
        ("observe_ms", (model.rssm, "observe")),
        ("imagine_ms", (agent, "imagine")),
        ("heads_ms", (model, "predict")),
        ("backward_ms", (learner.fabric, "backward")),
    ]
    update()
    with shares.watching(sections):
        for _ in range(repeats):
            with shares.section("optimizer_ms"):
                update()
    names = ("observe_ms", "imagine_ms", "heads_ms", "backward_ms", "optimizer_ms")
    return {name: 1e3 * shares.seconds[name] / repeats for name in names}


def time_dreams(learner: Learner, repeats: int) -> Row:
    """Steps dreamed and frames decoded in a second, each alone and without a gradient."""
    dreamer, (b, t, n, h) = learner.dreamer, learner.lengths
    model, agent = dreamer.world_model, dreamer.actor_critic
    rssm: Any = model.rssm
    start, seen, noise = rssm.initial(n), rssm.initial(b, t), dreamer.noise(b, t)

    def dream() -> None:
        with torch.no_grad(), learner.fabric.autocast():
            agent.imagine(start, model, noise.imag, noise.action)

    def decode() -> None:
        with torch.no_grad(), learner.fabric.autocast():
            dreamer.reconstruct(seen)

    milliseconds = (median_ms(call, learner.device, repeats) for call in (dream, decode))
    dreamed, decoded = (1e-3 * x for x in milliseconds)
    return {"imagined_steps_per_s": n * h / dreamed, "decoded_frames_per_s": b * t / decoded}


def time_acting(learner: Learner, repeats: int) -> Row:
    """Median milliseconds of one decision for 1 and for 8 environments, as the collector asks for it."""
    dreamer, found = learner.dreamer, {}

    def act(*args: Any) -> Any:
        with learner.fabric.autocast():
            return dreamer.act(*args)

    generator = torch.Generator(learner.device).manual_seed(0)
    policy = CollectorPolicy(act, dreamer.specs, generator, learner.device)
    for n in (1, 8):
        records = random_batch(dreamer.specs, dreamer, n, 1)[:, 0]
        state = {name: value.cpu() for name, value in dreamer.initial(n).items()}
        data = {**dict(records[OBS].items()), "is_init": torch.zeros(n, 1, dtype=torch.bool)}
        data |= {PREV_ACTION: state.pop(PREV_ACTION), LATENT: state}
        asked = TensorDict(data, [n])
        with torch.no_grad():  # as in the collector
            call = lambda asked=asked: policy(asked.copy())  # noqa: E731
            found[f"act_ms_{n}"] = median_ms(call, learner.device, max(50, 10 * repeats), warm_up=10)
    return found


def time_planning(learner: Learner, planner: Planner, repeats: int) -> Row:
    """Median milliseconds of one decision of a planner for one environment."""
    player, generator = Lookahead(learner.dreamer, planner), torch.Generator(learner.device).manual_seed(0)
    records = random_batch(player.specs, learner.dreamer, 1, 1)[:, 0].to(learner.device)
    first, state = torch.zeros(1, dtype=torch.bool, device=learner.device), player.initial(1)
    obs = dict(records[OBS].items())

    def call() -> None:
        with learner.fabric.autocast():
            player.act(obs, state, first, generator)

    taken = median_ms(call, learner.device, max(10, repeats), warm_up=3)
    return {"plan_ms_1": taken, "planner": type(planner).__name__}

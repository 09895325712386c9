"""The update with fixed buffers, which a CUDA graph needs, equals the plain one."""

import copy

import pytest
import torch
from lightning.fabric import Fabric
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import tiny
from dreamer_lightning.data.replay import Replay
from dreamer_lightning.dreamer import Noise
from dreamer_lightning.nets.decoders import DictDecoder
from dreamer_lightning.nets.encoders import DictEncoder
from dreamer_lightning.optim import LaProp
from dreamer_lightning.types import Space, Specs, UserError
from dreamer_lightning.updates import StaticUpdate, Update, check_capture, compiled

STREAMS, STEPS, LENGTH = 2, 40, 6
IMAGES = Specs({"camera": Space((48, 48, 3), "uint8"), "height": Space(())}, tiny.SPECS.action)


def make(kind, accelerator="cpu", precision="32-true", lr=1e-3, forward=lambda dreamer: dreamer):
    """An update over a replay of random records, the same for the same arguments; ``forward`` is what Fabric wraps."""
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    dreamer = tiny.agent()
    dreamer = dreamer.to(fabric.device)
    module, optimizer = fabric.setup(
        forward(dreamer), LaProp([p for p in dreamer.parameters() if p.requires_grad], lr=lr, warmup=0)
    )
    replay = Replay(capacity=1000, batch_size=4, length=LENGTH, num_streams=STREAMS, seed=1)
    rssm = dreamer.world_model.rssm
    records = []
    for stream in range(STREAMS):
        latent = {key: value[0].cpu() for key, value in rssm.pack(rssm.initial(1, STEPS)).items()}
        flat = tiny.records(1, STEPS, seed=stream)
        obs = {key: value[0] for key, value in flat.pop("obs").items()}
        records.append({**{key: value[0] for key, value in flat.items()}, "obs": obs, "latent": latent})
    replay.extend(records)
    generator = torch.Generator(fabric.device).manual_seed(2)
    return kind(fabric, dreamer, module, optimizer, replay, generator)


def stored(update):
    """The deterministic states in the replay."""
    return update.replay.data["latent", "deter"][:, :STEPS]


def assert_moved_alike(one, two, start, share, atol):
    """Weights have moved, and by the same, but for a share of the way."""
    moved = 0.0
    for (name, p), q in zip(one.dreamer.named_parameters(), two.dreamer.parameters(), strict=True):
        way = (p - start[name]).norm()
        assert (p - q).norm() <= share * way + 1e-6, name
        moved = max(moved, way.item())
    assert moved > 1e-3
    torch.testing.assert_close(stored(one), stored(two), rtol=1e-3, atol=atol)


def assert_same(one, two, **tolerance):
    for (name, p), q in zip(one.dreamer.state_dict().items(), two.dreamer.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda text, name=name: f"{name}: {text}", **tolerance)
    torch.testing.assert_close(stored(one), stored(two), **tolerance)


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_forward_changes_nothing_but_the_order_of_sums():
    """As ``--compile`` has it: the compiled module below Fabric's, over the batches of a replay."""
    calls = []

    def backend(graph, inputs):
        calls.append(len(graph.graph.nodes))
        return graph

    plain, graph = make(Update), make(Update, forward=lambda dreamer: torch.compile(dreamer, backend=backend))
    start = copy.deepcopy(plain.dreamer.state_dict())
    for i in range(3):
        a, b = plain(), graph()
        assert a.keys() == b.keys()
        if not i:
            for key in a:
                torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5, msg=key)
    assert len(calls) == 1  # one graph, without a break, made once
    assert_moved_alike(plain, graph, start, 0.05, atol=2e-4)


def test_compiling_for_a_cpu_is_refused():
    update = make(Update)
    with pytest.raises(UserError, match="--compile: is for GPUs"):
        compiled(update.fabric, update.dreamer)


def test_static_buffers_change_nothing():
    plain, static = make(Update), make(StaticUpdate)
    for _ in range(6):
        a, b = plain(), static()
        static.finish()  # otherwise its latents come one update later
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert_same(plain, static, rtol=0, atol=0)
    assert stored(plain).any()


def test_latents_of_a_step_are_written_during_the_next():
    static = make(StaticUpdate)
    static()
    assert not stored(static).any()
    static()
    written = stored(static).clone()
    assert written.any()
    static.finish()
    assert not torch.equal(written, stored(static))
    static.finish()  # nothing is left


def test_capture_is_refused_where_it_cannot_be():
    update = make(Update)
    with pytest.raises(UserError, match="needs exactly one GPU, and this run is on the cpu"):
        check_capture(update.fabric, update.optimizer)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "share", "tolerance"), [("32-true", 0.05, 1e-4), ("bf16-mixed", 0.2, 2e-2)])
def test_captured_updates_equal_plain_ones(precision, share, tolerance):
    plain, captured = (make(kind, "cuda", precision, lr=1e-4) for kind in (Update, StaticUpdate))
    check_capture(captured.fabric, captured.optimizer)
    start = copy.deepcopy(plain.dreamer.state_dict())
    for _ in range(10):
        a, b = plain(), captured()
        captured.finish()
        torch.testing.assert_close(a["loss/total"], b["loss/total"], rtol=share, atol=share)
    assert captured.graph is not None
    assert_moved_alike(plain, captured, start, share, atol=tolerance)


class Devices(TorchDispatchMode):
    """Operations that read or write on more than one device."""

    def __init__(self):
        super().__init__()
        self.mixed, self.count = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += 1
        found = {x.device.type for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)}
        if len(found) > 1:
            self.mixed.append(str(func))
        return out


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
@pytest.mark.parametrize("specs", [tiny.SPECS, tiny.DISCRETE, IMAGES], ids=["vectors", "discrete", "images"])
def test_an_update_never_waits_for_its_device(specs, gradient, monkeypatch):
    """On the meta device no number is known: whatever asks for one, which would stall a GPU and break a CUDA graph,
    fails there; so do operations between it and the host."""
    dreamer = tiny.agent(specs, {"decoder": DictDecoder, "encoder": DictEncoder}, gradient=tiny.GRADIENTS[gradient])
    batch, noise = tiny.batch(dreamer), dreamer.noise(4, 6)
    batch = tree_map(lambda x: x.to("meta"), batch)
    dreamer = dreamer.to("meta")
    optimizer = LaProp([p for p in dreamer.parameters() if p.requires_grad])
    update = StaticUpdate(Fabric(accelerator="cpu"), dreamer, dreamer, optimizer, None, None)
    noise = Noise(*(x.to("meta") for x in noise))
    update.step(batch, noise)
    for name in ("as_tensor", "tensor"):  # would copy a number from the host; on meta there is nothing to copy
        monkeypatch.setattr(torch, name, lambda value, *_, name=name, **__: pytest.fail(f"torch.{name}({value})"))
    with Devices() as devices:
        update.step(batch, noise)
    assert devices.count > 1000
    assert not devices.mixed

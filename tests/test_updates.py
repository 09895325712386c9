"""The update with fixed buffers, which a CUDA graph needs, equals the plain one."""

import copy
from types import SimpleNamespace

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
from dreamer_lightning.types import BadNumbers, Space, Specs, UserError
from dreamer_lightning.updates import SkippingUpdate, StaticUpdate, Update, check_capture, compiled

STREAMS, STEPS, LENGTH = 2, 40, 6
IMAGES = Specs({"camera": Space((48, 48, 3), "uint8"), "height": Space(())}, tiny.SPECS.action)


def make(
    kind, accelerator="cpu", precision="32-true", lr=1e-3, forward=lambda dreamer: dreamer, memory=Replay, **options
):
    """An update over a replay of random records, the same for the same arguments; ``forward`` is what Fabric wraps."""
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    dreamer = tiny.agent()
    dreamer = dreamer.to(fabric.device)
    module, optimizer = fabric.setup(
        forward(dreamer), LaProp([p for p in dreamer.parameters() if p.requires_grad], lr=lr, warmup=0)
    )
    replay = memory(capacity=1000, batch_size=4, length=LENGTH, num_streams=STREAMS, seed=1)
    rssm = dreamer.world_model.rssm
    records = []
    for stream in range(STREAMS):
        latent = {key: value[0].cpu() for key, value in rssm.pack(rssm.initial(1, STEPS)).items()}
        flat = tiny.records(1, STEPS, seed=stream)
        obs = {key: value[0] for key, value in flat.pop("obs").items()}
        records.append({**{key: value[0] for key, value in flat.items()}, "obs": obs, "latent": latent})
    replay.extend(records)
    generator = torch.Generator(fabric.device).manual_seed(2)
    return kind(fabric, dreamer, module, optimizer, replay, generator, **options)


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


OTHERS = {"static": (StaticUpdate, {}), "late": (Update, {"late": True}), "skipping": (SkippingUpdate, {})}


@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_update_computes_the_same(name):
    kind, options = OTHERS[name]
    plain, other = make(Update), make(kind, **options)
    for _ in range(6):
        a, b = plain(), other()
        other.finish()  # otherwise its latents may come one update later
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert_same(plain, other, rtol=0, atol=0)
    assert stored(plain).any()
    assert list(other.sanity.losses) == list(plain.sanity.losses) != []


class Hearing(Replay):
    def after_update(self, streams, starts, losses):
        self.heard = (streams.tolist(), starts.tolist(), losses)


@pytest.mark.parametrize("name", ["plain", *OTHERS])
def test_a_replay_hears_the_losses_of_each_sequence_if_it_wants_to(name):
    kind, options = (OTHERS | {"plain": (Update, {})})[name]
    update, deaf = make(kind, memory=Hearing, **options), make(kind, **options)
    drawn = make(kind).replay.sample()["index"][:, 0].tolist()
    metrics, same = update(), deaf()
    for each in (update, deaf):
        each.finish()
    assert all(torch.equal(metrics[key], same[key]) for key in same)
    streams, starts, losses = update.replay.heard
    assert [start * STREAMS + stream for stream, start in zip(streams, starts, strict=True)] == drawn
    for key, value in losses.items():
        assert value.shape == (4,)
        torch.testing.assert_close(value.mean(), metrics[f"loss/{key}"])
    assert {"reward", "dyn", "policy"} <= losses.keys()


@pytest.mark.parametrize("name", ["static", "late"])
def test_an_update_is_judged_and_its_latents_are_written_during_the_next(name):
    kind, options = OTHERS[name]
    update = make(kind, **options)
    first = float(update()["loss/total"])
    assert not stored(update).any()
    assert not update.sanity.losses
    update()
    written = stored(update).clone()
    assert written.any()
    assert list(update.sanity.losses) == [first]
    update.finish()
    assert not torch.equal(written, stored(update))
    assert len(update.sanity.losses) == 2
    update.finish()  # nothing is left
    assert len(update.sanity.losses) == 2


def test_on_a_cpu_latents_are_in_the_replay_before_the_next_batch_is_drawn():
    update = make(Update)
    update()
    assert stored(update).any()
    assert update.sent is None


def spoil(update, what):
    """Make the next updates bad: in their loss alone, in their gradient, or in the statistics of returns."""
    dreamer = update.dreamer
    if what == "loss":
        forward = update.module

        def bad(*args):
            output = forward(*args)
            return output._replace(metrics=output.metrics | {"loss/total": output.metrics["loss/total"] * torch.nan})

        update.module = bad
    elif what == "gradient":
        next(dreamer.world_model.reward.parameters()).register_hook(lambda grad: grad * torch.inf)
    else:
        dreamer.actor_critic.return_norm.range.fill_(torch.nan)


@pytest.mark.parametrize("what", ["loss", "gradient", "normaliser"])
@pytest.mark.parametrize("late", [False, True])
def test_a_bad_update_is_found_and_its_latents_stay_out_of_the_replay(what, late):
    update = make(Update, late=late)
    update()
    update.finish()
    before = stored(update).clone()
    spoil(update, what)
    update()
    assert (update.sanity.problem is None) == late
    update()
    assert isinstance(update.sanity.problem, BadNumbers)
    update.finish()
    assert torch.equal(stored(update), before)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_skipped_update_is_as_if_it_had_not_been(what):
    update = make(SkippingUpdate)
    update()
    update()  # the first moves nothing but moments
    before = copy.deepcopy((update.dreamer.state_dict(), update.optimizer.state_dict()["state"], stored(update)))
    spoil(update, what)
    assert update() == {}
    after = (update.dreamer.state_dict(), update.optimizer.state_dict()["state"], stored(update))
    for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
        assert torch.equal(torch.as_tensor(old), torch.as_tensor(new))
    assert update.sanity.skipped == 1
    assert update.sanity.problem is None


def test_gradients_that_overflow_under_a_scaler_are_the_scalers_business():
    update = make(Update)
    update.fabric._precision.precision = "16-mixed"
    update.__post_init__()
    spoil(update, "gradient")
    update()
    assert update.sanity.problem is None


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
    replay = SimpleNamespace(wants_losses=False)
    update = StaticUpdate(Fabric(accelerator="cpu"), dreamer, dreamer, optimizer, replay, None)
    noise = Noise(*(x.to("meta") for x in noise))
    update.step(batch, noise)
    for name in ("as_tensor", "tensor"):  # would copy a number from the host; on meta there is nothing to copy
        monkeypatch.setattr(torch, name, lambda value, *_, name=name, **__: pytest.fail(f"torch.{name}({value})"))
    with Devices() as devices:
        update.step(batch, noise)
    assert devices.count > 1000
    assert not devices.mixed

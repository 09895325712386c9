"""The bench: its clocks and its floor on things whose cost is known, and the whole command on the debug overlay."""

import json
import time

import pytest
import torch
from torch import nn

from dreamer_lightning import cli
from dreamer_lightning.kernels import native
from dreamer_lightning.types import Size, Space, Specs, UserError
from dreamer_lightning.workshop.bench import floor, timing
from dreamer_lightning.workshop.bench.baseline import Plan, build_learner
from dreamer_lightning.workshop.bench.system import LoopWatch

CPU = torch.device("cpu")
MODE = "eager" if native.load() else "kernels"
WALKER = Specs({"orientations": Space((14,)), "height": Space(()), "velocity": Space((9,))}, {"action": Space((6,))})
FIELDS = {  # what the project's tables are made of
    *(
        "update_ms",
        "floor_ms",
        "update_floor_ratio",
        "gflop",
        "peak_rate_floor_ms",
        "imagined_steps_per_s",
    ),
    *("decoded_frames_per_s", "act_ms_1", "act_ms_8", "replay_sample_ms", "env_steps_per_s", "loop_env_steps_per_s"),
    *("update_share", "peak_rss_mb", "compile_s", "params", "device", "precision", "mode"),
}
PARTS = ("observe_ms", "imagine_ms", "heads_ms", "backward_ms", "optimizer_ms")


def test_the_command_measures_a_config_beside_torchrl(capsys):
    args = ["bench", "--config", "dmc.yaml", "--config", "debug.yaml", "--env.task", "cartpole_balance", "--json"]
    args += ["--baseline", "torchrl", "--repeats", "2", "--seconds", "0.1", "--replay_steps", "500"]
    args += ["--planner", "CEM", "--planner.samples", "24", "--planner.elites", "8", "--planner.policy_plans", "4"]
    assert cli.main(args) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    (own,) = (row for row in rows if row["default"])
    assert own.keys() >= FIELDS
    assert all(own[name] > 0 for name in FIELDS - {"compile_s", "device", "precision", "mode"})
    assert (own["device"], own["precision"], own["mode"], own["compile_s"]) == ("cpu", "32-true", MODE, 0)
    assert own["update_floor_ratio"] == pytest.approx(own["update_ms"] / own["floor_ms"])
    assert own["floor_ms"] < own["update_ms"]
    assert all(own[name] > 0 for name in PARTS)
    assert 0.3 < sum(own[name] for name in PARTS) / own["update_ms"] < 3  # of other updates, a few at a time
    assert 0 < own["update_share"] <= 1
    assert own["planner"] == "CEM"
    assert own["plan_ms_1"] > own["act_ms_1"]
    (other,) = (row for row in rows if row["system"] == "torchrl")
    assert other["params"] == own["params"]
    assert other["update_ms"] > 0
    assert "bench: floor ..." in err


@pytest.mark.gpu
def test_the_command_times_a_captured_update(capsys):
    args = ["bench", "--config", "dmc.yaml", "--config", "debug.yaml", "--env.task", "cartpole_balance", "--json"]
    args += ["--cuda_graph", "--baseline", "torchrl", "--repeats", "2", "--seconds", "0.1", "--replay_steps", "500"]
    assert cli.main(args) == 0
    own, other = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (own["device"], own["mode"], own["default"]) == ("cuda", "cuda_graph", True)
    assert own["compile_s"] > 0
    assert own["peak_gpu_mb"] > 0
    assert other["mode"] == "compiled+cuda_graph"


def test_several_devices_are_refused(capsys):
    assert cli.main(["bench", "--config", "dmc.yaml", "--fabric.devices", "2"]) == 2
    assert "--fabric.devices" in capsys.readouterr().err


def test_a_section_pays_for_itself_alone():
    class Work:
        def whole(self):
            time.sleep(0.02)
            self.part()

        def part(self):
            time.sleep(0.05)

    work, shares = Work(), timing.Shares(CPU)
    with shares.watching([("part", (work, "part"))]), shares.section("whole"):
        work.whole()
    assert 0.05 <= shares.seconds["part"] < 0.07
    assert 0.02 <= shares.seconds["whole"] < 0.045
    assert "part" not in vars(work)


def test_a_rate_goes_on_for_as_long_as_told():
    start = time.perf_counter()
    assert timing.rate(lambda: time.sleep(0.01) or 3, CPU, 0.1) == pytest.approx(300, rel=0.3)
    assert time.perf_counter() - start > 0.1


def perceptron(n: int = 32):
    net = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10))
    x = torch.randn(n, 20)
    return lambda: net(x).sum().backward()


def test_the_products_of_a_perceptron_are_counted():
    """Forward two, backward the two weights' and the inner input's; the input itself needs no gradient."""
    counts = floor.products(perceptron())
    assert sum(counts.values()) == 5
    tensors = [[x for x in args if isinstance(x, floor.Like)] for _, args, _ in counts]
    shapes = sorted(tuple(sorted({side for x in found for side in x.shape})) for found in tensors)
    assert shapes == [(10, 30, 32)] * 3 + [(20, 30, 32)] * 2
    assert floor.gflop(perceptron()) == pytest.approx(2e-9 * 32 * (2 * 20 * 30 + 3 * 30 * 10))


def test_the_products_inside_an_own_backward_are_counted():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return torch.mm(x, w, out=x.new_empty(len(x), w.shape[1]))

        @staticmethod
        def backward(ctx, grad):
            x, w = ctx.saved_tensors
            return None, torch.bmm(x.t().unsqueeze(0), grad.unsqueeze(0))[0]

    weight = torch.randn(6, 3, requires_grad=True)
    counts = floor.products(lambda: Own.apply(torch.randn(5, 6), weight).sum().backward())
    assert {str(operation) for operation, _, _ in counts} == {"aten.mm", "aten.bmm"}
    assert floor.own_shape_seconds(counts, CPU, repeats=1) > 0


def test_convolutions_are_timed_with_their_strides_and_options():
    conv, image = nn.Conv2d(3, 8, 5, stride=2, padding=2), torch.randn(2, 3, 16, 16)
    counts = floor.products(lambda: conv(image.contiguous(memory_format=torch.channels_last)).sum().backward())
    assert {str(operation) for operation, _, _ in counts} == {"aten.convolution", "aten.convolution_backward"}
    assert floor.own_shape_seconds(counts, CPU, repeats=1) > 0


def test_torchrls_learner_has_our_size():
    stepper = build_learner(Plan(WALKER, Size(), 15), CPU)
    assert sum(p.numel() for p in stepper.loss_module.parameters()) == 640_867  # as counted from the reference


def test_torchrls_learner_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="--baseline torchrl"):
        Plan(Specs(WALKER.obs, {"left": Space((1,)), "right": Space((1,))}), Size(), 15)


def test_the_loops_shares_are_taken_over_whole_rounds():
    from types import SimpleNamespace

    watch, clocks = LoopWatch(warm_up=0), SimpleNamespace(env_step=0)
    timers = {"collect": 0.0, "train": 0.0, "evaluate": 0.0, "callbacks": 0.0}
    for _ in range(4):
        clocks.env_step += 8
        time.sleep(0.01)
        timers["collect"] += 0.01
        for _ in range(2):
            time.sleep(0.02)
            timers["train"] += 0.02
            watch.on_train_batch_end(SimpleNamespace(clocks=clocks, timers=timers))
    row = watch.row()
    assert row["update_share"] == pytest.approx(0.8, abs=0.1)
    assert row["loop_env_steps_per_s"] == pytest.approx(8 / 0.05, rel=0.2)
    assert LoopWatch().row() == {}

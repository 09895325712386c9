"""The queue of runs: which row is next, what is kept of it, what a stop or a failure leaves behind."""

from __future__ import annotations

import csv
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamer_lightning import config
from dreamer_lightning.nets.rssm import BlockRSSM
from dreamer_lightning.types import Latent

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("campaign", ROOT / "benchmarks" / "campaign.py")
campaign = importlib.util.module_from_spec(spec)
sys.modules["campaign"] = campaign  # its dataclass looks its own module up
spec.loader.exec_module(campaign)


def variants():
    """The classes beside the campaign's own overlays."""
    spec = importlib.util.spec_from_file_location("variants", ROOT / "benchmarks" / "overlays" / "variants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN = """
import pathlib, sys, time
folder, steps, code = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text("seed: 0")
(folder / "metrics.csv").write_text("env_step,seconds" + chr(10) + f"{steps},1.5" + chr(10))
print("the last line of the log")
sys.exit(code)
"""


@pytest.fixture
def paths(tmp_path: Path):
    return campaign.Paths(tmp_path / "campaign.csv", tmp_path / "runs", tmp_path / "results")


def queue(paths, *rows: str) -> None:
    paths.queue.write_text("\n".join(["task,seed,overlay,env_steps,state,commit", *rows]) + "\n")


def states(paths) -> list[str]:
    return [row["state"] for row in campaign.read(paths.queue)]


def fake(monkeypatch, reached: dict[str, int], code: int = 0) -> list[tuple[str, str]]:
    """Rows do not train but write that they reached so many env steps; returns the (task, env_steps) that ran."""
    ran = []

    def command(row, run, threads, seconds):
        ran.append((row["task"], row["env_steps"]))
        return [sys.executable, "-c", RUN, str(run), str(reached.get(row["task"], row["env_steps"])), str(code)]

    monkeypatch.setattr(campaign, "command", command)
    return ran


def test_rows_run_in_order_and_are_kept(paths, monkeypatch, capsys):
    queue(
        paths,
        "a,0,imag16,50,done,x",
        "b,0,imag16,50,open,",
        "c,0,gpu,50,gpu,",
        "b,0,imag16,100,open,",
        "d,1,mix,9,blocked,",
    )
    ran = fake(monkeypatch, {})
    campaign.work(paths, 20, 1, 1, commit=False, gpu=False)
    assert ran == [("b", "50"), ("b", "100")]
    assert states(paths) == ["done", "done", "gpu", "done", "blocked"]
    assert campaign.read(paths.queue)[1]["commit"].rstrip("+") == campaign.git("rev-parse", "--short", "HEAD")
    kept = paths.results / "b" / "imag16" / "seed0"
    assert {path.name for path in kept.iterdir()} == {"config.yaml", "metrics.csv"}
    assert "100,1.5" in (kept / "metrics.csv").read_text()
    assert "done at 100 of 100" in capsys.readouterr().out


def test_two_side_by_side_never_share_a_run(paths, monkeypatch):
    queue(paths, "b,0,imag16,50,open,", "b,0,imag16,100,open,", "b,1,imag16,50,open,", "c,0,gpu,9,gpu,")
    ran = fake(monkeypatch, {})
    campaign.work(paths, 20, 2, 1, commit=False, gpu=True)
    assert states(paths) == ["done"] * 4
    assert ran.index(("b", "50")) < ran.index(("b", "100"))


def test_cut_runs_are_paused_and_failed_ones_say_why(paths, monkeypatch, capsys):
    queue(paths, "b,0,imag16,50,open,")
    fake(monkeypatch, {"b": 20})
    campaign.work(paths, 20, 1, 1, commit=False, gpu=False)
    assert states(paths) == ["paused"]
    assert "20,1.5" in (paths.results / "b/imag16/seed0/metrics.csv").read_text()
    fake(monkeypatch, {}, code=2)
    campaign.work(paths, 20, 1, 1, commit=False, gpu=False)
    assert states(paths) == ["failed"]
    assert "the last line of the log" in capsys.readouterr().out


def test_a_running_row_is_taken_again_only_when_its_process_is_gone(paths):
    queue(paths, "b,0,imag16,50,running,x")
    number, before, held = campaign.take(paths, "y", False, set())
    assert (number, before["commit"]) == (0, "x")
    assert campaign.take(paths, "y", False, set()) is None
    held.close()
    again = campaign.take(paths, "y", False, set())
    assert again[0] == 0
    again[2].close()


def test_a_stop_pauses_what_runs(paths, monkeypatch):
    queue(paths, "b,0,imag16,50,open,", "c,0,imag16,50,open,")
    sleep = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); p.mkdir(); (p / 'began').touch(); time.sleep(60)"
    monkeypatch.setattr(campaign, "command", lambda row, run, *_: [sys.executable, "-c", sleep, str(run)])
    began = paths.runs / "b/imag16/seed0/began"
    real = campaign.time.sleep

    def interrupted(seconds):
        real(0.05)
        if began.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(campaign.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        campaign.work(paths, 60, 1, 1, commit=False, gpu=False)
    assert states(paths) == ["paused", "open"]


def test_each_row_is_one_commit(paths, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(campaign, "git", lambda *words: said.append(words) or "")
    fake(monkeypatch, {})
    queue(paths, "b,0,imag16,50,open,")
    campaign.work(paths, 20, 1, 1, commit=True, gpu=False)
    files = (str(paths.results / "b/imag16/seed0"), str(paths.queue))
    assert said[-2:] == [
        ("add", "--", *files),
        ("commit", "-q", "-m", "Campaign: b/imag16/seed0 to 50 env steps", "--", *files),
    ]


def test_a_run_goes_on_from_where_it_was(paths):
    row = {"task": "reacher_easy", "seed": "3", "overlay": "imag16", "env_steps": "100", "state": "", "commit": ""}
    run = paths.runs / campaign.folder(row)
    words = campaign.command(row, run, 1, 60)
    assert words[3:6] == ["fit", "--config", "dmc.yaml"]
    assert words[words.index("--max_time") + 1] == "60"
    assert not Path(words[words.index("--run_dir") + 1]).is_absolute()
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    (run / "metrics.csv").write_text("env_step,seconds\n50,40.0\n")
    words = campaign.command(row, run, 1, 60)
    assert words[3:5] == ["fit", "--resume"]
    assert words[words.index("--max_time") + 1] == "100", "wall-clock counts over all sessions"


def test_the_queue_is_well_formed_and_its_commands_parse(monkeypatch):
    with (ROOT / "benchmarks" / "campaign.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["task", "seed", "overlay", "env_steps", "state", "commit"]
    runs = [(row["task"], row["overlay"], row["seed"], row["env_steps"]) for row in rows]
    assert len(set(runs)) == len(runs)
    for row in rows:
        assert row["state"] in {"open", "running", "paused", "done", "failed", "gpu", "blocked"}
        assert row["overlay"] in campaign.OVERLAYS or row["state"] == "blocked"
        assert int(row["env_steps"]) > 0
    monkeypatch.chdir(ROOT)
    for line in campaign.OVERLAYS.values():
        name, *words = shlex.split(line.format(task="sticky_cartpole"))
        words += ["--seed", "1", "--max_time", "60", "--threads", "1", "--run_dir", "runs/x"]
        options = config.parse(name, words)[1]
        assert options.get("options", options)["seed"] == 1


def test_a_run_started_by_hand_finds_its_row(paths, tmp_path):
    run = tmp_path / "by_hand"
    run.mkdir()
    (run / "config.yaml").write_text("{seed: 1, env: {init_args: {task: b}}}")
    (run / "metrics.csv").write_text("env_step,seconds\n60,40.0\n")
    queue(paths, "b,1,imag16,50,open,", "b,0,imag16,50,open,", "b,1,imag16,100,open,")
    assert campaign.adopt(paths, run, "imag16", "abc", commit=False) == "done"
    assert states(paths) == ["done", "open", "open"]
    assert campaign.read(paths.queue)[0]["commit"] == "abc"
    assert (paths.results / "b" / "imag16" / "seed1" / "config.yaml").is_file()
    row = campaign.read(paths.queue)[2]
    assert campaign.resumable(row, paths.runs / campaign.folder(row)), "the longer row goes on with it"
    with pytest.raises(SystemExit, match="is a run already"):
        campaign.adopt(paths, run, "imag16", "abc", commit=False)
    with pytest.raises(SystemExit, match="no open row b, 1, mix"):
        campaign.adopt(paths, run, "mix", "abc", commit=False)


def test_a_task_may_stand_inside_the_command(paths):
    row = {"task": "sticky_cartpole", "seed": "0", "overlay": "sticky-deterministic", "env_steps": "9"}
    words = campaign.command(row, paths.runs / campaign.folder(row), 1, 60)
    assert words[words.index("--env.path") + 1] == "variants:sticky_cartpole"
    assert "--env.task" not in words


def test_without_memory_deter_counts_for_nothing():
    torch.manual_seed(0)
    sizes = {"deter": 16, "hidden": 8, "stoch": 3, "classes": 4, "blocks": 2}
    full, cut = BlockRSSM(2, 5, **sizes), variants().Memoryless(2, 5, **sizes)
    cut.load_state_dict(full.state_dict())
    stoch, action, embed = full.unpack(full.pack(full.initial(1))).stoch, torch.ones(1, 3, 2), torch.randn(1, 3, 5)
    none = torch.zeros(1, 3, dtype=torch.bool)
    noise = full.noise(1, 3)
    pasts = [Latent(torch.zeros(1, 16), stoch), Latent(torch.ones(1, 16), stoch)]
    seen = [[rssm.observe(past, action, embed, none, noise)[0].deter for past in pasts] for rssm in (full, cut)]
    assert not torch.allclose(*seen[0])
    assert torch.equal(*seen[1])
    torch.testing.assert_close(seen[1][0][:, 0], seen[0][0][:, 0])  # the first step, from nothing, is the same
    with torch.no_grad():  # so it acts and dreams, too
        acted = [cut.observe_step(past, action[:, 0], embed[:, 0], none[:, 0], noise[:, 0])[0].deter for past in pasts]
        dreams = [cut.imagine(past, lambda feat, step: action[:, 0], noise)[0].deter[:, 1:] for past in pasts]
    assert torch.equal(*acted)
    assert torch.equal(*dreams)


def test_deterministic_latents_take_the_most_probable_class():
    latents = variants().Deterministic(1, 3, unimix=0.0)
    params = torch.tensor([[[0.0, 2.0, 1.0]]], requires_grad=True)
    draws = [latents.draw(params, torch.tensor([[noise]])) for noise in (0.01, 0.99)]
    assert [draw.tolist() for draw in draws] == [[[0, 1, 0]]] * 2
    (draws[0] * torch.tensor([1.0, 0.0, 0.0])).sum().backward()
    probs = torch.softmax(params.detach(), -1)[0, 0]
    assert torch.allclose(params.grad[0, 0], probs[0] * (torch.tensor([1.0, 0, 0]) - probs)), "that of the probability"


def test_sticky_actions_repeat():
    env = variants().sticky_cartpole()
    env.reset(seed=0)
    assert env.get_wrapper_attr("repeat_action_probability") == 0.25
    env.close()


def test_help_of_the_script():
    command = [sys.executable, str(ROOT / "benchmarks" / "campaign.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--max_time" in done.stdout

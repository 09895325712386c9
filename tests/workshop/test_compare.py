"""The command ``compare``: run folders and CSV files beside published curves, in one table."""

from __future__ import annotations

import csv
from pathlib import Path

import imageio.v3 as imageio
import pytest

from dreamer_lightning import cli
from dreamer_lightning.workshop.results.published import METHODS, WINDOWS, published
from runfolders import write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, scores in enumerate(([100.0] * 5 + [900.0] * 20, [200.0] * 5 + [1000.0] * 20)):
        write_run(tmp_path / "ours" / f"seed{seed}", scores, seed)
    return tmp_path / "ours"


def test_seeds_that_did_not_come_so_far_are_told(capsys, tmp_path: Path):
    write_run(tmp_path / "ours" / "seed0", [100.0] * 9)
    write_run(tmp_path / "ours" / "seed1", [300.0] * 30, seed=1)
    said = ask(capsys, str(tmp_path / "ours"))
    line = next(line for line in said.splitlines() if "ours" in line and "0,1" in line)
    assert "200.0" in line
    assert "300.0 (n=1)" in line


def ask(capsys, *args: str) -> str:
    assert cli.main(["compare", *args]) == 0
    return capsys.readouterr().out


def test_the_table_of_two_seeds(capsys, runs: Path, tmp_path: Path):
    said = ask(capsys, str(runs), "--out", str(tmp_path / "table.csv"))
    with (tmp_path / "table.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    ours = table["ours"]
    assert (float(ours["score@10000"]), float(ours["score@50000"])) == (150, 950)
    assert (float(ours["iqm_low@50000"]), float(ours["iqm_high@50000"])) == (900, 1000)
    assert ours["score@100000"] == ours["iqm@100000"] == ""
    assert float(ours["mean_score"]) == (150 + 4 * 950) / 5
    assert (ours["steps_to_50%"], ours["episodes_to_50%"]) == ("20000.0", "10.0")
    assert float(ours["hours"]) == pytest.approx(1500 / 3600)
    assert (ours["seeds"], ours["repeat"], ours["train_ratio"], ours["size"], ours["num_envs"]) == (
        "0,1", "2", "512", "1m", "4",
    )  # fmt: skip
    assert table["dreamerv3"]["version"] == "V3-2023 dynamics"
    for text in ("950.0", "950 [900-1000]", "20K (10)", "V3 imag_last 16", "evaluation, 10 episodes", "wrote "):
        assert text in said, said
    assert max(map(len, said.splitlines()[:-1])) <= 130


def test_a_run_called_like_a_published_method(capsys, tmp_path: Path):
    write_run(tmp_path / "sac" / "seed0", [5.0] * 50, algo="sac", library="stable-baselines3 2.9")
    ask(capsys, str(tmp_path / "sac"), "--out", str(tmp_path / "table.csv"))
    with (tmp_path / "table.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["sac (here)"]["score@100000"]) == 5
    assert float(table["sac"]["score@100000"]) > 500
    every = {row.label for name in WINDOWS for task in ("reacher_easy", "pong") for row in published(name, {task})}
    assert every == METHODS


def test_greedy_evaluations_are_marked(capsys, runs: Path, tmp_path: Path):
    ask(capsys, str(runs), "--scores=both", "--out", str(tmp_path / "table.csv"))
    with (tmp_path / "table.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    greedy = table["ours (greedy)"]
    assert (greedy["scored"], float(greedy["score@50000"])) == ("evaluation, greedy", 951)
    assert table["ours"]["scored"] == "training, sampled"


def test_csv_files_of_other_methods(capsys, runs: Path, tmp_path: Path):
    path = tmp_path / "other.csv"
    points = [(seed, step) for seed in (0, 2) for step in range(10_000, 60_000, 10_000)]
    lines = [f"dmc_reacher_easy,{seed},{step},{seed + step / 100}" for seed, step in points]
    path.write_text("\ufeff" + "\n".join(["task,seed,env_steps,score", *lines]) + "\n", encoding="utf-8")  # by Excel
    said = ask(capsys, str(runs), str(path), "--out", str(tmp_path / "table.csv"))
    assert "as in the file" in said
    with (tmp_path / "table.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert float(table["other"]["score@50000"]) == 501


def test_the_figure_is_drawn(capsys, runs: Path, tmp_path: Path):
    write_run(tmp_path / "walker" / "seed0", [10.0] * 9, task="walker_walk")
    said = ask(capsys, str(runs), str(tmp_path / "walker"), "--scores", "both", "--out", str(tmp_path / "a" / "f.png"))
    assert f"wrote {tmp_path / 'a' / 'f.png'}" in said
    picture = imageio.imread(tmp_path / "a" / "f.png")
    assert picture.shape[1] > 1000
    colors = {tuple(color) for color in picture[..., :3].reshape(-1, 3)}
    assert (0, 114, 178) in colors, "our first curve"
    assert (0, 0, 0) in colors, "the reference"


def test_runs_of_no_benchmark_stand_alone(capsys, tmp_path: Path):
    env = {"class_path": "dreamer_lightning.envs.Gym", "init_args": {"task": "CartPole-v1"}}
    write_run(tmp_path / "run", [5.0] * 10, env=env)
    said = ask(capsys, str(tmp_path / "run"))
    assert "CartPole-v1" in said
    assert "dreamerv3" not in said


def test_a_run_without_published_curves_shows_its_last_episodes(capsys, tmp_path: Path):
    env = {"class_path": "dreamer_lightning.envs.Custom", "init_args": {"path": "corridor:Corridor"}}
    scores = [0.0, *[1.0] * 5, *[3.0] * 5]
    write_run(tmp_path / "run" / "seed0", scores[:3], env=env)
    write_run(tmp_path / "run" / "seed1", scores, seed=1, env=env)
    said = ask(capsys, str(tmp_path / "run"), "--out", str(tmp_path / "table.csv"))
    (line,) = [line for line in said.splitlines() if "Corridor" in line]
    assert str((2 / 3 + 2) / 2)[:3] in line
    assert "last 10 episodes" in said
    assert "%" not in said.split("settings")[0].replace("95%", ""), "no share of a score that nobody published"
    assert "published final score" not in said
    with (tmp_path / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["last_10"]) == pytest.approx((2 / 3 + 2) / 2)
    ask(capsys, str(tmp_path / "run"), "--scores", "greedy", "--out", str(tmp_path / "table.csv"))
    with (tmp_path / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["last_10"]) == 3, "the two evaluations of the longer run"


def test_a_run_that_is_too_short_for_a_score_says_so(capsys, tmp_path: Path):
    write_run(tmp_path / "short" / "seed0", [7.0])
    write_run(tmp_path / "long" / "seed0", [7.0] * 5)
    said = ask(capsys, str(tmp_path / "short"), str(tmp_path / "long"))
    assert [line for line in said.splitlines() if " on reacher_easy" in line] == [
        "short on reacher_easy: 1 episode, the last at env step 2,000; not yet at 10K env steps"
    ]
    assert "episode, the last" not in ask(capsys, str(tmp_path / "long"))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_single_point_is_seen(capsys, tmp_path: Path, seeds: int):
    for seed in range(seeds):
        write_run(tmp_path / "short" / f"seed{seed}", [60.0], seed)
    if seeds == 2:  # the second ends before the first has its first episode
        path = tmp_path / "short" / "seed0" / "metrics.csv"
        path.write_text(path.read_text().replace("2000,", "5000,"))
    ask(capsys, str(tmp_path / "short"), "--out", str(tmp_path / "f.png"))
    picture = imageio.imread(tmp_path / "f.png")[..., :3]
    panel = picture[: len(picture) // 2]  # the legend is in the other half
    blue = (panel == (0, 114, 178)).all(-1)
    assert blue.sum() > 30


def test_a_row_without_a_point_is_not_in_the_legend(capsys, tmp_path: Path):
    write_run(tmp_path / "short" / "seed0", [7.0] * 5)
    path = tmp_path / "short" / "seed0" / "metrics.csv"
    path.write_text(path.read_text().replace("10000,5000", "9000,4500"))
    args = (str(tmp_path / "short"), "--scores", "both", "--out", str(tmp_path / "f.png"))
    assert "short (greedy)" in ask(capsys, *args)
    colors = {tuple(color) for color in imageio.imread(tmp_path / "f.png")[..., :3].reshape(-1, 3)}
    assert (0, 114, 178) in colors
    assert (213, 94, 0) not in colors, "its evaluations fill no bin yet"


def test_only_tasks_of_one_scale_are_averaged(capsys, tmp_path: Path):
    env = {"class_path": "dreamer_lightning.envs.Gym", "init_args": {"task": "CartPole-v1"}}
    write_run(tmp_path / "mine" / "reacher" / "seed0", [600.0] * 10)
    write_run(tmp_path / "mine" / "walker" / "seed0", [800.0] * 10, task="walker_walk")
    write_run(tmp_path / "mine" / "cartpole" / "seed0", [5.0] * 10, env=env)
    said = ask(capsys, f"mine={tmp_path / 'mine'}")
    assert "CartPole-v1" in said
    pooled = said.split("interquartile mean")[1].split("env steps (episodes)")[0]
    assert "over all seeds of 2 tasks" in pooled
    assert "700" in next(line for line in pooled.splitlines() if "mine" in line and "mean" in line)
    alone = ask(capsys, f"mine={tmp_path / 'mine'}", "--benchmark", "none")
    assert "interquartile mean" not in alone, "returns of unlike tasks"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "compare needs run folders"),
        (["nowhere"], "'nowhere' holds no run (no metrics.csv)"),
        (["nowhere", "--out", "x.gif"], "--out: 'x.gif' ends in neither .png (the figure) nor .csv (the table)"),
        (["bad.csv"], "bad.csv: needs the columns env_steps, score and task"),
        (["nonsense.csv"], "nonsense.csv, line 2: could not convert string to float: 'x'"),
        (["--benchmark", "go"], "--benchmark: expected one of auto, dmc_proprio"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path: Path, monkeypatch, args, expected: str):
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("step,score\n1,2\n")
    Path("nonsense.csv").write_text("task,env_steps,score\na,x,2\n")
    assert cli.main(["compare", *args]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_runs_of_two_benchmarks_need_a_choice(capsys, tmp_path: Path):
    pixels = {"class_path": "dreamer_lightning.envs.DMC", "init_args": {"task": "reacher_easy", "pixels": True}}
    args = [str(write_run(tmp_path / "a", [1.0] * 9)), str(write_run(tmp_path / "b", [1.0] * 9, env=pixels))]
    assert cli.main(["compare", *args]) == 2
    assert "compare them apart, or give --benchmark" in capsys.readouterr().err
    assert "dmc_proprio" in ask(capsys, *args, "--benchmark", "dmc_proprio")


def test_a_run_without_an_episode_says_so(capsys, tmp_path: Path):
    assert cli.main(["compare", str(write_run(tmp_path / "run", []))]) == 2
    assert "found no finished episode" in capsys.readouterr().err

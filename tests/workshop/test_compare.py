"""Comparisons: statistics by hand, bins and thresholds as published, run folders and CSV files in one table."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from dreamer_lightning import cli
from dreamer_lightning.workshop.results.comparison import overall, records
from dreamer_lightning.workshop.results.curves import (
    Curve,
    Window,
    binned,
    final_score,
    mean_curve,
    mean_score,
    score_at,
    steps_to,
    trailing,
)
from dreamer_lightning.workshop.results.published import METHODS, WINDOWS, published
from dreamer_lightning.workshop.results.rows import Episodes, Row, Setting
from dreamer_lightning.workshop.results.runs import load, read_run, setting_of, version_of
from dreamer_lightning.workshop.results.statistics import interval, iqm, mean
from runfolders import write_run

ROOT = Path(__file__).resolve().parents[2]
WINDOW = Window(10_000, 10_000)
SETTING = Setting("2", "512", "1m", "4", "V3", "training, sampled")


def curve(*scores: float, first: int = 10_000) -> Curve:
    return Curve(first + 10_000 * np.arange(len(scores), dtype=float), np.array(scores, float))


# Statistics.


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7], 7), ([1, 2, 9], 4), ([100, 0, 1, 3], 2), ([8, 7, 6, 5, 4, 3, 2, 1], 4.5), (list(range(11)), 5)],
)
def test_interquartile_mean(values, expected: float):
    assert iqm(np.array(values, float)) == expected


def test_bootstrap_of_two_seeds():
    """Two draws of {0, 10} have the mean 0 in a quarter of the cases, 5 in half of them, 10 in a quarter."""
    scores = [np.array([0.0, 10.0])]
    assert interval(scores, mean, level=0.4) == (5, 5)
    assert interval(scores, mean, level=0.6) == (0, 10)


def test_bootstrap_draws_within_each_task():
    tasks = [np.array([1.0, 1.0]), np.array([9.0, 9.0, 9.0])]
    assert interval(tasks, mean) == (29 / 5, 29 / 5)
    pooled = interval([np.concatenate(tasks)], mean)
    assert pooled[0] < 29 / 5 < pooled[1]


def test_bootstrap_needs_two_seeds():
    assert np.isnan(interval([np.array([1.0, 2.0]), np.array([3.0])])).all()


# Curves.


def test_bins_end_where_they_say():
    steps = np.array([4000.0, 10_000, 10_002, 20_000, 24_000])
    bins = binned(steps, np.array([1.0, 3, 5, 7, 9]), 10_000, last=24_000)
    assert bins.steps.tolist() == [10_000, 20_000], "the third bin is not finished"
    assert bins.scores.tolist() == [2, 6]


def test_trailing_means():
    steps, scores = np.array([10.0, 20, 30]), np.array([1.0, 2, 6])
    found = trailing(steps, scores, 20, np.array([5.0, 20, 30, 60]))
    assert np.allclose(found, [np.nan, 1.5, 4, np.nan], equal_nan=True)


def test_score_at_a_step():
    scores = curve(*range(1, 51))
    assert score_at(scores, 20_000, WINDOW) == 2
    assert score_at(scores, 500_000, WINDOW) == 49, "5% of the step: the last two and a half bins"
    assert np.isnan(score_at(curve(1, 2), 50_000, WINDOW))
    stopped = replace(scores, last=480_000)
    assert score_at(stopped, 200_000, WINDOW) == score_at(scores, 200_000, WINDOW)
    assert np.isnan(score_at(stopped, 500_000, WINDOW)), "a run that did not come so far"
    known = Curve(np.array([0.0, 100_000]), np.array([3.0, 9]), np.array([1.0, 1]))
    assert score_at(known, 100_000, WINDOW) == 9
    assert np.isnan(score_at(known, 50_000, WINDOW))


def test_steps_to_a_score_must_hold_for_a_bin():
    seeds = [curve(0, 6, 2, 6, 8), curve(0, 6, 2, 6, 8)]
    assert steps_to(seeds, 5) == 40_000
    assert steps_to(seeds, 8) == 50_000, "the last bin has no next one"
    assert np.isnan(steps_to(seeds, 9))


def test_mean_over_seeds():
    assert mean_curve([curve(1, 3), curve(3, 7, 100), curve(2)]).steps.tolist() == [10_000], "until the first seed ends"
    both = mean_curve([curve(1, 3), curve(3, 7)])
    assert both.steps.tolist() == [10_000, 20_000]
    assert both.scores.tolist() == [2, 5]
    assert both.std is not None
    assert np.allclose(both.std, [np.sqrt(2), np.sqrt(8)])
    assert final_score([curve(1, 3), curve(3, 7)], WINDOW) == 5


def test_seeds_that_did_not_come_so_far_are_told(capsys, tmp_path: Path):
    write_run(tmp_path / "ours" / "seed0", [100.0] * 9)
    write_run(tmp_path / "ours" / "seed1", [300.0] * 30, seed=1)
    said = ask(capsys, str(tmp_path / "ours"))
    line = next(line for line in said.splitlines() if "ours" in line and "0,1" in line)
    assert "200.0" in line
    assert "300.0 (n=1)" in line


def test_shares_of_a_negative_score_are_not_asked_for():
    reference = Row("dreamerv3", "pong", [curve(-20, -4)], SETTING)
    ours = Row("a", "pong", [curve(-20, -3)], SETTING, episodes=[Episodes(*np.ones((2, 1)))], ours=True)
    assert all(np.isnan(record["steps_to_50%"]) for record in records([ours, reference], WINDOW))


def test_area_under_a_curve():
    assert mean_score(curve(2, 4, 6), 20_000, 10_000) == 3
    assert mean_score(Curve(np.array([10_000.0, 30_000]), np.array([2.0, 6])), 30_000, 10_000) == 4
    assert np.isnan(mean_score(curve(2, 4), 30_000, 10_000))
    assert np.isnan(mean_score(curve(2, 4, first=40_000), 20_000, 10_000)), "it says nothing about the start"


# Published scores: milestones and thresholds of the reference tables, computed from the shipped curves.


def row_of(method: str, task: str, benchmark: str = "dmc_proprio") -> Row:
    (found,) = [row for row in published(benchmark, {task}) if row.label == method]
    return found


@pytest.mark.parametrize(("step", "expected"), [(100_000, 475.2), (500_000, 925.4)])
def test_published_scores(step: int, expected: float):
    row = row_of("dreamerv3", "walker_walk")
    assert len(row.curves) == 5
    scores = [score_at(seed, step, WINDOW) for seed in row.curves]
    assert np.mean(scores) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("task", "method", "benchmark", "expected"),
    [  # thresholds_dmc_proprio.csv and thresholds_dmc_vision.csv of the collection that the curves come from
        ("acrobot_swingup", "dreamerv3", "dmc_proprio", (80, 280, 380)),
        ("cartpole_swingup", "dreamerv3", "dmc_proprio", (90, 140, 190)),
        ("acrobot_swingup", "d4pg", "dmc_proprio", (140, 370, 430)),
        ("ball_in_cup_catch", "drqv2", "dmc_vision", (200, 340, 560)),
    ],
)
def test_published_thresholds(task, method, benchmark, expected):
    final = final_score(row_of("dreamerv3", task, benchmark).curves, WINDOWS[benchmark])
    curves = row_of(method, task, benchmark).curves
    assert tuple(steps_to(curves, share * final) / 1000 for share in (0.5, 0.75, 0.9)) == expected


SIX = ("reacher_easy", "ball_in_cup_catch", "walker_stand", "cartpole_balance", "reacher_hard", "pendulum_swingup")


@pytest.mark.parametrize(
    ("method", "expected"), [("dreamerv3", 771), ("tdmpc2", 839), ("sac", 516), ("d4pg", 585), ("ppo_fixhp", 113)]
)
def test_mean_of_six_tasks_at_100k(method: str, expected: int):
    """The numbers that this project wants to beat."""
    scores = [[score_at(seed, 100_000, WINDOW) for seed in row_of(method, task).curves] for task in SIX]
    assert np.mean([np.mean(seeds) for seeds in scores]) == pytest.approx(expected, abs=0.6)


def test_what_is_shipped():
    methods = {row.label for row in published("dmc_proprio", {"reacher_easy"})}
    assert methods == {"dreamerv3", "d4pg", "dmpo", "ppo_fixhp", "sac", "tdmpc2"}
    assert {row.label for row in published("atari100k", {"pong"})} == {"dreamerv3", "ppo_fixhp"}
    assert row_of("tdmpc2", "ball_in_cup_catch").curves[0].scores[1] == pytest.approx(981.2, abs=0.05)
    notices = (ROOT / "THIRD_PARTY.md").read_text()
    assert all(
        line in notices for line in ("Danijar Hafner", "Nicklas Hansen", "danijar/dreamerv3", "WITHOUT WARRANTY")
    )


# Runs.


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, scores in enumerate(([100.0] * 5 + [900.0] * 20, [200.0] * 5 + [1000.0] * 20)):
        write_run(tmp_path / "ours" / f"seed{seed}", scores, seed)
    return tmp_path / "ours"


def test_a_run_knows_its_setting(runs: Path):
    one = read_run(runs / "seed1")
    assert (one.label, one.task, one.seed, one.benchmark) == ("ours", "reacher_easy", "1", "dmc_proprio")
    assert one.setting == Setting("2", "512", "1m", "4", "V3 imag_last 16", "training, sampled")
    slow, fast = ({"optimizer": {"init_args": {"lr": rate}}} for rate in (4e-5, 3e-4))
    assert [version_of(config) for config in (slow, fast, {"optimizer": None})] == ["V3", "V3 lr 0.0003", "V3"]
    assert (one.last, one.seconds) == (50_000, 1500)
    critic = "dreamer_lightning.versions.ActorCritic2023"
    assert setting_of({"actor_critic": critic, "actor_gradient": "dynamics"}).version == "V3-2023 dynamics"
    assert setting_of({"actor_critic": "dreamer_lightning.versions.ActorCriticV1"}).version == "V1"


def test_seeds_become_a_row_and_labels_name_it(runs: Path, tmp_path: Path):
    write_run(tmp_path / "reacher_easy-1m-s4-20261122-100000", [1.0] * 10, 4)
    series = load([str(runs), f"mine={runs}", str(tmp_path / "reacher_easy-1m-s4-20261122-100000")])
    assert [one.label for one in series] == ["ours", "ours", "mine", "mine", "dreamer 1m"]


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


def test_over_tasks_every_seed_counts():
    def row(label, task, *scores):
        return Row(label, task, [curve(score) for score in scores], SETTING, ours=label == "a")

    rows = [row("a", "x", 1, 3), row("a", "y", 10, 10, 10, 10), row("b", "x", 7)]
    found = {record["method"]: record for record in overall(rows, WINDOW)}
    assert found["a"]["mean@10000"] == 6, "tasks weigh alike"
    assert found["a"]["iqm@10000"] == pytest.approx((3 + 10 + 10 + 10) / 4)
    assert (found["a"]["mean_low@10000"], found["a"]["mean_high@10000"]) == (5.5, 6.5)
    assert "b" not in found, "it lacks a task"


def test_how_many_times_fewer_steps():
    reference = Row("dreamerv3", "x", [curve(5, 10, 10, 10)], SETTING)
    ours = Row("a", "x", [curve(6, 9)], SETTING, episodes=[Episodes(np.array([1.0]), np.array([1.0]))], ours=True)
    slow, never = Row("slow", "x", [curve(1, 2, 6)], SETTING), Row("never", "x", [curve(1, 1, 1, 1)], SETTING)
    found = {record["method"]: record for record in records([ours, reference, slow, never], WINDOW)}
    times = {name: (record["times_first"], record["times_at_least"]) for name, record in found.items()}
    assert times == {"a": (1, False), "dreamerv3": (1, False), "slow": (3, False), "never": (4, True)}


def test_a_threshold_at_the_first_point_is_a_bound():
    reference = Row("dreamerv3", "x", [curve(5, 10)], SETTING)
    late = Row("late", "x", [curve(9, 9, first=40_000)], SETTING)
    ours = Row("a", "x", [curve(1, 9)], SETTING, episodes=[Episodes(np.array([1.0]), np.array([1.0]))], ours=True)
    found = {record["method"]: record for record in records([ours, reference, late], WINDOW)}
    assert found["late"]["steps_to_50%"] == 40_000
    assert found["late"]["first_point_to_50%"]
    assert not found["a"]["first_point_to_50%"]


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

"""The table and the picture of results come from raw runs alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import pytest

from runfolders import write_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def figures(tmp_path: Path, monkeypatch):
    """The script with its folders elsewhere, three runs and a page."""
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    results = tmp_path / "results"
    for seed, score in enumerate((100.0, 300.0)):
        write_run(results / "reacher_easy" / "efficient" / f"seed{seed}", [score] * 25, seed)
    write_run(results / "reacher_easy" / "mix" / "seed0", [900.0] * 25, actor_gradient="mix")
    write_run(results / "cartpole_balance" / "quickstart" / "seed0", [500.0] * 25)
    write_run(results / "cartpole_balance" / "dreamer_v1" / "seed0", [400.0] * 25)  # nothing to compare it with
    (tmp_path / "results.md").write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    for name, path in (("RESULTS", results), ("PAGE", tmp_path / "results.md"), ("IMAGES", tmp_path / "images")):
        monkeypatch.setattr(script, name, path)
    monkeypatch.setattr(sys, "argv", ["figures.py"])
    return script


def test_one_command_writes_table_and_pictures(figures, tmp_path: Path):
    figures.main()
    written = (tmp_path / "results.md").read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    head, _, ours, mixed, published = [line for line in written.splitlines() if line.startswith("|")]
    assert head.startswith("| task | method | seeds | 10K | 20K | 50K | env steps")
    assert ours.startswith(
        "| reacher_easy | efficient | 0,1 | 200 [100-300] | 200 [100-300] | 200 [100-300] | - / - / - | 0.4 |"
    )
    assert ours.endswith("| 2 | 512 | 1m | 4 | V3 imag_last 16 |")
    assert mixed.startswith("| reacher_easy | mix | 0 | 900 |")
    assert published.startswith("| reacher_easy | DreamerV3, published | n=5 | ")
    names = {path.name for path in (tmp_path / "images").iterdir()}
    assert names == {"quickstart.png", "results.png", "ablation.png"}
    assert imageio.imread(tmp_path / "images" / "ablation.png").ndim == 3
    figures.main()
    assert (tmp_path / "results.md").read_text() == written, "the same again"


def test_the_ablation_shows_what_it_changes(figures):
    folder = figures.RESULTS / "cartpole_balance" / "efficient" / "seed0"
    write_run(folder, [700.0] * 25, task="cartpole_balance")  # beside other presets
    labels = [row.label for row in figures.rows(figures.RESULTS, main=False) if row.ours]
    assert sorted(labels) == ["efficient", "mix"]
    assert [row.label for row in figures.rows(figures.RESULTS, main=True) if row.ours] == [
        "efficient",
        "efficient",
        "mix",
    ]


def test_the_length_of_dreams_in_one_picture(figures, tmp_path: Path):
    for overlay, length in (("efficient", 15), ("length5", 5), ("length50", 50)):
        folder = write_run(figures.RESULTS / "reacher_hard" / overlay / "seed0", [9.0 * length] * 5, imag_length=length)
        text = (folder / "metrics.csv").read_text().splitlines()
        text = [text[0] + f",openloop/reward_error@{length}", *(line + "," for line in text[1:-1]), text[-1] + ",0.5"]
        (folder / "metrics.csv").write_text("\n".join(text) + "\n")
    figures.main()
    assert imageio.imread(tmp_path / "images" / "imag_length.png").shape[1] == 1350


def test_a_page_without_marks_is_left_alone(figures, tmp_path: Path):
    (tmp_path / "results.md").write_text("nothing\n")
    with pytest.raises(SystemExit, match="lacks the marks"):
        figures.rewrite(tmp_path / "results.md", "table")


def test_the_page_of_results_has_its_marks():
    text = (ROOT / "docs" / "results.md").read_text()
    assert text.index("<!-- results: python benchmarks/figures.py -->") < text.index("<!-- end of results -->")


def test_scores_are_packed_as_they_are_shipped(tmp_path: Path):
    """The packing script on a small folder: bins, names and roundings."""
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "dmc_proprio_own.csv").write_text(
        "task,seed,env_steps,score\ndmc_reacher_easy,0,10000,1.26\ndmc_reacher_easy,0,600000,9\n"
    )
    milestones = "task,env_steps,mean,std,n_seeds\nreacher-easy,100000,5.04,0.5,3\ndog-run,0,1,1,3\n"
    for name in ("tdmpc2repo_proprio_tdmpc2.csv", "tdmpc2repo_proprio_sac.csv"):
        (tmp_path / name).write_text(milestones)
    code = (
        "import importlib.util, pathlib, sys;"
        f"spec = importlib.util.spec_from_file_location('pack', r'{ROOT / 'benchmarks' / 'pack_scores.py'}');"
        "pack = importlib.util.module_from_spec(spec); spec.loader.exec_module(pack);"
        f"pack.TARGET = pathlib.Path(r'{tmp_path / 'data'}'); sys.argv = ['pack', r'{tmp_path}']; pack.main()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import gzip

    with gzip.open(tmp_path / "data" / "dmc_proprio.csv.gz", "rt") as file:
        assert file.read().splitlines() == [
            "method,task,seed,scores",
            "own,reacher_easy,0,10000:1.3",
            "sac,reacher_easy,,100000:5:0.5:3",
            "tdmpc2,reacher_easy,,100000:5:0.5:3",
        ]

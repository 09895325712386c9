"""Reading ``metrics.csv``: rows, and one metric over time."""

from pathlib import Path

from dreamer_lightning.store.metrics import read_rows, series


def test_rows_are_numbers_none_and_text(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    assert read_rows(path) == []
    path.write_text("env_step,loss/dyn,note\n10,,late\n20,1.5,\n")
    rows = read_rows(path)
    assert rows == [
        {"env_step": 10.0, "loss/dyn": None, "note": "late"},
        {"env_step": 20.0, "loss/dyn": 1.5, "note": None},
    ]
    assert series(rows, "loss/dyn") == ([20.0], [1.5])
    assert series(rows, "env_step", x="loss/dyn") == ([1.5], [20.0])
    assert series(rows, "note") == series(rows, "never logged") == ([], [])


def test_a_row_that_a_kill_cut_short_ends_in_none(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("env_step,update,loss/dyn\n10,1,2.0\n20")
    assert read_rows(path)[1] == {"env_step": 20.0, "update": None, "loss/dyn": None}

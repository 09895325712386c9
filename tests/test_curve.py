"""The learning curve."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np

from dreamer_lightning.callbacks import Curve, learning_curve
from dreamer_lightning.callbacks.metrics import RowFile
from dreamer_lightning.store.runfolder import METRICS
from fakes import FakeLoop, media


def write_rows(path: Path, episodes: int = 60, evaluations: bool = True) -> None:
    random = np.random.default_rng(0)
    file = RowFile(path)
    for i in range(1, episodes + 1):
        step = i * 500
        level = 40 + 900 / (1 + np.exp(-(i - 30) / 6))
        clocks = {"env_step": step, "agent_step": step // 2, "update": step // 4, "seconds": i}
        file.append({**clocks, "episode/score": level + random.normal() * 60})
        if evaluations and i % 10 == 0:
            file.append({**clocks, "eval/greedy_score": level + 40, "eval/sampled_score": level})


def test_learning_curve(tmp_path):
    write_rows(tmp_path / METRICS)
    path = learning_curve(tmp_path, random_score=43, title="walker_walk")
    assert path == tmp_path / "plots" / "learning_curve.png"
    picture = iio.imread(path)
    assert picture.shape[1] > 900
    assert 0.01 < (picture[..., :3] < 200).any(-1).mean() < 0.2
    assert list(path.parent.iterdir()) == [path]


def test_learning_curve_of_several_runs(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / METRICS, evaluations=False)
    path = learning_curve({"seed 0": tmp_path / "a", "seed 1": tmp_path / "b"}, path=tmp_path / "curves.png")
    assert path.stat().st_size > 10_000


def test_curve_of_an_empty_run_is_none(tmp_path, capsys):
    RowFile(tmp_path / METRICS).append({"env_step": 4})
    assert learning_curve(tmp_path) is None
    loop = FakeLoop(tmp_path, [Curve()])
    seen = media(loop)
    loop.call("on_train_end")
    loop.call("on_fit_end")
    assert seen == []
    assert capsys.readouterr() == ("", "")


def test_curve_at_the_end_of_training(tmp_path, capsys):
    write_rows(tmp_path / METRICS)
    loop = FakeLoop(tmp_path, [Curve(random_score=43.0)])
    seen = media(loop)
    loop.call("on_train_end")
    loop.call("on_fit_end")
    assert seen == [("plots/learning_curve", tmp_path / "plots" / "learning_curve.png")]
    assert capsys.readouterr().out == f"learning curve: {seen[0][1]}\n"

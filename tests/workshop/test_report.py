"""The page about a run: whole, partial, just begun; what it holds, and that it needs nothing beside itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import yaml

from dreamer_lightning import cli
from dreamer_lightning.workshop.report.charts import Line, chart, short, ticks
from dreamer_lightning.workshop.report.command import closing
from dreamer_lightning.workshop.report.page import page

OPEN = {"img", "meta", "br", "path", "circle"}  # without an end of their own


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in its place."""

    def __init__(self):
        super().__init__()
        self.stack: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in OPEN:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in OPEN or self.stack[-1] == tag:
            assert self.stack.pop() == tag


def check(text: str) -> str:
    """A page that is well formed and loads nothing."""
    parser = Balanced()
    parser.feed(re.sub(r"(<circle [^>]*>)(<title>.*?</title>)</circle>", r"\1", text))
    assert parser.stack == []
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith("data:") for source in sources)
    assert "url(" not in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)
    return text


def write(folder: Path, columns: dict[str, list[float | None]], config: dict | None = None, first: str = "") -> Path:
    folder.mkdir(parents=True)
    usual = {"env": {"class_path": "dreamer_lightning.envs.DMC", "init_args": {"task": "walker_walk"}}, "seed": 1}
    usual |= {"env_steps": 5000, "train_ratio": 512.0, "rssm": {"init_args": {"free_nats": 1.0}}}
    (folder / "config.yaml").write_text(first + yaml.safe_dump(usual | (config or {})))
    if columns:
        rows = [",".join("" if v is None else str(v) for v in row) for row in zip(*columns.values(), strict=True)]
        (folder / "metrics.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    return folder


def clocks(n: int = 5) -> dict[str, list[float | None]]:
    steps = [1000 * (i + 1) for i in range(n)]
    return {
        "env_step": steps,
        "agent_step": steps,
        "update": [s // 4 for s in steps],
        "seconds": [s / 10 for s in steps],
    }


def whole() -> dict[str, list[float | None]]:
    gap = {f"openloop/{key}_error@{k}": [None, 1.0 * k, None, None, 0.5 * k] for k in (1, 5) for key in ("reward", "h")}
    return {
        **clocks(),
        "episode/score": [10.0, 20.0, 30.0, 40.0, 50.0],
        "eval/greedy_score": [None, 25.0, None, None, 60.5],
        "gap/return": [None, 1.0, None, None, 2.0],
        "gap/real_return": [None, 5.0, None, None, 9.0],
        "loss/total": [5.0, 4.0, 3.0, 2.0, 1.0],
        "loss/dyn": [5.0, 4.0, 3.0, 2.0, 1.5],
        "fps/updates": [2.0, 2.0, 2.0, 2.0, 2.0],
        "fps/share_train": [0.9] * 5,
        **gap,
    }


def test_a_whole_run(tmp_path: Path, capsys):
    folder = write(tmp_path / "run <1>", whole(), {"train_ratio": 256.0}, "# from dmc.yaml; set train_ratio\n")
    imageio.mimwrite(folder / "0000004000-episode.mp4", np.zeros((4, 32, 32, 3), np.uint8), fps=10)
    (folder / "videos").mkdir()
    for step in (2000, 4000):
        name = f"{step:010d}-episode.mp4"
        (folder / "videos" / name).write_bytes((folder / "0000004000-episode.mp4").read_bytes())
        imageio.imwrite(folder / "videos" / f"{step:010d}-openloop.png", np.zeros((8, 8, 3), np.uint8))
    score = '{"mean": 61.0, "std": 1.0, "returns": [60.0, 62.0]}'
    (folder / "evaluation.json").write_text(f'{{"greedy": {score}, "sampled": {score}}}')
    (folder / "evaluation-MPPI.json").write_text("{half")
    assert cli.main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {folder / 'report.html'} (")
    text = check((folder / "report.html").read_text())
    for part in (
        "walker_walk: run &lt;1&gt;",
        "played 5,000 of 5,000 env steps in 8 min 20 s",
        "last greedy evaluation scored 60.5 on average, its best 60.5 at env step 5,000",
        "<b>30</b><span>mean of the last 5 episodes</span>",
        '<td>policy, greedy</td><td class="n">61.0</td>',
        "evaluation, greedy: 60.5 at 5000",
        "One greedy episode, at env step 4,000.",
        "first evaluation: 5 at 5",
        "last evaluation: 2.5 at 5",
        "reward seen",
        "train 90%",
        "<td>train_ratio</td><td>256</td><td>512</td>",
    ):
        assert part in text, part
    assert text.count("data:video/mp4") == 1, "the newest film alone"
    assert text.count("data:image/png") == 1


@pytest.mark.parametrize("kept", ["clocks", "episodes", "nothing"])
def test_a_run_that_has_not_much_yet(tmp_path: Path, kept: str):
    columns = {"clocks": clocks(), "episodes": clocks(1) | {"episode/score": [3.0]}, "nothing": {}}[kept]
    discrete = {"env": {"class_path": "dreamer_lightning.envs.Gym", "init_args": {"id": "CartPole-v1", "task": None}}}
    text = check(page(write(tmp_path / "run", columns, discrete)))
    said = {"clocks": "No episode has ended yet", "episodes": "training episodes: 3 at 1000", "nothing": "just begun"}
    assert said[kept] in text
    assert "dreamer-lightning dream" in text, "how to get pictures"
    assert "from before configs kept what was asked" in text


def test_what_is_too_large_is_named_and_not_taken_in(tmp_path: Path, monkeypatch):
    folder = write(tmp_path / "run", clocks())
    (folder / "videos").mkdir()
    (folder / "videos" / "evaluation.mp4").write_bytes(b"0" * 100)
    monkeypatch.setattr("dreamer_lightning.workshop.report.media.LARGEST", 99)
    text = check(page(folder))
    assert "too large for this page" in text
    assert "data:video" not in text


def test_mistakes_are_one_line(tmp_path: Path, capsys):
    run = write(tmp_path / "run", {})
    for args, told in (
        ([], "report needs a run folder: report RUN"),
        ([str(tmp_path)], f"'{tmp_path}' is not a run folder (it has no config.yaml)"),
        ([str(run), "--out", "page.pdf"], "--out: 'page.pdf' is no page; give a file that ends in .html"),
        ([str(run), "--out", str(run / "config.yaml" / "a.html")], "--out: cannot write"),
    ):
        assert cli.main(["report", *args]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"dreamer-lightning: {told}")


def test_the_end_of_fit_says_where_it_lies_and_never_fails(tmp_path: Path):
    folder = write(tmp_path / "my run", clocks())
    assert closing(folder).splitlines()[-1] == f"report: {folder}/report.html (report '{folder}' writes it again)"
    assert (folder / "report.html").is_file()
    (folder / "config.yaml").write_text("[")
    assert closing(folder).splitlines()[-1].startswith("no report (")


def test_ticks_are_round_and_enclose():
    assert ticks(0, 97, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(-0.3, 0.4, 3) == [-0.5, -0.25, 0.0, 0.25, 0.5]
    assert ticks(3, 3, 4) == [3, 4]
    assert [short(x) for x in (0.00012, 5, 1234, 12_345, 2.5e6)] == ["0.00012", "5", "1234", "12.35K", "2.5M"]


def test_a_chart_draws_numbers_alone_and_shortens():
    assert chart([Line("a", [1.0], [float("nan")])], "x") == ""
    picture = chart([Line("a & b", list(range(5000)), [float(i) for i in range(5000)])], "x")
    (path,) = re.findall(r'class="line c0" d="M([^"]*)"', picture)
    assert 200 <= path.count("L") <= 240
    assert 'aria-label="a &amp; b"' in picture
    one = chart([Line("a", [1.0], [2.0], "both")], "steps", log=True)
    assert "<title>a: 2 at 1</title>" in one

"""Packs published learning curves for `compare`: python benchmarks/pack_scores.py FOLDER

FOLDER holds `curves/<benchmark>_<method>.csv` (task,seed,env_steps,score; binned) and, of `tdmpc2repo_*`, milestones
(task,env_steps,mean,std,n_seeds). Written: `workshop/results/data/<benchmark>.csv.gz` of the package, one row per seed:
method, task, seed, and its scores as "env_steps:score" pairs; seeds are empty where only their mean and standard
deviation are known, whose pairs are "env_steps:mean:std:n". Sources and licences: THIRD_PARTY.md.
"""

import csv
import gzip
import io
import sys
from collections import defaultdict
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "src" / "dreamer_lightning" / "workshop" / "results" / "data"
LAST = {"dmc_proprio": 500_000, "dmc_vision": 1_000_000, "atari100k": 400_000}
MEANS = {"tdmpc2repo_proprio_tdmpc2.csv": "tdmpc2", "tdmpc2repo_proprio_sac.csv": "sac"}


def number(text: str) -> str:
    return f"{float(text):.1f}".removesuffix(".0")


def seeds(folder: Path, benchmark: str) -> dict[tuple[str, str, str], list[str]]:
    rows = defaultdict(list)
    for path in sorted((folder / "curves").glob(f"{benchmark}_*.csv")):
        method = path.stem.removeprefix(f"{benchmark}_")
        for row in csv.DictReader(path.open(newline="")):
            task = row["task"].removeprefix("dmc_").removeprefix("atari_")
            if int(row["env_steps"]) <= LAST[benchmark]:
                rows[method, task, row["seed"]].append(f"{row['env_steps']}:{number(row['score'])}")
    return rows


def means(folder: Path, tasks: set[str]) -> dict[tuple[str, str, str], list[str]]:
    rows = defaultdict(list)
    for name, method in MEANS.items():
        for row in csv.DictReader((folder / name).open(newline="")):
            task = row["task"].replace("-", "_").replace("cup_", "ball_in_cup_")
            if task in tasks and int(row["env_steps"]) <= LAST["dmc_proprio"]:
                values = (row["env_steps"], number(row["mean"]), number(row["std"]), row["n_seeds"])
                rows[method, task, ""].append(":".join(values))
    return rows


def main() -> None:
    folder = Path(sys.argv[1])
    TARGET.mkdir(parents=True, exist_ok=True)
    for benchmark in LAST:
        rows = seeds(folder, benchmark)
        if benchmark == "dmc_proprio":
            rows |= means(folder, {task for _, task, _ in rows})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "task", "seed", "scores"])
        writer.writerows([*key, " ".join(pairs)] for key, pairs in sorted(rows.items()))
        with gzip.GzipFile(TARGET / f"{benchmark}.csv.gz", "wb", 9, mtime=0) as file:
            file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()

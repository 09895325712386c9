"""Draws the pictures of the README: curves from `benchmarks/results`, the agent and its dream from a quickstart run.

    python benchmarks/figures.py [--run RUN]    (RUN after `evaluate --run RUN` and `dream --run RUN`)
"""

import argparse
import shutil
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from dreamer_lightning.callbacks.curve import learning_curve

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs" / "images"
CURVES = {  # picture: (folder of seeds, random policy's return, title with the setting)
    "quickstart": (
        "cartpole_balance/quickstart",
        300.0,
        "quickstart.yaml: cartpole_balance, repeat 4, train ratio 512, 4 envs, training episodes",
    ),
    "walker_walk": (
        "walker_walk/dmc",
        43.0,
        "dmc.yaml with imag_last 16: walker_walk, repeat 2, train ratio 512, size1m, 4 envs, training episodes",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder of the quickstart")
    run = parser.parse_args().run
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, (folder, random, title) in CURVES.items():
        seeds = {path.name: path for path in sorted((HERE / "results" / folder).glob("seed*"))}
        learning_curve(seeds, random, title, IMAGES / f"{name}.png")
    if run:
        frames = imageio.imread(run / "videos" / "evaluation.mp4")
        strip = frames[np.linspace(0, min(len(frames), 500) - 1, 6).astype(int)]
        imageio.imwrite(IMAGES / "agent.png", np.concatenate(list(strip), axis=1))
        shutil.copy(run / "plots" / "dream.png", IMAGES / "dream.png")


if __name__ == "__main__":
    main()

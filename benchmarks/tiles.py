"""Tries tiles of the compiled product for an instruction set: milliseconds by rows at once and rows of a block.

    python benchmarks/tiles.py [--flags="-mavx2 -mfma -mno-avx512f"] [--cc gcc] [--run ""] [--rounds 15]

The shapes are those that take most of an update from vectors at size1m. Every build is held to plain loops in float64.
For another processor name its compiler and what runs its programs; an emulator's times say nothing, its errors do:
`--cc aarch64-linux-gnu-gcc --flags="" --run "qemu-aarch64 -L /usr/aarch64-linux-gnu" --rounds 1`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import tempfile
from itertools import product
from pathlib import Path

HERE = Path(__file__).parent
KERNELS = HERE.parent / "src" / "dreamer_lightning" / "kernels"
SHAPES = {"heads, first": (4096, 640, 64), "two-hot": (4096, 64, 255), "hidden of a dream": (1024, 192, 512)}


def build(cc: str, flags: str, tile: dict[str, int], target: Path) -> None:
    """One program."""
    sizes = [f"-D{name}={value}" for name, value in tile.items()]
    common = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", f"-I{KERNELS}"]
    source = [str(HERE / "tiles.c"), "-lm", "-o", str(target)]
    subprocess.run([cc, *common, *shlex.split(flags), *sizes, *source], check=True)


def measure(run: str, program: Path, rounds: int, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Milliseconds and relative error."""
    words = [*shlex.split(run), str(program), str(rounds), *map(str, shape)]
    took, error = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return float(took), float(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flags", default="-march=native")
    parser.add_argument("--cc", default="cc")
    parser.add_argument("--run", default="")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--wide", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 6, 8, 12])
    parser.add_argument("--blocks", type=int, nargs="*", default=[32, 48, 96])
    asked = parser.parse_args()
    own: list[dict[str, int]] = [{}]  # what dense.c takes by itself
    tiles = own + [
        {"WIDE": wide, "ROWS": rows, "BLOCK": block}
        for wide, rows, block in product(asked.wide, asked.rows, asked.blocks)
    ]
    print(f"{asked.cc} {asked.flags}; ms, the fastest of {asked.rounds}\n")
    print(f"| vector | rows | block | {' | '.join(SHAPES)} | error |\n|--:|--:|--:|{'--:|' * (len(SHAPES) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        for tile in tiles:
            program = Path(folder) / "tiles"
            build(asked.cc, asked.flags, tile, program)
            found = [measure(asked.run, program, asked.rounds, shape) for shape in SHAPES.values()]
            names = " | ".join(str(tile[name]) for name in ("WIDE", "ROWS", "BLOCK")) if tile else "own | own | own"
            times = " | ".join(f"{took:.2f}" for took, _ in found)
            print(f"| {names} | {times} | {max(error for _, error in found):.0e} |", flush=True)


if __name__ == "__main__":
    main()

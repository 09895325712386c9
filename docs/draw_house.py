"""Draws docs/images/house.png from the code: the rooms of the package, their lines, and which room imports which.

    python docs/draw_house.py

A room is a folder or a file right below the package. Rooms stand above the rooms that they import; an arrow that
follows from other arrows is left out. tests/test_architecture.py holds the direction of the arrows.
"""

from __future__ import annotations

import ast
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "dreamer_lightning"
SHOWN_FIRST = ("ops", "nets", "world_model", "actor_critic", "dreamer", "loop")  # the paper, drawn in colour


def rooms() -> dict[str, list[Path]]:
    """Files of each room, by name; the package's own ``__init__`` and ``__main__`` belong to none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not name.startswith("__"):
            found.setdefault(name, []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """Names right below the package that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("dreamer_lightning.")}


def graph(files: dict[str, list[Path]]) -> dict[str, set[str]]:
    """Rooms that each room imports."""
    return {
        name: {x for path in paths for x in imported(path)} & files.keys() - {name} for name, paths in files.items()
    }


def below(edges: dict[str, set[str]], name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Every room that a room reaches."""
    reached: set[str] = set()
    for other in edges[name] - seen:
        reached |= {other} | below(edges, other, seen | {name, other})
    return reached


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from others."""
    reach = {name: below(edges, name) for name in edges}
    return {name: {x for x in out if not any(x in reach[y] for y in out - {x})} for name, out in edges.items()}


def layers(edges: dict[str, set[str]]) -> dict[str, int]:
    """Height of each room: one above the highest room that it imports."""
    height: dict[str, int] = {}

    def of(name: str, path: tuple[str, ...] = ()) -> int:
        if name not in height:
            height[name] = 1 + max((of(x, (*path, name)) for x in edges[name] if x not in path), default=-1)
        return height[name]

    for name in edges:
        of(name)
    return height


def places(edges: dict[str, set[str]], height: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Centre of each room: rooms of one height side by side, each near the rooms that it imports."""
    at: dict[str, tuple[float, float]] = {}
    for level in range(max(height.values()) + 1):
        row = [name for name in edges if height[name] == level]
        wish = {name: sum(at[x][0] for x in edges[name] if x in at) / max(1, len(edges[name])) for name in row}
        row.sort(key=lambda name: (wish[name], name))
        for index, name in enumerate(row):
            at[name] = ((index + 1) / (len(row) + 1), level)
    return at


def draw(target: Path) -> None:
    files = rooms()
    edges = graph(files)
    lines = {name: sum(len(path.read_text().splitlines()) for path in paths) for name, paths in files.items()}
    height = layers(edges)
    at, top = places(edges, height), max(height.values())
    figure, axes = plt.subplots(figsize=(13, 1.05 * (top + 1)))
    down = {name: {x for x in out if height[x] < height[name]} for name, out in edges.items()}
    up = {name: out - down[name] for name, out in edges.items()}
    for name, out in [*reduced(down).items(), *up.items()]:
        for other in out:
            (x, y), (u, v) = at[name], at[other]
            style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "#8a8f98", "linewidth": 0.9}
            rad, line = (0.04, "-") if v < y else (0.3, ":")  # dotted: back up, inside a function
            edge = (y - 0.27, v + 0.27) if v < y else (y + 0.27, v - 0.27)
            curve = f"arc3,rad={rad}"
            axes.add_patch(FancyArrowPatch((x, edge[0]), (u, edge[1]), connectionstyle=curve, linestyle=line, **style))
    for name, (x, y) in at.items():
        colour = "#d9ecff" if name in SHOWN_FIRST else "#f3f4f6"
        box = {"boxstyle": "round,pad=0,rounding_size=0.02", "facecolor": colour, "edgecolor": "#4b5563"}
        axes.add_patch(FancyBboxPatch((x - 0.047, y - 0.26), 0.094, 0.52, mutation_aspect=8, **box))
        axes.text(x, y + 0.06, name, ha="center", va="center", fontsize=9.5, family="monospace", color="#111827")
        axes.text(x, y - 0.14, f"{lines[name]:,}", ha="center", va="center", fontsize=8, color="#4b5563")
    axes.set(xlim=(0, 1), ylim=(-0.5, top + 0.5))
    axes.axis("off")
    figure.tight_layout(pad=0.2)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    draw(ROOT / "docs" / "images" / "house.png")

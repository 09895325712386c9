"""The modules of the package that ``import dreamer_lightning`` and ``fit`` need; run it to see their lines by room.

    python tests/needed.py

Imports are followed from the front door and from ``fit``, also those inside functions, and so is every class that a
shipped config names.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "dreamer_lightning"
DOORS = (NAME, f"{NAME}.__main__", f"{NAME}.commands.fit")


def file_of(module: str) -> Path:
    spec = find_spec(module)
    return Path(spec.origin)


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a name of a module, asked as one below it
        return False


def homes(module: str, name: str) -> set[str]:
    """The modules behind ``from module import name``: a package may hand out what another module defines."""
    if is_module(f"{module}.{name}"):
        return {f"{module}.{name}"}
    defined = getattr(getattr(import_module(module), name), "__module__", module)
    return {module, defined} if str(defined).startswith(NAME) else {module}


def imports(module: str) -> set[str]:
    """Modules of ours that a module imports anywhere, and those of its public names if it is a package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file_of(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == NAME}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == NAME:
            for alias in node.names:
                found |= homes(node.module, alias.name)
    if module == NAME:
        for name in import_module(module).__all__:
            found |= homes(module, name)
    return found


def configured() -> set[str]:
    """Modules of the classes that shipped configs name."""
    found: set[str] = set()
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        for word in re.findall(rf"{NAME}(?:\.\w+)+", path.read_text()):
            found |= homes(*word.rsplit(".", 1))
    return found


def needed() -> dict[str, int]:
    """Lines of Python by module, packages above a module included."""
    waiting, lines = [*DOORS, *configured()], {}
    while waiting:
        module = waiting.pop()
        if module in lines:
            continue
        lines[module] = len(file_of(module).read_text().splitlines())
        waiting += imports(module)
        if "." in module:
            waiting.append(module.rpartition(".")[0])
    return lines


if __name__ == "__main__":
    counted = needed()
    rooms: Counter[str] = Counter()
    for name, number in counted.items():
        words = name.split(".")
        rooms[words[1] if len(words) > 1 else NAME] += number
    for room, number in rooms.most_common():
        print(f"{number:6} {room}")
    print(f"{sum(counted.values()):6} lines in {len(counted)} modules")

"""Prints the lowest versions that pyproject admits, one requirement a line: for a job that tests them.

python tests/lowest.py | xargs python -m pip install
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest() -> list[str]:
    """``name==version`` of every dependency with a lower bound."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    found = (re.match(r"([\w-]+)(\[[\w,-]+\])?>=([\d.]+)", line) for line in project["dependencies"])
    return [f"{match[1]}{match[2] or ''}=={match[3]}" for match in found if match]


if __name__ == "__main__":
    print("\n".join(lowest()))

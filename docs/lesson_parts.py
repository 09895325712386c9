"""What stands in the lessons: lines of the code itself, and equations as MathML, which browsers draw without a script.

A line ``{code: ops/returns.py lambda_return}`` becomes the body of that function; ``from "..." to "..."`` after it
takes the lines between two that hold these texts. A name or a text that is gone stops the build.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "dreamer_lightning"
CODE = re.compile(r'^\{code: (\S+) (\S+)(?: from "(.*?)" to "(.*?)")?\}$', re.MULTILINE)


def code(path: str, name: str, first: str | None = None, last: str | None = None) -> tuple[int, str]:
    """Lines of a function without its head and docstring, and the number of the first.

    Args:
        path: below the package.
        name: of a function, ``Class.method`` or ``Class``.
        first: a text in the first line to show; None: the whole body.
        last: a text in the last one, at or after it.

    Raises:
        LookupError: no such name or text.
    """
    text = (SOURCE / path).read_text()
    node: ast.AST = ast.parse(text)
    for word in name.split("."):
        found = [each for each in ast.iter_child_nodes(node) if getattr(each, "name", None) == word]
        if not found:
            raise LookupError(f"{path} has no {name}")
        node = found[-1]
    body = node.body[1:] if ast.get_docstring(node) else node.body  # type: ignore[attr-defined]
    begin, end = body[0].lineno, body[-1].end_lineno
    lines = text.splitlines()[begin - 1 : end]
    if first is not None and last is not None:
        places = [i for i, line in enumerate(lines) if first in line]
        ends = [i for i, line in enumerate(lines) if places and i >= places[0] and last in line]
        if not ends:
            raise LookupError(f"{path}: {name} has no line {first!r} with {last!r} at or after it")
        begin, lines = begin + places[0], lines[places[0] : ends[0] + 1]
    return begin, textwrap.dedent("\n".join(lines))


def with_code(page: str) -> str:
    """A page with the code that it asks for."""

    def block(match: re.Match) -> str:
        line, text = code(*match.groups())
        return f'```python title="{match[1]}, line {line}: {match[2]}"\n{text}\n```'

    return CODE.sub(block, page)


def with_equations(page: str) -> str:
    """A page with ``$$...$$`` and ``$...$`` as MathML; code is left alone."""
    from latex2mathml.converter import convert

    parts = re.split(r"(```.*?```|`[^`]*`)", page, flags=re.DOTALL)
    whole, within = '<div class="equation">{}</div>', "<span>{}</span>"  # a bare math tag would end a paragraph
    for i in range(0, len(parts), 2):
        text = re.sub(r"\$\$(.+?)\$\$", lambda m: whole.format(convert(m[1], display="block")), parts[i], flags=re.S)
        parts[i] = re.sub(r"\$(.+?)\$", lambda m: within.format(convert(m[1])), text)
    return "".join(parts)

"""What mkdocs does while it builds the site: makes the reference, takes in files outside docs/ that pages link to."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import lesson_parts
import reference_pages
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = "repository/"  # where the site has the files that are not in docs/
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
ICON = ("images/icon.svg", "src/dreamer_lightning/demo/page/icon.svg")
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "THIRD_PARTY.md")


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path


def linked(page: str, link: str) -> str:
    """The path in the repository that a page, given by its own path there, links to."""
    return os.path.normpath(os.path.join(os.path.dirname(page), link))


def on_files(files: Any, config: Any) -> Any:
    """Add the reference, what the pages link to outside docs/, and what those pages link to."""
    files.append(File.generated(config, ICON[0], abs_src_path=str(ROOT / ICON[1])))
    for uri, text in reference_pages.pages().items():
        files.append(File.generated(config, uri, content=text))
    todo = [*ALWAYS]
    for file in files.documentation_pages():
        todo += [linked(f"docs/{file.src_uri}", link) for _, link in LINK.findall(file.content_string)]
    while todo:
        path = todo.pop()
        if path.startswith("docs/") or files.get_file_from_path(place(path)) or not (ROOT / path).is_file():
            continue
        files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            todo += [linked(path, link) for _, link in LINK.findall((ROOT / path).read_text())]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put code and equations into lessons; point links between docs/ and the rest of the repository to their places."""
    uri = page.file.src_uri
    own = uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else f"docs/{uri}"

    if uri.startswith("learn/"):
        markdown = lesson_parts.with_equations(lesson_parts.with_code(markdown))

    def moved(match: re.Match) -> str:
        target = place(linked(own, match[2]))
        return match[1] + os.path.relpath(target, os.path.dirname(uri) or ".")

    return LINK.sub(moved, markdown)

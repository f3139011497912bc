"""Writes one page a root package from its docstrings: `python -m tests.house.package_pages docs/reference/packages`.

A page tells what each package is for, and each module in its first sentence, so that a reader finds the room before the file.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from tests.house.figures import docstring
from tests.house.test_layout import dotted
from tests.house.tree import PACKAGES, tracked

FOLDER = Path("docs/reference/packages")
ROOTS = (*PACKAGES, "server/edgefleet_sdk")
AGAIN = f"run `./dev run python -m tests.house.package_pages {FOLDER}`"
_HEAD = "<!-- Made from the docstrings by `python -m tests.house.package_pages {folder}`. -->\n# `{name}`\n"


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring as one line of a table."""
    line = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    found = re.match(r"(.+?[.!?])(?= [A-Z`*]|$)", line)
    return (found.group(1) if found else line).replace("|", "\\|")


def page(root: str) -> str:
    """Return the page of one root package."""
    sources = sorted(path for path in tracked() if path.suffix == ".py" and str(path).startswith(f"{root}/"))
    rooms: dict[Path, list[Path]] = defaultdict(list)
    for path in sources:
        if "migrations" not in path.parts:
            rooms[path.parent].append(path)
    parts = [_HEAD.format(folder=FOLDER, name=Path(root).name)]
    for folder in sorted(rooms):
        if folder != Path(root):
            parts.append(f"## `{dotted(folder / '__init__.py').partition('.')[2]}`\n")
        parts.append(f"{docstring(folder / '__init__.py')}\n" if folder / "__init__.py" in rooms[folder] else "")
        rows = [path for path in rooms[folder] if path.name != "__init__.py"]
        if rows:
            table = [f"| `{path.stem}` | {first_sentence(docstring(path))} |" for path in rows]
            parts.append("\n".join(["| module | what it holds |", "| --- | --- |", *table]) + "\n")
    return "\n".join(part for part in parts if part)


def pages() -> dict[Path, str]:
    """Return every page by its path."""
    return {FOLDER / f"{Path(root).name}.md": page(root) for root in ROOTS}


def main() -> None:
    """Write the pages into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        (folder / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

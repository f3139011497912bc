"""The words of the product with their meanings, as `docs/glossary.md` has them: pages link hard words to them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

FILE: Final = "glossary.md"
_HEADING: Final = "## Words of the product"
_ROW: Final = re.compile(r"\| \*\*([^*|]+)\*\* \| (.+) \|")
_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]+\)")


@dataclass(frozen=True, slots=True)
class Term:
    """A word. anchor: its place on the page. meaning: without capital and full stop, backticks around code, links as their words."""

    name: str
    anchor: str
    meaning: str

    @property
    def plain(self) -> str:
        """The meaning as plain text."""
        return self.meaning.replace("`", "")


def parse(text: str) -> dict[str, Term]:
    """Return the words of the product by name, in the order of the page; the tables of code and packages are left out."""
    part = text.partition(f"\n{_HEADING}\n")[2].partition("\n## ")[0]
    found = (_ROW.fullmatch(line) for line in part.splitlines())
    return {
        row[1]: Term(row[1], row[1].replace(" ", "-"), _LINK.sub(r"\1", row[2]).replace("*", ""))
        for row in found
        if row is not None
    }


@cache
def glossary() -> Mapping[str, Term]:
    """Return the words of the product: in a wheel the page lies in the package, in a clone in `docs/`."""
    here = Path(__file__)
    inside = here.parents[1] / FILE
    return parse((inside if inside.is_file() else here.parents[4] / "docs" / FILE).read_text("utf-8"))

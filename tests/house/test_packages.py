"""The pages of the packages are those of the docstrings."""

from __future__ import annotations

import pytest

from tests.house.package_pages import AGAIN, FOLDER, first_sentence, pages
from tests.house.tree import ROOT


def test_every_page_is_that_of_the_docstrings() -> None:
    stale = [str(path) for path, text in pages().items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert stale == [], AGAIN


def test_there_is_no_page_of_a_package_that_is_gone() -> None:
    assert {path.name for path in (ROOT / FOLDER).glob("*.md")} == {path.name for path in pages()}


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Reads a spec. Pure.", "Reads a spec."),
        ("Reads `a.b` of\na spec, e.g. one.\n\nMore.", "Reads `a.b` of a spec, e.g. one."),
        ("A | B", "A \\| B"),
        ("", ""),
    ],
)
def test_a_row_says_the_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence

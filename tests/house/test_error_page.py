"""Every error code is told on the page, with its cause and what to do next."""

from __future__ import annotations

import re

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.web.problems import STATUS, status_of
from tests.house.error_page import STEPS, is_group, kinds, page, rows, said, sentences
from tests.house.tree import ROOT

PAGE = ROOT / "docs" / "reference" / "errors.md"
AGAIN = "run `./dev run python -m tests.house.error_page docs/reference/errors.md`"
NAMES = re.compile(
    r"[A-Z]+[a-z]*[A-Z0-9]|[A-Z][a-z]+-[A-Z]|(Alertmanager|Chromium|Keras|Landlock|Pillow|Python|Ctrl|Linux)\b"
)
"""Beginnings of a sentence that keep their capital: acronyms, names with capitals inside, proper names."""


def test_every_sentence_of_an_error_begins_small_and_ends_without_a_full_stop() -> None:
    found = list(sentences())
    assert len(found) > 1000
    wrong = [
        (place, text)
        for place, text in found
        if (text[0].isupper() and not NAMES.match(text)) or (text.endswith(".") and not text.endswith("..."))
    ]
    assert wrong == []


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), AGAIN


def test_every_code_has_a_row_with_a_cause_and_a_next_step() -> None:
    told = {code: row for some in rows().values() for code, row in some.items()}
    raised = said()[1]
    codes = {kind.code for kind in kinds() if kind is not EdgefleetError and not is_group(kind, raised)}
    assert codes
    assert codes - told.keys() == set()
    assert [code for code, row in told.items() if not row.causes] == []
    assert [code for code, row in told.items() if not row.steps] == [], "raise it with a next step, or add it to STEPS"


def test_no_step_is_told_for_a_code_that_tells_its_own() -> None:
    steps = said()[0]
    lonely = {kind.code for kind in kinds() if not (kind.default_next_step or steps.get(kind.__name__))}
    assert set(STEPS) - lonely == set()


def test_every_code_with_a_status_of_its_own_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    groups = {code for code in STATUS if code.endswith((".failed", ".error"))}
    for code in STATUS.keys() - groups:
        assert f"| `{code}` | {status_of(code)} |" in text, code

"""The page of threats names tests that are there, and of every threat a test, or that nothing defends against it yet."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.house.soak import SOAKS
from tests.house.tree import ROOT

PAGES = ("docs/operate/threats.md", "docs/operate/security.md")
OPEN = "not defended yet"


def _rows() -> Iterator[str]:
    for line in (ROOT / PAGES[0]).read_text("utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| ---", "| attack |", "| event |")):
            yield line


def test_each_named_test_and_soak_exists() -> None:
    text = "\n".join((ROOT / page).read_text("utf-8") for page in PAGES)
    named = re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", text)
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or (name and f"def {name}(" not in (ROOT / file).read_text("utf-8"))
    ]
    assert missing == []
    assert set(re.findall(r"\./dev soak ([\w-]+)", text)) <= SOAKS.keys()


def test_each_threat_has_a_test_or_is_called_open() -> None:
    rows = list(_rows())
    assert len(rows) > 30
    for row in rows:
        is_tested = "`tests/" in row or "`./dev soak" in row
        assert is_tested or OPEN in row, row

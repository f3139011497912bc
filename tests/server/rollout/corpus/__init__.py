"""Specs of rollouts as people write them, and what becomes of them.

The comments at the head of a file say what it is for, then, one a line:
- accepted: `fleet:` devices by profile for which its plan has no error; `(no bundle)` after a profile that has none.
  `lint:` codes of the errors that its plan has, where it has some all the same.
- refused: `path:` and `words:`, where the error is and a part of what it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
_FLEET = re.compile(r"([a-z0-9][a-z0-9_-]*) ([0-9]+)( \(no bundle\))?")


@dataclass(frozen=True)
class Fleet:
    """Devices by profile, and the profiles that the release was not built for."""

    devices: dict[str, int]
    without_bundle: frozenset[str]


@dataclass(frozen=True)
class Case:
    """One file of the corpus. fleet and lint: of accepted ones; path and words: of refused ones."""

    name: str
    about: str
    document: Any
    fleet: Fleet | None = None
    path: str = ""
    words: str = ""
    lint: frozenset[str] = frozenset()


@cache
def accepted() -> tuple[Case, ...]:
    """Return the specs that are accepted, in order of name."""
    return tuple(read_case(path) for path in sorted((HERE / "accepted").glob("*.yaml")))


@cache
def refused() -> tuple[Case, ...]:
    """Return the specs that are refused, in order of name."""
    return tuple(read_case(path) for path in sorted((HERE / "refused").glob("*.yaml")))


def read_case(path: Path) -> Case:
    """Return what a file holds: its spec, and what its first comments say."""
    text = path.read_text()
    about, told = [], {}
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        key, colon, value = line[2:].partition(": ")
        if colon and key in ("fleet", "path", "words", "lint"):
            told[key] = value
        else:
            about.append(line[2:])
    fleet = _fleet(told["fleet"]) if "fleet" in told else None
    document = yaml.safe_load(text)
    lint = frozenset(told["lint"].split(", ")) if "lint" in told else frozenset[str]()
    return Case(path.stem, " ".join(about), document, fleet, told.get("path", ""), told.get("words", ""), lint)


def _fleet(text: str) -> Fleet:
    found = [match for part in text.split(", ") if (match := _FLEET.fullmatch(part)) is not None]
    assert len(found) == len(text.split(", ")), f"a fleet that cannot be read: {text}"
    return Fleet({m[1]: int(m[2]) for m in found}, frozenset(m[1] for m in found if m[3]))

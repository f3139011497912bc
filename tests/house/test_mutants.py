"""Mutants: which there are, that they are drawn by what they are, and that the nearest tests are there."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.house import mutants
from tests.house.tree import ROOT, python_sources

SOURCE = b'''
"""A module."""
from typing import TYPE_CHECKING

if TYPE_CHECKING and True:
    pass


class Box:
    def fits(self, size: int, most: "int | None" = None) -> bool:
        assert size > 0
        if most is not None and not 0 < size <= most:
            return False
        return size in (1, 2)


def name(of: str) -> str | None:
    return of or None


def nothing() -> str:
    return ""
'''


def changes(path: Path = Path("server", "edgefleet_server", "box.py")) -> list[mutants.Mutant]:
    """Return the mutants of the source above."""
    return mutants.mutants_of(path, SOURCE)


def test_comparisons_booleans_and_returns_are_changed_and_nothing_else() -> None:
    assert [(one.function, one.old, one.text) for one in changes()] == [
        (
            "Box.fits",
            "most is not None and not 0 < size <= most",
            "((most is not None) or (not 0 < size <= most))",
        ),
        ("Box.fits", "most is not None", "most is None"),
        ("Box.fits", "not 0 < size <= most", "bool(0 < size <= most)"),
        ("Box.fits", "0 < size <= most", "0 <= size <= most"),
        ("Box.fits", "0 < size <= most", "0 < size < most"),
        ("Box.fits", "False", "True"),
        ("Box.fits", "size in (1, 2)", "not (size in (1, 2))"),
        ("Box.fits", "size in (1, 2)", "size not in (1, 2)"),
        ("name", "of or None", "None"),
        ("name", "of or None", "((of) and (None))"),
    ]


def test_every_mutant_is_a_program_that_differs() -> None:
    for one in changes():
        changed = SOURCE[: one.start] + one.text.encode() + SOURCE[one.end :]
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(SOURCE))


def test_the_same_mutants_are_drawn_when_their_module_has_moved() -> None:
    def drawn(of: Sequence[mutants.Mutant], seed: int) -> list[str]:
        return [f"{one.function} {one.old} {one.text}" for one in mutants.drawn(of, 4, seed)]

    moved = [
        replace(one, path=Path("server", "edgefleet_server", "other", "thing.py"), line=one.line + 9)
        for one in changes()
    ]
    assert drawn(changes(), 7) == drawn(moved, 7)
    assert drawn(changes(), 7) != drawn(changes(), 8)


@pytest.mark.parametrize("name", mutants.NEAREST)
def test_a_name_has_modules_and_tests_that_are_there(name: str) -> None:
    modules = [mutants.module_of(path) for path in python_sources()]
    assert [one for one in modules if one == name or one.startswith(f"{name}.")]
    for test in mutants.NEAREST[name]:
        assert (ROOT / test).exists(), test


def test_a_mutant_that_a_test_sees_is_killed_and_the_copy_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "agent" / "edgefleet_protocol").mkdir(parents=True)
    file = Path("agent", "edgefleet_protocol", "verify.py")
    test = tmp_path / mutants.tests_of("edgefleet_protocol.verify")[0]
    test.parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(SOURCE)
    load = f"import runpy\nBox = runpy.run_path({str(tmp_path / file)!r})['Box']\n"
    test.write_text(f"{load}def test_box():\n    assert not Box().fits(5, 4)\n")
    killed, other = changes(file)[5], changes(file)[8]
    assert mutants.passes(tmp_path, mutants.tests_of("edgefleet_protocol.verify"))
    assert mutants.is_killed(tmp_path, killed, 60.0)
    assert not mutants.is_killed(tmp_path, other, 60.0)
    assert (tmp_path / file).read_bytes() == SOURCE

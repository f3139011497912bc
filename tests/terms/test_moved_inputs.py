"""What is said of inputs that moved, by how much they matter."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_terms.feature_importance import NOT_ASKED, Importance, read_importance
from edgefleet_terms.moved_inputs import Matters, matters_of, rank_of, weighed_text


def _feature(name: str, value: float, half: float = 0.01) -> dict[str, Any]:
    return {"name": name, "input": "x", "kind": "column", "value": value, "low": value - half, "high": value + half}


def _measured(*features: dict[str, Any]) -> Importance:
    return read_importance({"metric": "top1", "base": 0.94, "n": 200, "given": 200, "features": list(features)})


FOUND = _measured(
    _feature("x.age", 0.002),
    _feature("x.heat", 0.31),
    _feature("x.load", 0.2),
    _feature("x.hum", 0.05),
    _feature("x.dew", 0.029),
)


@pytest.mark.parametrize(
    ("name", "matters", "said"),
    [
        ("x.heat", Matters.MOST, "Moved a lot, matters most: 31 % of accuracy (94 % → 63 %)"),
        ("x.load", Matters.MUCH, "Moved a lot, matters much: 20 % of accuracy (94 % → 74 %)"),
        ("x.hum", Matters.SOME, "Moved a lot, matters: 5.0 % of accuracy (94 % → 89 %)"),
        ("x.dew", Matters.LITTLE, "Moved a lot, matters little: 2.9 % of accuracy (94 % → 91 %)"),
        ("x.age", Matters.LITTLE, "Moved a lot, matters little: no effect beyond chance"),
        ("confidence", Matters.UNKNOWN, "Moved a lot, not measured how much it matters"),
    ],
)
def test_the_move_stands_next_to_what_it_is_worth(name: str, matters: Matters, said: str) -> None:
    assert matters_of(name, FOUND) is matters
    assert weighed_text(name, 0.4, FOUND) == said


@pytest.mark.parametrize(("psi", "said"), [(0.25, "Moved a lot"), (0.1, "Moved"), (0.09, "Moved a little")])
def test_the_size_of_a_move_is_a_word(psi: float, said: str) -> None:
    assert weighed_text("x.age", psi, FOUND).split(",")[0] == said


def test_what_moved_and_matters_comes_first_then_what_nobody_measured() -> None:
    names = ["x.age", "confidence", "x.hum", "x.dew", "x.heat", "x.load"]
    ranked = sorted(names, key=lambda name: rank_of(name, FOUND))
    assert ranked == ["x.heat", "x.load", "x.hum", "confidence", "x.age", "x.dew"]


def test_without_importance_nothing_is_said_and_nothing_is_ranked() -> None:
    for found in (NOT_ASKED, read_importance({"why": "there are no labels"})):
        assert weighed_text("x.heat", 9.0, found) == ""
        assert matters_of("x.heat", found) is Matters.NOTHING_SAID
        assert rank_of("x.heat", found) == rank_of("x.age", found)


def test_where_no_input_has_an_effect_all_matter_little() -> None:
    found = _measured(_feature("x.a", -0.01), _feature("x.b", 0.0))
    assert {matters_of(name, found) for name in ("x.a", "x.b")} == {Matters.LITTLE}

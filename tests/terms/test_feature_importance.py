"""What is said of the inputs that matter, and what a hostile report cannot make it say."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_terms.feature_importance import (
    MOST_FEATURES,
    NOT_ASKED,
    interval_text,
    length_of,
    measured_text,
    percent,
    read_importance,
    worth_text,
)

FEATURES = [
    {"name": "x.age", "input": "x", "kind": "column", "value": 0.002, "low": -0.01, "high": 0.014, "repeats": 5},
    {"name": "x.heat", "input": "x", "kind": "column", "value": 0.31, "low": 0.27, "high": 0.35, "repeats": 5},
]
MEASURED: dict[str, Any] = {
    "why": "", "metric": "top1", "output": "y", "base": 0.94, "n": 200, "given": 540, "runtime": "ort 1.32.0",
    "features": FEATURES, "occlusion": [], "not_measured": [], "cut": "",
}  # fmt: skip


def test_it_ranks_and_says_what_an_input_is_worth() -> None:
    found = read_importance(MEASURED)
    heat, age = found.features
    assert worth_text(heat, found) == "31 % of accuracy (94 % → 63 %)"
    assert interval_text(heat, found) == "27 % to 35 %"
    assert worth_text(age, found) == "no effect beyond chance"
    assert [length_of(one, found) for one in found.features] == [100.0, 0.6]
    assert measured_text(found) == (
        "Each input shuffled on 200 of 540 labelled evaluation samples; undisturbed: accuracy 94 %."
    )


def test_an_error_grows() -> None:
    found = read_importance({**MEASURED, "metric": "mae", "base": 3.0, "features": [{**FEATURES[1], "value": 2.1}]})
    assert worth_text(found.features[0], found) == "2.1 of the mean error (3 → 5.1)"
    assert "mean error 3" in measured_text(found)


def test_a_cut_names_what_was_not_measured() -> None:
    found = read_importance({**MEASURED, "cut": "the measurement ended after 10 s", "not_measured": ["x.load"]})
    assert measured_text(found).endswith("94 %; the measurement ended after 10 s; not measured: x.load.")


def test_what_was_not_measured_says_why() -> None:
    assert measured_text(read_importance({"why": "there are no labels"})) == "Not measured: there are no labels."
    assert read_importance({}) is read_importance(None) is NOT_ASKED


@pytest.mark.parametrize(
    "document",
    [
        [], "x", {"features": "x"}, {"features": [1, None, {}, {"name": 3}]}, {"occlusion": [{"maps": [{"drop": []}]}]},
        {"features": [{"name": "x", "value": float("nan"), "low": 0, "high": 0}]},
        {"occlusion": [{"maps": [{"drop": [[1.0], [1.0, 2.0]]}]}]}, {"occlusion": [{"maps": 3}], "base": "x"},
    ],
)  # fmt: skip
def test_a_broken_report_says_nothing(document: Any) -> None:
    assert read_importance(document) is NOT_ASKED


def test_a_report_says_no_more_than_a_page_holds() -> None:
    many = read_importance({"features": FEATURES * MOST_FEATURES, "why": "x" * 9000})
    assert len(many.features) == MOST_FEATURES
    assert len(many.why) == 300


def test_shares_are_said_in_percent() -> None:
    assert [percent(share) for share in (0.0, 0.004, 0.0999, 0.31, 0.995, 1.0)] == [
        "0 %", "0.4 %", "10 %", "31 %", "99.5 %", "100 %",
    ]  # fmt: skip

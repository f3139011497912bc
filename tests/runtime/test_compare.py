"""How alike two answers are: classes, boxes, numbers, and what cannot be compared."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_runtime.likeness import Likeness, compare_answers, iou

A, B, C = (
    {"label": label, "index": i, "score": score}
    for i, (label, score) in enumerate(zip("abc", (0.7, 0.2, 0.1), strict=True))
)


def box(label: str, *corners: float, score: float = 0.9) -> dict[str, Any]:
    return {"label": label, "score": score, "box": list(corners)}


@pytest.mark.parametrize(
    ("old", "new", "agreed", "delta"),
    [
        ([A, B, C], [A, B, C], True, 0.0),
        ([A, B], [{**A, "score": 0.6}, B], True, 0.1),
        ([A, B], [B, A], False, 0.0),
        ([A], [B], False, 0.7),
        (A, {**A, "index": 5}, True, 0.0),
        (A, B, False, 0.5),
        ({"label": "x", "positive": True, "score": 0.6}, {"label": "x", "positive": False, "score": 0.4}, False, 0.2),
        ([1.0, 2.0], [1.0, 2.5], None, 0.5),
        (3.0, 3.0, None, 0.0),
        ([1.0], [1.0, 2.0], None, math.inf),
        ([None], [1.0], None, math.inf),
        ([None], [None], None, 0.0),
        ([], [], None, 0.0),
        ([box("a", 0, 0, 2, 2)], [], False, 0.0),
        ([box("a", 0, 0, 2, 2)], [box("a", 0, 0, 2, 2, score=0.5)], True, 0.4),
        ([box("a", 0, 0, 2, 2)], [box("b", 0, 0, 2, 2)], False, 0.0),
        ([box("a", 0, 0, 2, 2)], "nothing like it", False, math.inf),
    ],
)
def test_what_counts_as_the_same(old: Any, new: Any, agreed: bool | None, delta: float) -> None:
    found = compare_answers(old, new)
    assert found.agreed is agreed
    assert found.delta == pytest.approx(delta)


def test_scores_of_classes_are_judged_by_the_largest_where_the_bundle_says_so() -> None:
    assert compare_answers([0.1, 0.9], [0.2, 0.8], top1=True).agreed is True
    assert compare_answers([0.1, 0.9], [0.8, 0.2], top1=True).agreed is False
    assert compare_answers([0.1, None], [0.8, 0.2], top1=True).agreed is True


def test_boxes_find_their_best_partner_and_lonely_ones_count_as_no_overlap() -> None:
    old = [box("a", 0, 0, 10, 10), box("a", 20, 20, 30, 30)]
    new = [box("a", 21, 20, 31, 30), box("a", 0, 0, 10, 10), box("a", 50, 50, 60, 60)]
    found = compare_answers(old, new)
    assert found.agreed is False
    assert sorted(found.overlaps) == pytest.approx([0.0, 9 / 11, 1.0])
    assert compare_answers(old, [new[1], new[0]]).agreed is True


def test_nothing_found_by_both_is_the_same_and_by_one_is_not() -> None:
    assert compare_answers([], [], op="boxes") == Likeness(True, 0.0)
    assert compare_answers([], [box("a", 0, 0, 2, 2)], op="boxes").agreed is False
    assert compare_answers([], [], op="threshold") == Likeness(True, 0.0)
    assert compare_answers([], [A], op="threshold") == Likeness(False, 0.7)
    assert compare_answers([A], [], op="threshold") == Likeness(False, 0.7)
    assert compare_answers([], [], op="identity").agreed is None


def test_overlap_of_boxes() -> None:
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1.0
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


corner = st.floats(-50, 50)
boxes = st.lists(st.builds(lambda x, y, w, h: box("a", x, y, x + w, y + h), corner, corner, corner, corner), max_size=4)


@given(boxes, boxes)
def test_overlaps_lie_in_0_to_1_and_do_not_depend_on_who_is_old(old: list[Any], new: list[Any]) -> None:
    there, back = compare_answers(old, new), compare_answers(new, old)
    assert all(0.0 <= overlap <= 1.0 + 1e-9 for overlap in there.overlaps)
    assert there.agreed == back.agreed


def test_another_choice_ranks_above_any_distance_of_scores() -> None:
    other = Likeness(False, 0.0).difference
    assert other > Likeness(True, 1e9).difference > Likeness(True, 0.5).difference > Likeness(True, 0.0).difference == 0
    assert Likeness(False, math.inf).difference == 2.0

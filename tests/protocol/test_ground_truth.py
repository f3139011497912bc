"""Ground truth on the wire: one form, exact sums whatever the order, nothing that cannot have been counted."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.reporting.window import merge_payloads, merge_windows
from edgefleet_protocol.feedback_csv import BadFeedbackFileError, read_rows
from edgefleet_protocol.ground_truth import (
    MAX_CLASSES,
    MAX_TOTAL,
    Cell,
    FigureSums,
    NumberSums,
    Truth,
    TruthPart,
    added,
    class_part,
    figure_part,
    merged,
    number_part,
    pack,
    unpack,
)
from edgefleet_protocol.messages import Telemetry, Window, encode, encode_short

HOURS = st.integers(496_000, 496_003)
SEGMENTS = st.sampled_from(["", "line-1", "line-2"])
NUMBERS = st.floats(-1e7, 1e7)
PARTS = st.one_of(
    st.builds(class_part, HOURS, SEGMENTS, st.integers(0, 80), st.integers(0, 80)),
    st.builds(number_part, HOURS, SEGMENTS, NUMBERS, NUMBERS, st.just(2.5)),
    st.builds(figure_part, HOURS, SEGMENTS, st.dictionaries(st.sampled_from(["scrap", "stops"]), NUMBERS, min_size=1)),
)
TRUTHS = st.builds(
    lambda parts, unmatched, late, repeated: Truth(1, 2.5, unmatched + late, late, repeated, added(parts)),
    st.lists(PARTS, max_size=12),
    *(st.integers(0, 5) for _ in range(3)),
)


@given(TRUTHS)
def test_what_is_said_arrives(truth: Truth) -> None:
    assert unpack(pack(truth)) == (truth if pack(truth) else Truth())


@given(TRUTHS, TRUTHS, TRUTHS)
def test_windows_added_in_any_order_say_the_same(a: Truth, b: Truth, c: Truth) -> None:
    assert merged(merged(a, b), c) == merged(a, merged(b, c)) == merged(merged(c, a), b)
    both = merged(a, b)
    assert sum(one.n for one in both.parts) == sum(one.n for one in (*a.parts, *b.parts))
    assert sum(one.correct for one in both.parts) == sum(one.correct for one in (*a.parts, *b.parts))
    assert unpack(pack(both)) == (both if pack(both) else Truth())


@given(st.lists(TRUTHS, min_size=1, max_size=5))
def test_an_outbox_that_is_full_adds_windows_up_exactly(truths: list[Truth]) -> None:
    windows = [
        Window(t0=900 * at, length_s=900, model="m", lane="active", sha256="a", version="1", truth=pack(one))
        for at, one in enumerate(truths)
    ]
    (whole,) = merge_windows(windows[:2], windows[2:])
    expected = truths[0]
    for one in truths[1:]:
        expected = merged(expected, one)
    assert whole.truth == pack(expected)


@pytest.mark.parametrize(
    "halves",
    [
        [[TruthPart(hour) for hour in range(at, at + 1_100)] for at in (0, 1_100)],
        [[figure_part(1, "", {f"f{n}": 1.0 for n in range(at, at + 40)})] for at in (0, 40)],
    ],
)
def test_windows_that_are_too_much_for_one_stay_two(halves: list[list[TruthPart]]) -> None:
    older, newer = (
        encode(
            Telemetry(
                device="d", boot_id="b", seq=at, ts=at,
                windows=[Window(t0=900 * at, length_s=900, model="m", lane="active", sha256="a", version="1", truth=truth)],
            )
        )
        for at, truth in enumerate(pack(Truth(parts=tuple(parts))) for parts in halves)
    )  # fmt: skip
    assert merge_payloads(older, newer) is None, "no server takes the sum"
    assert merge_payloads(older, older) is not None


def test_classes_beyond_the_table_count_as_one_and_rightness_stays_exact() -> None:
    right, wrong = class_part(1, "", 900, 900), class_part(1, "", 901, 902)
    (part,) = added([right, wrong])
    assert (part.n, part.correct, part.cells) == (2, 1, (Cell(MAX_CLASSES, MAX_CLASSES, 2),))
    assert unpack(pack(Truth(parts=(part,)))).parts == (part,)


def test_errors_of_numbers_are_in_units_and_limited() -> None:
    assert number_part(1, "", 10.0, 15.0, 2.5).numbers == NumberSums(1, 128, 128, 256)
    far = number_part(1, "", 0.0, -1e30, 1.0).numbers
    assert (far.total, far.sizes) == (-64_000, 64_000)


def test_numbers_in_another_unit_are_not_added() -> None:
    old = Truth(unit=1.0, parts=(number_part(1, "", 0.0, 1.0, 1.0), class_part(2, "", 0, 0)))
    new = Truth(unit=2.0, parts=(number_part(1, "", 0.0, 1.0, 2.0),))
    both = merged(old, new)
    assert (both.unit, [one.numbers.n for one in both.parts], both.parts[1].n) == (2.0, [1, 0], 1)
    assert merged(old, Truth(unit=2.0)).unit == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        b"\xc1",
        msgspec.msgpack.encode([2, 1.0, 0, 0, 0, []]),
        msgspec.msgpack.encode([1, 0.0, 0, 0, 0, []]),
        msgspec.msgpack.encode([1, 1e-13, 0, 0, 0, []]),
        msgspec.msgpack.encode([1, 1.7e308, 0, 0, 0, []]),
        msgspec.msgpack.encode([1, float("nan"), 0, 0, 0, []]),
        msgspec.msgpack.encode([1, 1.0, 0, 1, 0, []]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[5, "", 2, 3, [[0, 0, 2]]]]]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[5, "", 2, 1, [[0, 0, 2]]]]]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[5, "", 9, 2, [[0, 0, 2]]]]]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[5, "", 2, 0, [[0, 1, 1], [0, 1, 1]]]]]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[5, "<b>", 0, 0]]]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[6, ""], [5, ""]]]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[5, "", 0, 0, [], [1, 9, 5, 3]]]]),
        msgspec.msgpack.encode([1, 1.0, 0, 0, 0, [[5, "", 0, 0, [], [0, 0, 0, 0], {"x": [0, 5]}]]]),
    ],
)
def test_what_nobody_can_have_counted_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"truth|parts"):
        unpack(bad)


def test_a_window_without_labels_has_not_a_byte_more() -> None:
    window = Window(t0=1, length_s=900, model="m", lane="active", sha256="a" * 64, version="1", n=5)
    labelled = msgspec.structs.replace(window, truth=pack(Truth(parts=(class_part(496_000, "", 1, 1),))))
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(encode_short(window)))
    assert len(encode_short(window)) == len(older)
    assert len(encode_short(labelled)) - len(older) < 60


@given(st.text(max_size=200))
def test_any_text_as_a_file_is_rows_or_one_error(text: str) -> None:
    with suppress(BadFeedbackFileError):
        assert all(bool(row.item) is not bool(row.error) for row in read_rows(text))


def test_bad_rows_are_named_by_their_line_and_good_ones_read() -> None:
    text = (
        'trace_id,label,kpi.scrap,at\nt1,seven,,1700000000\n\nt2,"two\nlines",3,\nt3,four,many,\nt4,,,\nt5,one\n,,2,\n'
    )
    rows = list(read_rows("\ufeff" + text))
    assert [(row.line, row.error) for row in rows if row.error] == [
        (6, "kpi.scrap is 'many', not a number"),
        (7, "it has no label, no value and no figure"),
        (8, "it has 2 cells, the first line names 4 columns"),
    ]
    assert [row.item for row in rows if not row.error] == [
        {"trace_id": "t1", "label": "seven", "at": 1_700_000_000.0},
        {"trace_id": "t2", "label": "two\nlines", "kpi": {"scrap": 3.0}},
        {"kpi": {"scrap": 2.0}},
    ]


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("", "empty"),
        ("trace_id,lable\n", "no column 'lable'"),
        ("trace_id,segment\n", "what was right"),
        ("label,label\n", "twice"),
        ("trace_id,kpi.\ud800\n", r"no column 'kpi.\\ud800'"),
    ],
)
def test_a_file_that_is_none_says_why(head: str, words: str) -> None:
    with pytest.raises(BadFeedbackFileError, match=words):
        list(read_rows(head))


def test_figures_that_are_too_much_for_a_window_end_at_the_most() -> None:
    part = TruthPart(1, "", figures={"x": FigureSums(5_000, MAX_TOTAL), "y": FigureSums(5_000, -MAX_TOTAL)})
    found = Truth(parts=added([part] * 6))
    assert unpack(pack(found)).parts[0].figures == {
        "x": FigureSums(30_000, MAX_TOTAL),
        "y": FigureSums(30_000, -MAX_TOTAL),
    }


def test_parts_of_one_hour_are_one() -> None:
    parts = added([class_part(2, "", 0, 1), class_part(1, "", 0, 0), class_part(2, "", 0, 1), class_part(2, "b", 1, 1)])
    assert parts == (
        TruthPart(1, "", 1, 1, (Cell(0, 0, 1),)),
        TruthPart(2, "", 2, 0, (Cell(0, 1, 2),)),
        TruthPart(2, "b", 1, 1, (Cell(1, 1, 1),)),
    )

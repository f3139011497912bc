"""Ground truth in a window: how answers compare with the labels that came for them later, as counts that add up exactly.

1. A part is one hour of answers and one segment: labels that come days late count in the hour in which their answers were given.
2. All sums are integers. Errors of numbers are in 64ths of `unit` (the standard deviation of that output in the bundle's reference, 1
   without one), business figures in thousandths. Each value is rounded and limited once, where it is paired; nothing is rounded later.
3. Classes from MAX_CLASSES on count as one, `MAX_CLASSES`; whether an answer was right is counted exactly all the same.
4. Merging is addition. Sums in different units are never added: the newer ones stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

FORM: Final = 1
MAX_CLASSES: Final = 64
MAX_PARTS: Final = 2_048
"""Of one window: some weeks of hours in several segments, all told at once."""
MAX_COUNT: Final = 2**40
UNIT_PARTS: Final = 64
LEAST_UNIT: Final = 1e-12
MOST_UNIT: Final = 1e12
MAX_UNITS: Final = 1_000.0
"""An error farther off counts as this far: a sum must not be one broken value."""
FIGURE_PARTS: Final = 1_000
MAX_FIGURE: Final = 1e12
MAX_TOTAL: Final = 2**62
"""Sums end there: neither MessagePack nor a database has integers beyond 64 bits."""
MAX_FIGURES: Final = 16
"""Business figures that a device tells apart, of one model."""
_MOST_FIGURES: Final = 64
"""Of one part: a device that has forgotten its names begins to count them again."""
OTHER: Final = "other"
"""The segment of all that are too many."""
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,46}[A-Za-z0-9])?")
_MAX_ERROR: Final = int(MAX_UNITS) * UNIT_PARTS
_MAX_SQUARE: Final = int(MAX_UNITS * MAX_UNITS) * UNIT_PARTS


class Cell(msgspec.Struct, array_like=True, frozen=True):
    """So many answers of class `answered` where the label says `label`."""

    label: int
    answered: int
    n: int


class NumberSums(msgspec.Struct, array_like=True, frozen=True):
    """Errors of n numbers, answer minus label: their sum, the sum of their sizes, that of their squares."""

    n: int = 0
    total: int = 0
    sizes: int = 0
    squares: int = 0


class FigureSums(msgspec.Struct, array_like=True, frozen=True):
    """A business figure that was reported n times, in thousandths."""

    n: int = 0
    total: int = 0


class TruthPart(msgspec.Struct, array_like=True, frozen=True):
    """Answers of one hour (unix hours) and segment. n, correct: of classes. cells: sorted, each pair of classes once."""

    hour: int
    segment: str = ""
    n: int = 0
    correct: int = 0
    cells: tuple[Cell, ...] = ()
    numbers: NumberSums = NumberSums()
    figures: dict[str, FigureSums] = {}


class Truth(msgspec.Struct, array_like=True, frozen=True):
    """What one window says of ground truth. unmatched: labels without a remembered answer; late: of those, for an answer older than all
    that are remembered; repeated: for an answer that had its label. unit: of errors of numbers.
    """

    form: int = FORM
    unit: float = 1.0
    unmatched: int = 0
    late: int = 0
    repeated: int = 0
    parts: tuple[TruthPart, ...] = ()


def is_name(text: str) -> bool:
    """Return whether a text may name a segment or a business figure: letters, digits, `_`, `-` and `.`, 48 at most."""
    return _NAME.fullmatch(text) is not None


def class_part(hour: int, segment: str, label: int, answered: int) -> TruthPart:
    """Return one pair of classes."""
    cell = Cell(min(label, MAX_CLASSES), min(answered, MAX_CLASSES), 1)
    return TruthPart(hour, segment, 1, int(label == answered), (cell,))


def number_part(hour: int, segment: str, label: float, answered: float, unit: float) -> TruthPart:
    """Return one pair of numbers; both finite."""
    error = max(-MAX_UNITS, min(MAX_UNITS, (answered - label) / unit))
    parts = round(error * UNIT_PARTS)
    return TruthPart(hour, segment, numbers=NumberSums(1, parts, abs(parts), round(error * error * UNIT_PARTS)))


def figure_part(hour: int, segment: str, figures: Mapping[str, float]) -> TruthPart:
    """Return business figures that were reported at once; each finite."""
    found = {
        name: FigureSums(1, round(max(-MAX_FIGURE, min(MAX_FIGURE, value)) * FIGURE_PARTS))
        for name, value in sorted(figures.items())
    }
    return TruthPart(hour, segment, figures=found)


def bounded(total: int) -> int:
    """Return a sum, which ends at MAX_TOTAL either way."""
    return max(-MAX_TOTAL, min(MAX_TOTAL, total))


def added(parts: Iterable[TruthPart]) -> tuple[TruthPart, ...]:
    """Return parts with each hour and segment once, in order."""
    found: dict[tuple[int, str], list[TruthPart]] = {}
    for one in parts:
        found.setdefault((one.hour, one.segment), []).append(one)
    return tuple(_sum(found[key]) for key in sorted(found))


def _sum(parts: Sequence[TruthPart]) -> TruthPart:
    if len(parts) == 1:
        return parts[0]
    cells: dict[tuple[int, int], int] = {}
    figures: dict[str, FigureSums] = {}
    numbers = NumberSums()
    for part in parts:
        for cell in part.cells:
            cells[cell.label, cell.answered] = cells.get((cell.label, cell.answered), 0) + cell.n
        for name, one in part.figures.items():
            known = figures.get(name, FigureSums())
            figures[name] = FigureSums(known.n + one.n, bounded(known.total + one.total))
        more = part.numbers
        numbers = NumberSums(
            numbers.n + more.n, numbers.total + more.total, numbers.sizes + more.sizes, numbers.squares + more.squares
        )
    return TruthPart(
        parts[0].hour,
        parts[0].segment,
        sum(one.n for one in parts),
        sum(one.correct for one in parts),
        tuple(Cell(label, answered, n) for (label, answered), n in sorted(cells.items())),
        numbers,
        dict(sorted(figures.items())),
    )


def merged(older: Truth, newer: Truth) -> Truth:
    """Return the sum of two windows; of numbers only the newer ones where their units differ."""
    parts = older.parts
    unit = newer.unit
    if older.unit != newer.unit:
        if any(one.numbers.n for one in newer.parts):
            parts = tuple(replace(one, numbers=NumberSums()) for one in parts)
        else:
            unit = older.unit
    return Truth(
        FORM,
        unit,
        older.unmatched + newer.unmatched,
        older.late + newer.late,
        older.repeated + newer.repeated,
        added([*parts, *newer.parts]),
    )


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Truth)


def pack(truth: Truth) -> bytes:
    """Return the wire form; b"" where nothing is said."""
    if not (truth.parts or truth.unmatched or truth.late or truth.repeated):
        return b""
    return _ENCODER.encode(
        [FORM, truth.unit, truth.unmatched, truth.late, truth.repeated, [_short(one) for one in truth.parts]]
    )


def _short(part: TruthPart) -> list[object]:
    """Return a part without what is empty at its end."""
    fields: list[object] = [part.hour, part.segment, part.n, part.correct, part.cells, part.numbers, part.figures]
    empty: list[object] = [None, "", 0, 0, (), NumberSums(), {}]
    while len(fields) > 1 and fields[-1] == empty[len(fields) - 1]:
        fields.pop()
    return fields


def unpack(data: bytes) -> Truth:
    """Return what a window says. Raises ValueError where it is none, or counts what nobody can have counted."""
    if not data:
        return Truth()
    try:
        truth = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not ground truth: {error}") from error
    if truth.form != FORM:
        raise ValueError(f"ground truth in form {truth.form}, known is {FORM}")
    if not (LEAST_UNIT <= truth.unit <= MOST_UNIT) or len(truth.parts) > MAX_PARTS:
        raise ValueError("ground truth in no unit, or of too many parts")
    counts = (truth.unmatched, truth.late, truth.repeated)
    if not all(0 <= one <= MAX_COUNT for one in counts) or truth.late > truth.unmatched:
        raise ValueError("ground truth counts what cannot be")
    if [(one.hour, one.segment) for one in truth.parts] != sorted({(one.hour, one.segment) for one in truth.parts}):
        raise ValueError("parts of ground truth are not in order")
    for part in truth.parts:
        _check(part)
    return truth


def _check(part: TruthPart) -> None:
    pairs = [(one.label, one.answered) for one in part.cells]
    same = sum(one.n for one in part.cells if one.label == one.answered and one.label < MAX_CLASSES)
    most_same = sum(one.n for one in part.cells if one.label == one.answered)
    numbers = part.numbers
    is_sound = (
        0 <= part.hour < 2**32
        and (not part.segment or is_name(part.segment))
        and 0 <= part.correct <= part.n <= MAX_COUNT
        and pairs == sorted(set(pairs))
        and all(0 <= label <= MAX_CLASSES and 0 <= answered <= MAX_CLASSES for label, answered in pairs)
        and all(one.n > 0 for one in part.cells)
        and sum(one.n for one in part.cells) == part.n
        and same <= part.correct <= most_same
        and 0 <= numbers.n <= MAX_COUNT
        and abs(numbers.total) <= numbers.sizes <= numbers.n * _MAX_ERROR
        and 0 <= numbers.squares <= numbers.n * _MAX_SQUARE
        and len(part.figures) <= _MOST_FIGURES
        and all(is_name(name) and _is_figure(one) for name, one in part.figures.items())
    )
    if not is_sound:
        raise ValueError("ground truth counts what cannot be")


def _is_figure(one: FigureSums) -> bool:
    return 0 < one.n <= MAX_COUNT and abs(one.total) <= min(one.n * int(MAX_FIGURE) * FIGURE_PARTS, MAX_TOTAL)

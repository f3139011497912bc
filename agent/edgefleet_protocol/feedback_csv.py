"""Delayed labels as a CSV file: one row an answer, read into the items of the feedback API (docs/how-to/send-ground-truth.md).

The first line names the columns: `trace_id` or `key`, `label` or `value`, and where they are known `device`, `segment`, `at` and business
figures as `kpi.NAME`. Empty cells say nothing. Rows are numbered by the line of the file on which they begin, the first line being 1.
"""

import csv
import io
import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ground_truth import is_name

COLUMNS: Final = ("device", "trace_id", "key", "label", "value", "segment", "at")
FIGURE: Final = "kpi."
MAX_CELL: Final = 1_024


class BadFeedbackFileError(EdgefleetError):
    """A file of labels cannot be read at all."""

    code = "feedback.bad_file"
    default_next_step = "begin it with a line of column names: device,trace_id,label"


class Row(NamedTuple):
    """A row. line: of the file. item: as the API takes it, {} where it is wrong. error: what is wrong, "" when nothing."""

    line: int
    item: dict[str, Any]
    error: str


def read_rows(text: str) -> Iterator[Row]:
    """Yield the rows of a file; a wrong one is said, not raised. Raises BadFeedbackFileError."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise BadFeedbackFileError(f"line 1 is not CSV: {error}") from error
    _check(names)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Row(line, {}, f"it is not CSV: {error}")
            continue
        if cells is None:
            return
        if cells:
            yield _row(line, names, cells)


def _check(names: list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS and not _is_figure(name)]
    if not names or not any(names):
        raise BadFeedbackFileError("the file is empty")
    if unknown:
        raise BadFeedbackFileError(
            f"there is no column {unknown[0][:40]!r}; known are {', '.join(COLUMNS)} and {FIGURE}NAME"
        )
    if len(set(names)) < len(names):
        raise BadFeedbackFileError("a column is named twice")
    if not any(name in ("label", "value") or name.startswith(FIGURE) for name in names):
        raise BadFeedbackFileError(f"no column says what was right: label, value or {FIGURE}NAME")


def _is_figure(name: str) -> bool:
    return name.startswith(FIGURE) and is_name(name.removeprefix(FIGURE))


def _row(line: int, names: list[str], cells: list[str]) -> Row:
    if len(cells) != len(names):
        return Row(line, {}, f"it has {len(cells)} cells, the first line names {len(names)} columns")
    item: dict[str, Any] = {}
    for name, text in zip(names, (cell.strip() for cell in cells), strict=True):
        if not text:
            continue
        if len(text) > MAX_CELL:
            return Row(line, {}, f"{name} is longer than {MAX_CELL} characters")
        if name == "value" or name.startswith(FIGURE) or (name == "at" and _is_number(text)):
            if not _is_number(text):
                return Row(line, {}, f"{name} is {text[:40]!r}, not a number")
            number = float(text)
            if name.startswith(FIGURE):
                item.setdefault("kpi", {})[name.removeprefix(FIGURE)] = number
            else:
                item[name] = number
        else:
            item[name] = text
    if not item.keys() & {"label", "value", "kpi"}:
        return Row(line, {}, "it has no label, no value and no figure")
    return Row(line, item, "")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

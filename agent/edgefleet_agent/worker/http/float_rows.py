"""Tables of cells, and the numbers in them for a model with one matrix of floats as its input. Pure.

1. A CSV has a first line of names when none of its cells is a number, or when it names a column that the model knows. Else every line
   is data: a line is never lost because a cell in it is empty or misspelt.
2. Without column names of its own, a model takes the columns as they stand; of JSON objects, in the order of the first one.
3. What does not fit is refused with its line (CSV) or row (JSON), and its column.
"""

import csv
import io
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from edgefleet_agent.worker.http.wire import BadRequestError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array
from edgefleet_runtime.preprocess import ArrayInput, Preprocess

MAX_SAMPLES = 10_000
"""Rows of one request: more are refused before much is made of them."""
MAX_CELLS = 1_000_000
"""Cells that are held as texts at once: all of a CSV with columns by name, one line of a CSV of numbers."""
MAX_SHOWN = 40
"""Letters of a bad cell, and column names, in an error."""

Row = tuple[str, Sequence[Any]]
"""Where a row stands, for errors (`line 2`), and its cells."""


@dataclass(frozen=True)
class Table:
    """Rows of cells. names: of the columns, empty when none are given. places: where each row stands, for errors: `Line 2`."""

    names: tuple[str, ...]
    rows: tuple[Sequence[Any], ...]
    places: tuple[str, ...]


def float_matrix(declared: Preprocess, specs: Sequence[TensorSpec]) -> TensorSpec | None:
    """Return the model's one input when it is rows of real numbers, [N, features] or [features], and nothing is declared for it."""
    if len(specs) != 1 or len(specs[0].shape) not in (1, 2):
        return None
    is_plain = len(declared.inputs) == 1 and isinstance(declared.inputs[0], ArrayInput) and not declared.inputs[0].steps
    is_real = specs[0].quantization is not None or specs[0].dtype in ("float16", "float32", "float64")
    return specs[0] if is_plain and is_real else None


def read_csv(body: bytes, known: Collection[str] = (), *, words: bool = False) -> Table:
    """Return the table that a CSV holds (rule 1). Raises BadRequestError.

    known: the names of columns that the model has. words: whether cells may be words, so that they say nothing about a header.
    """
    names, lines = _open(body, known, words=words)
    places, rows, cells = [], [], 0
    for place, row in lines:
        cells += len(row)
        if cells > MAX_CELLS:
            raise _too_many("the CSV has more than", "send fewer rows, or only the columns that the model takes")
        places.append(place)
        rows.append(row)
    return Table(names, tuple(rows), tuple(places))


def csv_matrix(body: bytes, spec: TensorSpec) -> Array:
    """Return the numbers of a CSV as `matrix` does, without ever holding the cells of more than one row. Raises BadRequestError."""
    names, lines = _open(body, (), words=False)
    return _numbers(names, lines, spec)


def _open(body: bytes, known: Collection[str], *, words: bool) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Return the column names and the rows, at least one, which are read and checked as they are taken."""
    lines = _lines(body)
    first_line = next(lines, None)
    if first_line is None:
        raise BadRequestError("the CSV is empty", next_step="send at least one row")
    first = [cell.strip() for cell in first_line[1]]
    has_header = bool(set(known) & set(first)) or not (
        any(map(_is_number, first)) or (words and len(first) == len(known))
    )
    row = next(lines, None) if has_header else first_line
    if row is None:
        raise BadRequestError(
            f"the CSV holds only a line of column names ({_listed(first)}) and no row",
            next_step="send at least one row below it",
        )
    names = tuple(first) if has_header else ()
    if len(set(names)) != len(names):
        raise BadRequestError(f"the first line names a column twice: {_listed(first)}")
    return names, _even(chain([row], lines), len(first))


def _even(lines: Iterable[tuple[int, list[str]]], cells: int) -> Iterator[Row]:
    """Yield lines with their places. Raises BadRequestError for one with another number of cells, and for too many lines."""
    for count, (number, line) in enumerate(lines, start=1):
        if count > MAX_SAMPLES:
            raise BadRequestError(f"the CSV has more than the {MAX_SAMPLES} rows of one request; send several")
        if len(line) != cells:
            raise BadRequestError(
                f"line {number} has {len(line)} cells, the first line has {cells}",
                next_step="give every line of the CSV as many cells",
            )
        yield f"line {number}", line


def _lines(body: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty, with their numbers, read one by one: a cell takes 30 times its size as a text."""
    separators = 0

    def physical() -> Iterator[str]:
        nonlocal separators
        for line in io.TextIOWrapper(io.BytesIO(body), "utf-8-sig", newline=""):
            separators += line.count(",")
            if separators >= MAX_CELLS:
                raise _too_many("a line of the CSV has more than", "send an array in a .npy file instead")
            yield line

    reader = csv.reader(physical())
    try:
        for line in reader:
            separators = 0
            if any(cell.strip() for cell in line):
                yield reader.line_num, line
    except csv.Error as e:
        raise BadRequestError(f"the body is not CSV: line {reader.line_num}: {e}") from e
    except UnicodeDecodeError as e:
        raise BadRequestError(f"the body is not CSV in UTF-8: {e}") from e


def _too_many(what: str, next_step: str) -> BadRequestError:
    return BadRequestError(f"{what} {MAX_CELLS:,} cells", next_step=next_step)


def read_rows(rows: Sequence[Any]) -> Table:
    """Return the table of JSON rows: lists of cells, or objects of the same columns (rule 2). Raises BadRequestError."""
    check_count(len(rows))
    places = tuple(f"row {i + 1}" for i in range(len(rows)))
    if rows and all(isinstance(row, list) for row in rows):
        return Table((), tuple(rows), places)
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise BadRequestError("each row must be an object of column names and values, or each a list of values")
    names = tuple(rows[0])
    for row, place in zip(rows, places, strict=True):
        if set(row) != set(names):
            raise BadRequestError(
                f"{place} has the columns {_listed(row)}; the first row has {_listed(names)}",
                next_step="give every row the same columns",
            )
    return Table(names, tuple([row[name] for name in names] for row in rows), places)


def check_count(rows: int) -> None:
    """Raise BadRequestError for more rows than one request may have."""
    if rows > MAX_SAMPLES:
        raise BadRequestError(f"{rows} rows are more than the {MAX_SAMPLES} of one request; send several")


def matrix(table: Table, spec: TensorSpec) -> Array:
    """Return the table's numbers, float32 or float64 [rows, features] as the model takes them. Raises BadRequestError (rule 3)."""
    return _numbers(table.names, zip(table.places, table.rows, strict=True), spec)


def _numbers(names: Sequence[str], rows: Iterable[Row], spec: TensorSpec) -> Array:
    width = spec.shape[-1]
    flat = array("d" if spec.dtype == "float64" else "f")
    count = 0
    for place, row in rows:
        wanted = width if isinstance(width, int) else len(flat) // count if count else len(row)
        if len(row) != wanted:
            of = f" ({_listed(names)})" if names else ""
            raise BadRequestError(
                f"{place} has {len(row)} columns{of}; the model takes {wanted} numbers in a row",
                next_step="send exactly the features that the model was trained on, in the same order",
            )
        try:
            flat.extend(map(float, row))
        except (TypeError, ValueError, OverflowError) as e:
            raise _no_number(names, place, row) from e
        count += 1
    return np.asarray(flat).reshape(count, -1)  # of the same memory


def _no_number(names: Sequence[str], place: str, row: Sequence[Any]) -> BadRequestError:
    """Return the refusal of the first cell of a row that is no number."""
    j, cell = next((j, cell) for j, cell in enumerate(row) if not _is_number(cell))
    where = f"{place}, column {j + 1}" + (f" ({names[j]})" if names else "")
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return BadRequestError(f"{where} is empty", next_step="fill the cell, or leave the row out")
    return BadRequestError(
        f"{where} must be a number, got {str(cell)[:MAX_SHOWN]!r}",
        next_step="send numbers only; a first line of column names must not hold a number",
    )


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(str(name)[:MAX_SHOWN] for name in list(names)[:MAX_SHOWN])
    return f"{shown}, …" if len(names) > MAX_SHOWN else shown

"""Tables of cells, and the numbers in them for a model with one matrix of floats as its input. Pure.

1. A CSV has a first line of names when none of its cells is a number, or when it names a column that the model knows. Else every line
   is data: a line is never lost because a cell in it is empty or misspelt.
2. Without column names of its own, a model takes the columns as they stand; of JSON objects, in the order of the first one.
3. What does not fit is refused with its line (CSV) or row (JSON), and its column.
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from edgefleet_agent.worker.http.wire import BadRequestError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array
from edgefleet_runtime.preprocess import ArrayInput, Preprocess

MAX_SAMPLES = 10_000
"""Rows of one request: more are refused before much is made of them."""
MAX_SHOWN = 40
"""Letters of a bad cell, and column names, in an error."""


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
    lines = _lines(body)
    if not lines:
        raise BadRequestError("the CSV is empty", next_step="send at least one row")
    first = [cell.strip() for cell in lines[0][1]]
    has_header = bool(set(known) & set(first)) or not (
        any(map(_is_number, first)) or (words and len(first) == len(known))
    )
    rows = lines[1:] if has_header else lines
    if not rows:
        raise BadRequestError(
            f"the CSV holds only a line of column names ({_listed(first)}) and no row",
            next_step="send at least one row below it",
        )
    for number, line in rows:
        if len(line) != len(first):
            raise BadRequestError(
                f"line {number} has {len(line)} cells, the first line has {len(first)}",
                next_step="give every line of the CSV as many cells",
            )
    names = tuple(first) if has_header else ()
    if len(set(names)) != len(names):
        raise BadRequestError(f"the first line names a column twice: {_listed(first)}")
    return Table(names, tuple(line for _, line in rows), tuple(f"line {number}" for number, _ in rows))


def _lines(body: bytes) -> list[tuple[int, list[str]]]:
    """Return the lines that are not empty, with their numbers. Reads no more of them than one request may have, and a header."""
    reader = csv.reader(io.StringIO(_text(body), newline=""))
    filled = ((reader.line_num, line) for line in reader if any(cell.strip() for cell in line))
    try:
        lines = list(islice(filled, MAX_SAMPLES + 2))
    except csv.Error as e:
        raise BadRequestError(f"the body is not CSV: line {reader.line_num}: {e}") from e
    if len(lines) > MAX_SAMPLES + 1:
        raise BadRequestError(f"the CSV has more than the {MAX_SAMPLES} rows of one request; send several")
    return lines


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
    width = spec.shape[-1]
    dtype = np.float64 if spec.dtype == "float64" else np.float32
    values = np.empty((len(table.rows), len(table.rows[0])), dtype)
    for i, row in enumerate(table.rows):
        wanted = width if isinstance(width, int) else values.shape[1]
        if len(row) != wanted:
            of = f" ({_listed(table.names)})" if table.names else ""
            raise BadRequestError(
                f"{table.places[i]} has {len(row)} columns{of}; the model takes {wanted} numbers in a row",
                next_step="send exactly the features that the model was trained on, in the same order",
            )
        for j, cell in enumerate(row):
            values[i, j] = _number(cell, table, i, j)
    return values


def _number(cell: Any, table: Table, i: int, j: int) -> float:
    name = f" ({table.names[j]})" if table.names else ""
    where = f"{table.places[i]}, column {j + 1}{name}"
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise BadRequestError(f"{where} is empty", next_step="fill the cell, or leave the row out")
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError) as e:
        raise BadRequestError(
            f"{where} must be a number, got {str(cell)[:MAX_SHOWN]!r}",
            next_step="send numbers only; a first line of column names must not hold a number",
        ) from e


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadRequestError(f"the body is not CSV in UTF-8: {e}") from e


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(str(name)[:MAX_SHOWN] for name in list(names)[:MAX_SHOWN])
    return f"{shown}, …" if len(names) > MAX_SHOWN else shown

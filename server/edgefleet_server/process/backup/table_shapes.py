"""How rows look outside of a database: the same values whether they come from SQLite or from PostgreSQL. Does no I/O.

A row is a tuple in the order of the table's columns. By kind of column: int, bool (0 or 1) and float are numbers; text and JSON are
texts, JSON as it is stored; a time is the text that SQLite has, `YYYY-MM-DD HH:MM:SS.ffffff` in UTC; bytes are bytes. NULL is None.
The sum of a table is the sum of the SHA-256 of its rows: rows may be read in any order to compare two tables (ADR 0151).
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Float, Integer, LargeBinary, MetaData, String
from sqlalchemy.types import TypeDecorator, TypeEngine

Row = tuple[Any, ...]
_MODULUS: Final = 1 << 256
_TIME_CHARS: Final = 26
_encode = msgspec.msgpack.Encoder().encode


class Kind(StrEnum):
    """What a column holds."""

    INT = "int"
    BOOL = "bool"
    FLOAT = "float"
    TEXT = "text"
    TIME = "time"
    JSON = "json"
    BYTES = "bytes"


_KINDS: Final[tuple[tuple[type[TypeEngine[Any]], Kind], ...]] = (
    (JSON, Kind.JSON),
    (Boolean, Kind.BOOL),
    (BigInteger, Kind.INT),
    (Integer, Kind.INT),
    (Float, Kind.FLOAT),
    (DateTime, Kind.TIME),
    (LargeBinary, Kind.BYTES),
    (String, Kind.TEXT),
)


class ColumnShape(msgspec.Struct, frozen=True):
    """One column."""

    name: str
    kind: Kind


class TableShape(msgspec.Struct, frozen=True):
    """One table."""

    name: str
    columns: tuple[ColumnShape, ...]

    @property
    def times(self) -> list[int]:
        """The places of the columns that hold times."""
        return [place for place, column in enumerate(self.columns) if column.kind is Kind.TIME]


def shapes_of(metadata: MetaData) -> list[TableShape]:
    """Return all tables, one that others refer to before those. Raises TypeError for a type of column that is not known here."""
    return [
        TableShape(
            str(table.name), tuple(ColumnShape(str(column.name), _kind_of(column.type)) for column in table.columns)
        )
        for table in metadata.sorted_tables
    ]


def _kind_of(given: TypeEngine[Any]) -> Kind:
    impl = given.impl_instance if isinstance(given, TypeDecorator) else given
    for known, kind in _KINDS:
        if isinstance(impl, known):
            return kind
    raise TypeError(f"no backup can hold a column of type {given!r}")


def with_usual_times(rows: list[Row], places: Sequence[int]) -> list[Row]:
    """Return rows of SQLite with each time in the usual form; mostly all have it and the list itself is returned."""
    for place in places:
        if any(is_unusual(row[place]) for row in rows):
            rows = [(*row[:place], usual_time(row[place]), *row[place + 1 :]) for row in rows]
    return rows


def is_unusual(time: str | None) -> bool:
    """Return whether a time of SQLite is written in another form than SQLAlchemy writes it."""
    return time is not None and (len(time) != _TIME_CHARS or time[10] != " ")


def usual_time(time: str | None) -> str | None:
    """Return a time in the usual form. Raises ValueError where it is none."""
    if time is None:
        return None
    moment = datetime.fromisoformat(time)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f").rjust(_TIME_CHARS, "0")


def packed(rows: Iterable[Row]) -> list[bytes]:
    """Return each row as bytes; equal rows are equal bytes."""
    return [_encode(row) for row in rows]


class RowSum:
    """The count and the sum of the rows of one table."""

    def __init__(self) -> None:
        """Begin without rows."""
        self.rows = 0
        self._total = 0

    def add(self, encoded: Sequence[bytes]) -> None:
        """Add rows, as `packed` returns them."""
        self.rows += len(encoded)
        digest, number = hashlib.sha256, int.from_bytes
        self._total = (self._total + sum(number(digest(one).digest()) for one in encoded)) % _MODULUS

    @property
    def text(self) -> str:
        """The sum in hex."""
        return f"{self._total:064x}"

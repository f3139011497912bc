"""Rows as parameters of one PostgreSQL statement: by column, and each thing once. Pure.

`bulk` says which statement, and this only how values get into it. A thousand rows that one look writes differ in few
columns, so a column goes as
- one parameter, where all rows have the same value: the server then neither reads nor parses it a thousand times;
- one array, where they differ;
- an array of the different values and one of places in it, where many rows share few JSON values;
- one value with all bytes and where each row's begin and end: no text of them a row.
Measured against one JSON value of all rows (ADR 0062). Everything goes as PostgreSQL's own text, which it converts by the column's type.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import JSON, Column, DateTime, LargeBinary, String, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Packed:
    """Columns of some rows. columns: the expression of each; source: what they select from; parameters: what both name."""

    count: int
    columns: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    _arrays: list[tuple[str, str]] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Return the set of rows, in their order, named `given`."""
        if not self._arrays:
            return f"generate_series(1, {self.count}) AS given(n)"
        arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in self._arrays)
        return f"unnest({arrays}) AS given({', '.join(name for name, _ in self._arrays)})"

    def text_among(self, names: Sequence[str]) -> str | None:
        """Return the expression of the first of these columns that differs from row to row and is text, None without one."""
        texts = {f"given.{name}" for name, kind in self._arrays if kind == "TEXT"}
        return next((self.columns[name] for name in names if self.columns[name] in texts), None)

    def add_array(self, name: str, kind: str, texts: Sequence[str | None]) -> str:
        """Add a column of texts that PostgreSQL reads as `kind`; return what names one row's value."""
        self.parameters[name] = array_of(texts)
        self._arrays.append((name, kind))
        return f"given.{name}"


def pack(table: Table, rows: Sequence[Mapping[str, Any]]) -> Packed:
    """Return the columns of rows that have the same keys, which are columns of the table. Raises ValueError for a time without a zone."""
    packed = Packed(len(rows))
    for place, name in enumerate(rows[0]):
        column = table.columns[name]
        values = [row[name] for row in rows]
        packed.columns[name] = _packed(packed, f"p{place}", column, values)
    return packed


def pack_tuples(table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Packed:
    """Return the columns of rows of values, in the order of `columns`; times and JSON are PostgreSQL's own text already."""
    packed = Packed(len(rows))
    for place, name in enumerate(columns):
        _, kind = _kind_of(table.columns[name])
        values = [row[place] for row in rows]
        texts = [one if one is None or type(one) is str else str(one) for one in values]
        packed.columns[name] = packed.add_array(f"p{place}", kind, texts)
    return packed


def array_of(texts: Sequence[str | None]) -> str:
    """Return texts as an array in PostgreSQL's own notation."""
    if None in texts:
        return "{" + ",".join("NULL" if one is None else f'"{_escaped(one)}"' for one in texts) + "}"
    known: Sequence[str] = texts  # type: ignore[assignment]  # none of them is None
    joined = "\n".join(known)
    if "\\" in joined or '"' in joined:
        known = [_escaped(one) for one in known]
    return '{"' + '","'.join(known) + '"}' if known else "{}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _packed(packed: Packed, name: str, column: Column[Any], values: list[Any]) -> str:
    """Add one column; return its expression."""
    impl, kind = _kind_of(column)
    if isinstance(impl, JSON):
        return _json(packed, name, values)
    if values.count(values[0]) == len(values):
        packed.parameters[name] = values[0] if isinstance(impl, LargeBinary) else _text(impl, values[0])
        return f"CAST(:{name} AS {kind})"
    if isinstance(impl, LargeBinary):
        return _blob(packed, name, values)
    return packed.add_array(name, kind, [_text(impl, value) for value in values])


def _json(packed: Packed, name: str, values: Sequence[Any]) -> str:
    """Add a column of JSON values. They are distinguished by their text: 1 and true are the same to Python."""
    first = values[0]
    texts = [_json_text(first)] if all(value is first for value in values) else [_json_text(value) for value in values]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts), 1)}
    if len(places) == 1:
        packed.parameters[name] = texts[0]
        return f"CAST(:{name} AS JSON)"
    if 2 * len(places) > len(texts):
        return packed.add_array(name, "JSON", texts)
    packed.parameters[f"{name}_all"] = array_of(list(places))
    place = packed.add_array(name, "INTEGER", [str(places[text]) for text in texts])
    return f"(CAST(:{name}_all AS JSON[]))[{place}]"


def _json_text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _blob(packed: Packed, name: str, values: Sequence[bytes | None]) -> str:
    packed.parameters[f"{name}_all"] = b"".join(value for value in values if value is not None)
    begin = packed.add_array(f"{name}_at", "INTEGER", list(_starts(values)))
    length = packed.add_array(
        f"{name}_len", "INTEGER", [None if value is None else str(len(value)) for value in values]
    )
    return f"substring(CAST(:{name}_all AS BYTEA) FROM {begin} FOR {length})"


def _starts(values: Sequence[bytes | None]) -> Iterator[str | None]:
    """Yield where each value begins in all of them together, counted from one."""
    at = 1
    for value in values:
        yield None if value is None else str(at)
        at += 0 if value is None else len(value)


def _kind_of(column: Column[Any]) -> tuple[TypeEngine[Any], str]:
    """Return what a column stores, and the name of the type that its text is read as: never one that would cut a text off."""
    impl = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    return impl, "TEXT" if isinstance(impl, String) else str(impl.compile(_DIALECT))


def _text(impl: TypeEngine[Any], value: Any) -> str | None:
    """Return a value as PostgreSQL reads it; None is NULL."""
    if value is None or type(value) is str:
        return value
    if isinstance(impl, DateTime):
        moment: datetime = value
        if moment.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        return moment.isoformat()
    return repr(value) if type(value) is float else str(value)

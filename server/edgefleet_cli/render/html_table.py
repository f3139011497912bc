"""A table for a notebook: the columns that a terminal shows, as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TypeVar

from edgefleet_cli.render.output import Column

T = TypeVar("T")


def html_table(title: str, columns: Sequence[Column[T]], rows: Sequence[T], notes: Sequence[str] = ()) -> str:
    """Return a title, a table and remarks; every text is escaped, for names and reasons come from outside."""
    shown = [column for column in columns if not column.wide]
    head = "".join(f"<th>{html.escape(column.header)}</th>" for column in shown)
    body = ["".join(f"<td>{html.escape(column.cell(row))}</td>" for column in shown) for row in rows]
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>" if rows else ""
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<div><strong>{html.escape(title)}</strong>{table}{below}</div>"

"""Two versions of a model side by side: one row a figure of a profile, for tables, CSV and names."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.render.format import milliseconds, size, text
from edgefleet_cli.render.output import Column, Output, Sheet

_SIGNS = {"good": "▲ ", "bad": "▼ "}
_FIGURES: list[Column[api.model.Change]] = [
    Column("figure", lambda c: text(c.name), keep=True),
    Column("before", lambda c: value_text(c, c.before), right=True),
    Column("after", lambda c: value_text(c, c.after), right=True),
    Column("difference", lambda c: _SIGNS.get(c.tone, "") + text(c.said), fold=True),
    Column("rests on", lambda c: text(c.basis), spare=1),
]


def _of_pair(one: Column[api.model.Change]) -> Column[tuple[str, api.model.Change]]:
    """Return a column of a change as one of a change with its profile."""
    return Column(one.header, lambda c: one.cell(c[1]), right=one.right, keep=one.keep, spare=one.spare, fold=one.fold)


CHANGES: Sheet[tuple[str, api.model.Change]] = Sheet(
    "figures: neither version has a bundle",
    [
        Column("profile", lambda c: text(c[0]), keep=True),
        *(_of_pair(one) for one in _FIGURES),
    ],
    lambda c: f"{c[0]}/{c[1].figure}",
)


def value_text(change: api.model.Change, value: float | str | None) -> str:
    """Return one side of a comparison in its unit."""
    if value is None or isinstance(value, str):
        return text(value)
    match change.unit:
        case "bytes":
            return size(value)
        case "ms":
            return milliseconds(value)
        case "share":
            return f"{value:.2%}"
        case "score":
            return f"{change.metric} {value:.4f}".lstrip()
        case _:
            return f"{value:g}"


def rows_of(comparison: api.model.Comparison) -> list[tuple[str, api.model.Change]]:
    """Return every figure of every profile that both versions have, with the profile."""
    return [(one.profile, change) for one in comparison.profiles for change in one.changes]


def show_comparison(out: Output, comparison: api.model.Comparison) -> None:
    """Write a comparison for eyes, a table a profile."""
    out.prose(f"{text(comparison.before.ref)} before, {text(comparison.after.ref)} after; ▲ better, ▼ worse")
    for one in comparison.profiles:
        out.heading(f"{text(one.profile)}: better in {one.better}, worse in {one.worse}")
        if one.missing:
            out.prose(one.missing)
        else:
            out.table(one.changes, _FIGURES)
    if not comparison.profiles:
        out.note(f"no {CHANGES.plural}")

"""Two versions of a model side by side: one row a figure of a profile, for tables, CSV and names."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.render.format import milliseconds, size, text
from edgefleet_cli.render.output import Column, Output, Sheet

Json = dict[str, Any]

_SIGNS = {"good": "▲ ", "bad": "▼ "}
_FIGURES = [
    Column("figure", lambda c: text(c.get("name")), keep=True),
    Column("before", lambda c: value_text(c, "before"), right=True),
    Column("after", lambda c: value_text(c, "after"), right=True),
    Column("difference", lambda c: _SIGNS.get(str(c.get("tone")), "") + text(c.get("said"))),
]
CHANGES = Sheet(
    "figures: neither version has a bundle",
    [Column("profile", lambda c: text(c.get("profile")), keep=True), *_FIGURES],
    lambda c: f"{c.get('profile')}/{c.get('figure')}",
)


def value_text(change: Json, side: str) -> str:
    """Return one side of a comparison in its unit."""
    value = change.get(side)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text(value)
    match change.get("unit"):
        case "bytes":
            return size(value)
        case "ms":
            return milliseconds(value)
        case "share":
            return f"{value:.2%}"
        case "score":
            return f"{change.get('metric') or ''} {value:.4f}".lstrip()
        case _:
            return f"{value:g}"


def rows_of(comparison: Json) -> list[Json]:
    """Return every figure of every profile that both versions have."""
    profiles = comparison.get("profiles") or []
    return [{"profile": one.get("profile"), **change} for one in profiles for change in one.get("changes") or []]


def show_comparison(out: Output, comparison: Json) -> None:
    """Write a comparison for eyes, a table a profile."""
    before, after = comparison["before"], comparison["after"]
    out.prose(f"{text(before.get('ref'))} before, {text(after.get('ref'))} after; ▲ better, ▼ worse")
    for one in comparison.get("profiles") or []:
        out.heading(f"{text(one.get('profile'))}: better in {one.get('better')}, worse in {one.get('worse')}")
        if one.get("missing"):
            out.prose(text(one["missing"]))
        else:
            out.table(one["changes"], _FIGURES)
    if not comparison.get("profiles"):
        out.note(f"no {CHANGES.plural}")

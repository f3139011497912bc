"""Objectives for eyes: tables, and one in full."""

from __future__ import annotations

from edgefleet_cli.core import api
from edgefleet_cli.render.format import digits, duration, moment, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.render.sparkline import spark, thinned

CHART = 60
_WORDS = {"no_data": "no data", "slow_burn": "slow burn"}


def percent(share: float | None) -> str:
    """Return a share as a percentage, `-` for none."""
    return "-" if share is None else f"{100 * share:.1f}%"


def state_of(one: api.alert.Slo) -> str:
    """Return how an objective stands, in a word or two."""
    return _WORDS.get(str(one.state), text(one.state))


def fastest(one: api.alert.Slo) -> str:
    """Return the highest burn of all long windows."""
    burns = [burn.long_burn for burn in one.burns if burn.long_burn is not None]
    return f"{digits(max(burns), 2)}x" if burns else "-"


SHEET: Sheet[api.alert.Slo] = Sheet(
    "objectives",
    [
        Column("name", lambda s: text(s.name), keep=True),
        Column("model", lambda s: text(s.model)),
        Column("state", state_of),
        Column("budget left", lambda s: percent(s.left), right=True),
        Column("burn", fastest, right=True),
        Column("what", lambda s: text(s.says), spare=1),
        Column("good", lambda s: text(s.good), right=True, wide=True),
        Column("of", lambda s: text(s.total), right=True, wide=True),
        Column("changed", lambda s: moment(s.changed_at), wide=True),
        Column("by", lambda s: text(s.changed_by), wide=True),
    ],
    lambda s: text(s.name),
)
BURNS: list[Column[api.alert.Burn]] = [
    Column("windows", lambda b: f"{duration(b.long_s)} / {duration(b.short_s)}", keep=True),
    Column("long", lambda b: "-" if b.long_burn is None else f"{digits(b.long_burn, 2)}x", right=True),
    Column("short", lambda b: "-" if b.short_burn is None else f"{digits(b.short_burn, 2)}x", right=True),
    Column("limit", lambda b: f"{b.factor:g}x", right=True),
    Column("bad", lambda b: f"{b.bad} of {b.total}", right=True),
    Column("says", lambda b: "too few failed to say" if b.state == "few" else text(b.state)),
]


def show_slo(out: Output, found: api.alert.SloDetail) -> None:
    """Write one objective: what it asks, what is left, how fast that burns, and the line of its budget."""
    one = found.slo
    out.fields(
        [
            ("objective", f"{one.name}: {text(one.title)}"),
            ("model", text(one.model)),
            ("asks", text(one.says)),
            *([("counted at", _counted_at(one))] if one.counted_at is not None else []),
            ("state", state_of(one)),
            ("budget left", percent(one.left)),
            ("good", f"{one.good} of {one.total}, since {moment(one.since)}"),
            ("changed", f"{moment(one.changed_at)} by {one.changed_by}"),
        ]
    )
    left = thinned([point.left for point in found.history], CHART)
    if any(value is not None for value in left):
        out.prose(f"budget left  {spark(left)}  now {percent(one.left)}")
    out.heading("How fast it burns (1x: the budget lasts just its window)")
    out.table(one.burns, BURNS)


def _counted_at(one: api.alert.Slo) -> str:
    return f"{text(one.counted_at)} ms, the nearest edge of the latency sketch (at most 1% away)"

"""Why latency rose, as a table and as sentences."""

from __future__ import annotations

from typing import Final

from edgefleet_cli.core import api
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Output, Sheet

MARKS: Final = {
    "likely": "●●●",
    "possible": "●●·",
    "unlikely": "●··",
    "unchanged": "···",
    "unknown": "?",
    "ruled_out": "×",
}
WORTH_A_WORD: Final = ("likely", "possible", "unlikely")
CAUSES: Final[Sheet[api.model.LatencyCause]] = Sheet(
    "rise of latency in this time",
    [
        Column("cause", lambda c: text(c.kind), keep=True),
        Column("verdict", lambda c: text(c.verdict)),
        Column("score", lambda c: f"{c.score:.3f}", right=True),
        Column("before", lambda c: text(c.before), right=True),
        Column("after", lambda c: text(c.after), right=True),
        Column("unit", lambda c: text(c.unit)),
        Column("said", lambda c: text(c.said), fold=True),
    ],
    lambda c: text(c.kind),
)
_TABLE: Final[list[Column[api.model.LatencyCause]]] = [
    Column("", lambda c: MARKS.get(c.verdict, "?"), keep=True),
    Column("cause", lambda c: text(c.title), keep=True),
    Column("verdict", lambda c: text(c.verdict).replace("_", " "), keep=True),
    Column("figures", lambda c: text(c.said), fold=True),
]


def show_explanation(out: Output, found: api.model.LatencyExplanation) -> None:
    """Write an explanation for eyes: the answer, what changed with the reasons, then what did not change."""
    out.prose(found.said)
    if found.next:
        out.prose(f"next: {found.next}")
    if not found.causes:
        return
    out.heading("What changed, and what did not")
    out.table(found.causes, _TABLE)
    for cause in found.causes:
        if cause.verdict in WORTH_A_WORD and (cause.evidence or cause.against):
            out.heading(text(cause.title))
            for sentence in cause.evidence:
                out.prose(f"+ {sentence}")
            for sentence in cause.against:
                out.prose(f"- {sentence}")

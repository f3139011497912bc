"""Turns of a rollout as marks on the charts of its page. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from edgefleet_server.dashboard.core.line_chart import time_place
from edgefleet_server.dashboard.timelines.charts import ChartMark

SIGNS: Final = {"deploy": "◆", "rollback": "▼", "pause": "○"}
END: Final = 100.0
"""Percents of the width that marks and their labels have."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that happened. kind: of its mark; tone: as of a `ChartMark`; label: shorter words for it, "" for the same."""

    at: datetime
    kind: str
    words: str
    tone: str = ""
    label: str = ""


def turn_marks(turns: Iterable[Turn], first: int, last: int, letter: float) -> list[ChartMark]:
    """Return the marks within the axis, from left to right; a label only where there is room before the next mark.

    first, last: of the axis, seconds since 1970; letter: percents of the width that a letter takes.
    """
    shown = sorted((one for one in turns if first <= int(one.at.timestamp()) <= last), key=lambda one: one.at)
    places = [round(100 * time_place(int(one.at.timestamp()), first, last), 2) for one in shown]
    marks = []
    for one, (place, following) in zip(shown, pairwise([*places, END]), strict=True):
        label = one.label or one.words
        has_room = following - place > letter * len(label)
        marks.append(ChartMark(place, one.kind, SIGNS[one.kind], one.words, one.tone, label if has_room else ""))
    return marks

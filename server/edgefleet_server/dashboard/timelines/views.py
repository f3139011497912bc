"""What the pages show of figures over time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.dashboard.timelines.charts import DEFAULT_SPAN, SPANS, Chart, charts, fitting, key_of
from edgefleet_server.telemetry.timelines.model import LinesBy, Mark, Scope, Timeline
from edgefleet_server.telemetry.timelines.service import TimelineReader

SHOWN_MARKS: Final = 40
KEPT_S: Final = 15.0
Asked = tuple[Scope, str, str, LinesBy | None]


@dataclass(frozen=True, slots=True)
class TimelineView:
    """Charts of a span of time. key: kinds of marks with signs and words; marks: what happened, newest first; more: older ones.

    spans: those that can be asked for; by: by what its lines are told apart, one of the choices.
    """

    scope: str
    name: str
    span: str
    spans: Sequence[str]
    by: str
    choices: Sequence[str]
    charts: Sequence[Chart]
    step_s: int
    key: Sequence[tuple[str, str, str]]
    marks: Sequence[Mark]
    more: int

    def first(self, count: int) -> "TimelineView":
        """Return it with the first charts only."""
        return replace(self, charts=self.charts[:count])

    @property
    def plain(self) -> dict[str, Any]:
        """The figures for the script."""
        return {"span": self.span, "charts": [one.plain for one in self.charts]}


class TimelineViews:
    """Builds them. Thread-safe; calls block."""

    def __init__(self, timelines: TimelineReader, clock: Clock) -> None:
        """Wire the parts."""
        self._timelines = timelines
        self._clock = clock
        self._kept: dict[Asked, tuple[float, TimelineView]] = {}

    def read(self, scope: Scope, name: str, span: str, by: LinesBy | None = None) -> Timeline:
        """Return the figures of one of SPANS."""
        length, points = SPANS.get(span, SPANS[DEFAULT_SPAN])
        now = self._clock.now()
        return self._timelines.read(scope, name, now - length, now, by=by, points=points)

    def view(self, scope: Scope, name: str = "", span: str = "", by: LinesBy | None = None) -> TimelineView:
        """Return the charts of a span, at most KEPT_S old: pages are made again with every event.

        Where it is none of SPANS: of the usual one, or of a shorter one that has all of its figures.
        """
        asked, now_s, known = (scope, name, span, by), self._clock.monotonic_s(), self._kept
        kept = {key: one for key, one in known.items() if 0 <= now_s - one[0] < KEPT_S}
        if asked not in kept:
            kept[asked] = (now_s, self._made(*asked))
        self._kept = kept
        return kept[asked][1]

    def _made(self, scope: Scope, name: str, span: str, by: LinesBy | None) -> TimelineView:
        timeline = self.read(scope, name, span, by)
        made = charts(timeline)
        if span not in SPANS:
            span, fits = DEFAULT_SPAN, fitting(timeline)
            shorter = timeline if fits == span else self.read(scope, name, fits, by)
            # of a window that begins now, or by a clock that is ahead, only longer steps may begin before now
            if found := charts(shorter):
                span, timeline, made = fits, shorter, found
        marks = list(reversed(timeline.marks))
        return TimelineView(
            scope=scope.value,
            name=name,
            span=span,
            spans=list(SPANS),
            by=timeline.by.value,
            choices=_CHOICES[scope],
            charts=made,
            step_s=timeline.step_s,
            key=key_of(made),
            marks=marks[:SHOWN_MARKS],
            more=max(0, len(marks) - SHOWN_MARKS),
        )


_CHOICES = {
    Scope.FLEET: (LinesBy.MODEL.value, LinesBy.SITE.value, LinesBy.PROFILE.value, LinesBy.GROUP.value),
    Scope.MODEL: (LinesBy.VERSION.value, LinesBy.PROFILE.value, LinesBy.SITE.value, LinesBy.GROUP.value),
    Scope.GROUP: (LinesBy.MODEL.value, LinesBy.VERSION.value, LinesBy.PROFILE.value, LinesBy.SITE.value),
    Scope.DEVICE: (),
}

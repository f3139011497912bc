"""What the pages show of figures over time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.dashboard.core.readings import Readings
from edgefleet_server.dashboard.timelines.chart_limits import Known, Limits
from edgefleet_server.dashboard.timelines.charts import DEFAULT_SPAN, SPANS, Chart, charts, fitting, key_of, points_of
from edgefleet_server.dashboard.timelines.time_range import Asked, TimeRange
from edgefleet_server.telemetry.timelines.model import LinesBy, Mark, Scope, Timeline
from edgefleet_server.telemetry.timelines.routes import span_of
from edgefleet_server.telemetry.timelines.service import TimelineReader

SHOWN_MARKS: Final = 40


@dataclass(frozen=True, slots=True)
class TimelineView:
    """Charts of a span of time. key: kinds of marks with signs and words; marks: what happened, newest first; more: older ones.

    range: from when to when, and what can be asked for instead; since, until: the same as moments. by: by what its lines are told apart,
    one of the choices.
    """

    scope: str
    name: str
    range: TimeRange
    since: datetime
    until: datetime
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
    def span(self) -> str:
        """The name of the span; "" where it is a window."""
        return self.range.span

    @property
    def spans(self) -> Sequence[str]:
        """The spans that can be asked for."""
        return self.range.spans

    @property
    def plain(self) -> dict[str, Any]:
        """The figures for the script."""
        return {"charts": [one.plain for one in self.charts]}


class TimelineViews:
    """Builds them. Thread-safe; calls block."""

    def __init__(self, timelines: TimelineReader, readings: Readings, clock: Clock, limits: Known = Limits) -> None:
        """Wire the parts. limits: what is known of limits now."""
        self._timelines = timelines
        self._clock = clock
        self._limits = limits
        self._readings = readings

    def read(self, scope: Scope, name: str, asked: Asked, by: LinesBy | None = None) -> Timeline:
        """Return the figures of a window, or of one of SPANS. Raises BadSpanError."""
        now = self._clock.now()
        if window := asked.window(now):
            since, until = span_of(self._clock, *window)
            return self._timelines.read(scope, name, since, until, by=by, points=points_of(until - since))
        length, points = SPANS.get(asked.span, SPANS[DEFAULT_SPAN])
        return self._timelines.read(scope, name, now - length, now, by=by, points=points)

    def view(self, scope: Scope, name: str = "", asked: Asked | str = "", by: LinesBy | None = None) -> TimelineView:
        """Return the charts of what is asked for, as old as `Readings` keeps them. Raises BadSpanError.

        A span that is none of SPANS: the usual one, or a shorter one that has all of its figures.
        """
        wanted = Asked(asked) if isinstance(asked, str) else asked
        return self._readings.of("timelines", (scope, name, wanted, by), lambda: self._made(scope, name, wanted, by))

    def _made(self, scope: Scope, name: str, asked: Asked, by: LinesBy | None) -> TimelineView:
        timeline, limits = self.read(scope, name, asked, by), self._limits()
        made, span = charts(timeline, limits, asked.scale), asked.span
        window = asked.kept(timeline.since, timeline.until)
        if window is None and span not in SPANS:
            span = DEFAULT_SPAN
            for _ in SPANS:  # shorter steps say more exactly where the figures begin
                fits = fitting(timeline)
                if fits == span:
                    break
                shorter = self.read(scope, name, Asked(fits), by)
                # of a window that begins now, or by a clock that is ahead, only longer steps may begin before now
                if not (found := charts(shorter, limits, asked.scale)):
                    break
                span, timeline, made = fits, shorter, found
        marks = list(reversed(timeline.marks))
        choices = _CHOICES[scope]
        drawings = [one.drawing for one in made]
        return TimelineView(
            scope=scope.value,
            name=name,
            range=TimeRange(
                span="" if window else span,
                spans=list(SPANS),
                usual=DEFAULT_SPAN,
                window=window,
                scale=asked.scale,
                other=(("by", timeline.by.value),) if choices and timeline.by.value != choices[0] else (),
                is_wide=any(one.is_log for one in drawings),
                may_be_wide=any(one.can_log for one in drawings),
            ),
            since=timeline.since,
            until=timeline.until,
            by=timeline.by.value,
            choices=choices,
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

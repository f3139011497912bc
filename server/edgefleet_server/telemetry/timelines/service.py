"""Reads figures over time: of the fleet, a model or a group from roll-ups, of a device from what it sent."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.heat_limits import heat_limits
from edgefleet_protocol.ids import ModelName
from edgefleet_server.db.database import Database
from edgefleet_server.events.model import EventFilter, EventView
from edgefleet_server.fleet.presence.model import Absence, FleetStep, PresenceSpan, folded, online_shares
from edgefleet_server.telemetry import store
from edgefleet_server.telemetry.drift.views import ModelDrift
from edgefleet_server.telemetry.rollups.model import Dimension, Step, Sums, SystemSums
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader
from edgefleet_server.telemetry.signals.model import Scale
from edgefleet_server.telemetry.timelines.device_steps import message_steps, window_steps
from edgefleet_server.telemetry.timelines.marks import (
    DEVICE_KINDS,
    DRIFT_KINDS,
    KINDS,
    between,
    marks_of,
    marks_of_absences,
)
from edgefleet_server.telemetry.timelines.model import MOST_POINTS, DriftLine, LinesBy, Mark, Scope, Timeline
from edgefleet_server.telemetry.timelines.timeline_figures import (
    Cells,
    begins,
    classes_of,
    joined,
    line_of,
    rounded,
    scale_of,
    step_length,
    system_of,
)

ACTIVE: Final = ("active",)
MOST_MARKS: Final = 500
MOST_ROWS: Final = 20_000
"""Of roll-ups that are read for one answer."""
USUAL: Final[Mapping[Scope, LinesBy]] = {
    Scope.FLEET: LinesBy.MODEL,
    Scope.MODEL: LinesBy.VERSION,
    Scope.GROUP: LinesBy.MODEL,
    Scope.DEVICE: LinesBy.MODEL,
}
_DIMENSIONS: Final[Mapping[LinesBy, tuple[Dimension, ...]]] = {
    LinesBy.NONE: (),
    LinesBy.MODEL: (Dimension.MODEL,),
    LinesBy.VERSION: (Dimension.VERSION,),
    LinesBy.GROUP: (Dimension.GROUP,),
    LinesBy.PROFILE: (Dimension.PROFILE,),
    LinesBy.SITE: (Dimension.SITE,),
}
_OF: Final[Mapping[Scope, Dimension]] = {Scope.MODEL: Dimension.MODEL, Scope.GROUP: Dimension.GROUP}


class Feed(Protocol):
    """What is needed of the event log."""

    def newest_of(self, what: EventFilter, limit: int) -> list[EventView]:
        """Return events, newest first."""
        ...


class Drift(Protocol):
    """What is needed of drift."""

    def of_model(self, name: ModelName) -> ModelDrift:
        """Return the drift of the version that most devices report."""
        ...


class Presence(Protocol):
    """What is needed of presence over time."""

    def fleet(self, scale_s: int, since: datetime, until: datetime) -> Sequence[FleetStep]:
        """Return the steps of the fleet."""
        ...

    def device(self, device_id: str, since: datetime, until: datetime) -> Sequence[PresenceSpan]:
        """Return how a device was."""
        ...

    def absences(self, device_id: str, since: datetime, until: datetime) -> Sequence[Absence]:
        """Return the newest absences of a device that ended in a span of time, oldest first."""
        ...


class TimelineReader:
    """Reads. Thread-safe; calls block."""

    def __init__(  # noqa: PLR0913, PLR0917  # figures, events and drift come from as many parts
        self,
        db: Database,
        clock: Clock,
        rollups: RollupReader,
        feed: Feed,
        drift: Drift,
        presence: Presence,
        check: Callable[[Scope, str], None],
        facts: Callable[[str], Mapping[str, Any]],
    ) -> None:
        """Wire the parts. check: raises an error unless there is such a model, group or device (`check_of`); facts: of a device."""
        self._check = check
        self._facts = facts
        self._db = db
        self._clock = clock
        self._rollups = rollups
        self._feed = feed
        self._drift = drift
        self._presence = presence

    def read(
        self,
        scope: Scope,
        name: str,
        since: datetime,
        until: datetime,
        *,
        by: LinesBy | None = None,
        points: int = MOST_POINTS,
    ) -> Timeline:
        """Return figures over time in at most `points` steps. name: "" for the fleet. Raises an error when there is no such object.

        By group a device in two groups counts in both lines. A device is always told apart by model and lane.
        """
        self._check(scope, name)
        chosen = USUAL[scope] if by is None or scope is Scope.DEVICE else by
        now_s = int(self._clock.now().timestamp())
        step_s = step_length((until - since).total_seconds(), points)
        answers: list[Step[Sums]] = []
        if scope is Scope.DEVICE:
            lines, system = self._of_device(name, since, until, step_s)
        else:
            answers, system, step_s = self._of_rollups(scope, name, chosen, step_s, since, until, now_s)
            lines = joined(answers, step_s)
        at = begins(int(since.timestamp()), int(until.timestamp()), step_s)
        means, most = system_of(system, at, step_s)
        means |= self._presence_of(scope, name, at, step_s, now_s)
        return Timeline(
            scope=scope,
            name=name,
            by=chosen,
            since=since,
            until=until,
            step_s=step_s,
            at=[datetime.fromtimestamp(one, UTC) for one in at],
            lines=[line_of(key, cells, at, step_s, now_s) for key, cells in lines.items()],
            system=means,
            system_most=most,
            drift=self._drift_of(name, since, until) if scope is Scope.MODEL else [],
            marks=self._marks(scope, name, since, until, step_s),
            classes=classes_of(answers, at, step_s) if scope is Scope.MODEL else (),
            limits=heat_limits(self._facts(name)) if scope is Scope.DEVICE else {},
        )

    def _of_device(
        self, device: str, since: datetime, until: datetime, step_s: int
    ) -> tuple[dict[str, Cells], list[Step[SystemSums]]]:
        with self._db.read(streams=True) as session:
            lines = joined(window_steps(store.windows_between(session, device, since, until)), step_s)
            return lines, list(message_steps(store.system_rows(session, [device], since, until)))

    def _of_rollups(  # the question as it was asked
        self, scope: Scope, name: str, by: LinesBy, step_s: int, since: datetime, until: datetime, now_s: int
    ) -> tuple[list[Step[Sums]], list[Step[SystemSums]], int]:
        """Return the sums, and how long their steps are: longer ones where finer ones would be too many rows to read."""
        of = {_OF[scope]: (name,)} if scope in _OF else {}
        where = {**of, Dimension.LANE: ACTIVE}
        series, span_s = self._rollups.series(_DIMENSIONS[by], where), (until - since).total_seconds()
        scale_s = scale_of(step_s, now_s - since.timestamp(), series * span_s / MOST_ROWS)
        step_s = max(step_s, scale_s)
        begin = datetime.fromtimestamp(int(since.timestamp()) // step_s * step_s, UTC)
        answers = self._rollups.models(scale_s, begin, until, by=_DIMENSIONS[by], where=where, step_s=step_s)
        # a model's devices are those of the fleet: roll-ups do not say which of them run it
        place = {Dimension.GROUP: (name,)} if scope is Scope.GROUP else {}
        return answers, self._rollups.system(scale_s, begin, until, where=place, step_s=step_s), step_s

    def _presence_of(
        self, scope: Scope, name: str, at: Sequence[int], step_s: int, now_s: int
    ) -> dict[str, list[float | None]]:
        """Return how many devices were online and drifted, of the whole fleet; of a device how long it was online."""
        begin, end = (datetime.fromtimestamp(one, UTC) for one in (at[0], at[-1] + step_s))
        found: dict[str, list[float | None]] = {}
        if scope is Scope.FLEET:
            kept = folded(self._presence.fleet(scale_of(step_s, now_s - at[0]), begin, end), step_s)
            steps = [kept.get(one) for one in at]
            found["online_ratio"] = [None if one is None else one.online_ratio for one in steps]
            found["drifting_ratio"] = [None if one is None else one.drifting_ratio for one in steps]
        elif scope is Scope.DEVICE:
            found["online_ratio"] = online_shares(self._presence.device(name, begin, end), at, step_s)
        known = {key: column for key, column in found.items() if any(one is not None for one in column)}
        return {key: [None if one is None else rounded(one) for one in column] for key, column in known.items()}

    def _drift_of(self, model: str, since: datetime, until: datetime) -> list[DriftLine]:
        """Return the steps of drift that began in a span of time."""
        found = self._drift.of_model(ModelName(model))
        if found.since is None:
            return []
        length = Scale(found.scale).length
        lines = []
        for one in found.signals:
            # the judged period is the last two steps
            begins = [found.since + length * (number - len(one.history) + 2) for number in range(len(one.history))]
            kept = [number for number, at in enumerate(begins) if since <= at < until]
            psi = [one.history[number] for number in kept]
            if any(value is not None for value in psi):
                lines.append(DriftLine(one.name, begins[kept[0]], int(length.total_seconds()), psi))
        return lines

    def _marks(self, scope: Scope, name: str, since: datetime, until: datetime, step_s: int) -> list[Mark]:
        device = name if scope is Scope.DEVICE else None
        model = name if scope is Scope.MODEL else None
        events: list[EventView] = []
        # drift comes from devices, as often as they like: it has a limit of its own
        for kinds, of in ((KINDS if device is None else DEVICE_KINDS, None), (DRIFT_KINDS, model)):
            # a device may say long after that it went back
            what = EventFilter(device, None, kinds, since, until if device is None else None, of)
            events += self._feed.newest_of(what, MOST_MARKS)
        found = marks_of(events, scope, name, step_s)
        if device is not None:
            found += marks_of_absences(self._presence.absences(device, since, until), device, step_s)
        return sorted(between(found, since, until), key=lambda one: one.at)


def check_of(
    model: Callable[[ModelName], object], group: Callable[[str], object], device: Callable[[str], object]
) -> Callable[[Scope, str], None]:
    """Return what raises an error unless there is such a model, group or device."""

    def check(scope: Scope, name: str) -> None:
        match scope:
            case Scope.MODEL:
                model(ModelName(name))
            case Scope.GROUP:
                group(name)
            case Scope.DEVICE:
                device(name)
            case Scope.FLEET:
                pass

    return check

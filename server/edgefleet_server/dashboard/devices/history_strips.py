"""What happened to a device over a span of time as strips of segments: health, the version of each model, connection. Pure.

Rules:
1. A strip says only what is stored: reports of the device, alerts, and what it says now. Where nothing is known there is no segment.
2. Health is *healthy* only while the device was online and nothing spoke against it. Of segments that overlap the worst wins.
3. Of versions the one that runs is solid, those before it are grey.
4. Connection is what `fleet.presence` kept. A time that no server saw is *unknown*; absences that only an alert noticed are shown in it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from edgefleet_protocol.messages import EventKind, Phase
from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.dashboard.core.filters import SEVERITY_KINDS
from edgefleet_server.events.model import EventView
from edgefleet_server.fleet.health_state import Health
from edgefleet_server.fleet.inventory.views import DeviceView, release_of
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.presence.model import PresenceSpan, PresenceState, coarse
from edgefleet_server.telemetry.latency.views import LatencyExplanation

KINDS: Final = (EventKind.PHASE.value, EventKind.ROLLBACK.value, "suspect", "suspicion_cleared")
"""Events that strips are made of."""
RUNS: Final = (Phase.COMMITTED.value, Phase.PROBATION.value)
TROUBLED: Final = (Phase.FAILED.value, Phase.ROLLED_BACK.value)
LEAST: Final = 0.4
"""Percent of the strip: what was shorter is drawn as wide as this."""
TEXT_NEEDS: Final = 9.0
"""Percent of the strip that a text needs at least."""
OFFLINE_RULE: Final = "device_offline"
_WORSE: Final = ("ok", "run", "warn", "bad", "off")


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of a strip. kind: ok, run, warn, bad, off, s (what runs now), t (before), u (unknown); x, width: percent.

    text: "" where it has no room.
    """

    kind: str
    x: float
    width: float
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of segments, oldest first. label: all of it in words, for screen readers."""

    name: str
    label: str
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True)
class _Span:
    """From when until when something held."""

    begin: datetime
    end: datetime
    kind: str
    text: str


def strips(  # what happened is kept in as many places
    device: DeviceView,
    events: Sequence[EventView],
    alerts: Sequence[AlertView],
    presence: Sequence[PresenceSpan],
    since: datetime,
    until: datetime,
    rises: Sequence[LatencyExplanation] = (),
) -> list[Strip]:
    """Return the strips of a span of time.

    events: of KINDS, also those before the span, newest first; alerts: open and ended ones; presence: of the span, oldest first.
    """
    ordered = sorted(events, key=lambda one: (one.at, one.id))
    begin = max(since, device.enrolled_at)
    if begin >= until:
        return []
    end = min(until, device.revoked_at or until)
    left = [] if device.revoked_at is None else [_Span(device.revoked_at, until, "off", "revoked")]
    seen = coarse(presence, (until - since) * LEAST / 100)
    away = [*_absences(device, alerts, end), *_away(seen), *left]
    models = {one.model: one for one in device.models}
    versions = {
        name: list(_versions(one.target, one.changed_at, [event for event in ordered if event.model == name], end))
        for name, one in models.items()
    }
    trouble = [
        *_failures(ordered, end),
        *_suspicions(ordered, end),
        *_alarms(alerts, end),
        *_slow(rises, end),
        *away,
    ]
    there = [one for one in seen if one.state is PresenceState.ONLINE]
    rows = [("Health", [*(_Span(one.since, one.until, "ok", "healthy") for one in there), *trouble])]
    rows += [(name, spans) for name, spans in versions.items() if spans]
    known = [_Span(one.since, one.until, "t", "online") for one in there]
    blind = [_Span(one.since, one.until, "u", "unknown") for one in seen if one.state is PresenceState.UNKNOWN]
    rows.append(("Connection", [*blind, *known, *away]))
    return [_strip(name, spans, since, until) for name, spans in rows]


def _absences(device: DeviceView, alerts: Sequence[AlertView], until: datetime) -> Iterator[_Span]:
    for one in alerts:
        if one.rule == OFFLINE_RULE and one.state is not AlertState.PENDING:
            yield _Span(one.since, one.resolved_at or until, "off", "offline")
    if device.status is DeviceStatus.OFFLINE:
        said = (reason.since for reason in device.health_reasons if reason.health is Health.OFFLINE)
        since = next((one for one in said if one is not None), None)
        if since is not None:
            yield _Span(since, until, "off", "offline")


def _away(presence: Iterable[PresenceSpan]) -> Iterator[_Span]:
    for one in presence:
        if one.state is PresenceState.OFFLINE:
            yield _Span(one.since, one.until, "off", "offline")
        elif one.state is PresenceState.FLAPPING:
            yield _Span(one.since, one.until, "warn", f"flapping: away {one.times} times")


def _alarms(alerts: Sequence[AlertView], until: datetime) -> Iterator[_Span]:
    for one in alerts:
        if one.rule != OFFLINE_RULE and one.state is not AlertState.PENDING:
            yield _Span(one.since, one.resolved_at or until, SEVERITY_KINDS[one.severity], one.title)


def _slow(rises: Sequence[LatencyExplanation], until: datetime) -> Iterator[_Span]:
    for one in rises:
        if one.rise is not None:
            yield _Span(one.rise.since, one.rise.until if one.rise.is_over else until, "warn", f"{one.model} slow")


def _failures(events: Sequence[EventView], until: datetime) -> Iterator[_Span]:
    """Yield from when on a model had failed until it ran as it should."""
    open_: dict[str, tuple[datetime, str]] = {}
    for event in events:
        phase = str(event.detail.get("phase") or "")
        if phase in TROUBLED and event.model not in open_:
            open_[event.model] = event.at, "rolled back" if phase == Phase.ROLLED_BACK else "failed"
        elif phase == Phase.COMMITTED and event.model in open_:
            begin, text = open_.pop(event.model)
            yield _Span(begin, event.at, "warn", f"{event.model} {text}")
    for model, (begin, text) in open_.items():
        yield _Span(begin, until, "warn", f"{model} {text}")


def _suspicions(events: Iterable[EventView], until: datetime) -> Iterator[_Span]:
    begin: datetime | None = None
    for event in events:
        if event.kind == "suspect" and begin is None:
            begin = event.at
        elif event.kind == "suspicion_cleared" and begin is not None:
            yield _Span(begin, event.at, "warn", "suspect")
            begin = None
    if begin is not None:
        yield _Span(begin, until, "warn", "suspect")


def _versions(target: str, changed_at: datetime, events: Sequence[EventView], until: datetime) -> Iterator[_Span]:
    """Yield what ran one after another, by what the device said when a version began to answer; what runs now goes last."""
    known: list[tuple[datetime, str]] = []
    for event in events:
        release = release_of(str(event.detail.get("target") or "")) or ""
        if str(event.detail.get("phase") or "") in RUNS and release:
            known.append((event.at, release))
    now = release_of(target) or ""
    if now and (not known or known[-1][1] != now):
        known.append((max(changed_at, known[-1][0]) if known else changed_at, now))
    joined: list[tuple[datetime, str]] = []
    for at, release in known:
        if not joined or joined[-1][1] != release:
            joined.append((at, release))
    ends = [at for at, _ in joined[1:]] + [until]
    for (begin, release), end in zip(joined, ends, strict=True):
        if end > begin:
            yield _Span(begin, end, "s" if release == now and end == until else "t", release.partition("@")[2])


def _strip(name: str, spans: Sequence[_Span], since: datetime, until: datetime) -> Strip:
    cut = _cut([one for one in (_within(span, since, until) for span in spans) if one is not None])
    whole = (until - since).total_seconds()
    segments = []
    for one in cut:
        x = 100 * (one.begin - since).total_seconds() / whole
        width = 100 * (one.end - one.begin).total_seconds() / whole
        x, width = round(min(x, 100 - LEAST), 2), round(max(width, LEAST), 2)
        title = f"{one.text}, {one.begin:%Y-%m-%d %H:%M} to {one.end:%Y-%m-%d %H:%M} UTC"
        segments.append(Segment(one.kind, x, width, title, one.text if width >= TEXT_NEEDS else ""))
    label = f"{name}: " + (", then ".join(one.text for one in cut) or "nothing known")
    return Strip(name, label, segments)


def _within(span: _Span, since: datetime, until: datetime) -> _Span | None:
    begin, end = max(span.begin, since), min(span.end, until)
    return _Span(begin, end, span.kind, span.text) if begin < end else None


def _cut(spans: Sequence[_Span]) -> list[_Span]:
    """Return spans that do not overlap: of those that hold at one time the worst, then the one that began last."""
    edges = sorted({edge for one in spans for edge in (one.begin, one.end)})
    waiting = sorted(spans, key=lambda one: one.begin, reverse=True)
    found: list[_Span] = []
    held: list[_Span] = []
    for begin, end in pairwise(edges):
        while waiting and waiting[-1].begin <= begin:
            held.append(waiting.pop())
        held = [one for one in held if one.end > begin]
        if not held:
            continue
        worst = max(held, key=lambda one: (_worth(one.kind), one.begin))
        if found and found[-1].end == begin and (found[-1].kind, found[-1].text) == (worst.kind, worst.text):
            found[-1] = _Span(found[-1].begin, end, worst.kind, worst.text)
        else:
            found.append(_Span(begin, end, worst.kind, worst.text))
    return found


def _worth(kind: str) -> int:
    return _WORSE.index(kind) if kind in _WORSE else 0

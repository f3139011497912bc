"""Presence over time: samples of the fleet added up to steps, and the spans in which one device was there. Pure.

Rules:
1. Nothing is claimed that was not seen. A step without a sample, and a time in which the server did not listen, is unknown.
2. An absence is written down when it ends. Until then the row of the device says since when it is away.
3. Of the absences of a day each of the first MOST_A_DAY - 1 has a place of its own; the last place is all others together, from the
   beginning of the first until the end of the newest: the device is flapping.
4. A device that the server has not heard of since it started is unknown since that start, or since the first of several. Before it the
   device was as it was last seen.
Source: docs/adr/0112-presence-history.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from edgefleet_protocol.ids import DeviceId
from edgefleet_terms.device_figures import span_text

MOST_A_DAY: Final = 20
MINUTE_S: Final = 60
DAY_S: Final = 86_400
FEW: Final = 3
"""So many spans that are too short to be seen, one after another, are shown as one."""


class PresenceState(StrEnum):
    """How a device was in a span of time. Public: kinds of segments and words of the story."""

    ONLINE = "online"
    OFFLINE = "offline"
    FLAPPING = "flapping"
    UNKNOWN = "unknown"


_STRENGTH: Final = tuple(PresenceState)
"""Of states that are said of the same moment the last one holds."""


@dataclass(frozen=True, slots=True)
class FleetStep:
    """What the samples of one step add up to. at: its beginning, seconds since 1970. devices: those that are not revoked.

    drifting: devices that report drift, out of `drift_devices`: those online in samples at which drift was measured at all.
    """

    at: int
    samples: int
    online: int
    devices: int
    drifting: int
    drift_devices: int

    def __add__(self, other: "FleetStep") -> "FleetStep":
        """Return both as one step that begins with the earlier."""
        return FleetStep(
            min(self.at, other.at),
            self.samples + other.samples,
            self.online + other.online,
            self.devices + other.devices,
            self.drifting + other.drifting,
            self.drift_devices + other.drift_devices,
        )

    @property
    def online_ratio(self) -> float | None:
        """The mean share of devices that were online; None where there were no devices."""
        return self.online / self.devices if self.devices else None

    @property
    def drifting_ratio(self) -> float | None:
        """The mean share of devices online that reported drift; None where nothing was measured."""
        return self.drifting / self.drift_devices if self.drift_devices else None


@dataclass(frozen=True, slots=True)
class Absence:
    """When a device was away. is_heard: its session ended while the server listened. times: more than once: several absences together."""

    since: datetime
    until: datetime
    is_heard: bool = True
    times: int = 1


class Place(NamedTuple):
    """Where an absence is written down: one row of history."""

    device: DeviceId
    day: int
    place: int


@dataclass(frozen=True, slots=True)
class PresenceSpan:
    """How a device was from when until when. times: how many absences are in it."""

    since: datetime
    until: datetime
    state: PresenceState
    times: int = 0


def absence_words(one: Absence) -> str:
    """Return an absence in words, as they follow the name of a device."""
    length = span_text((one.until - one.since).total_seconds())
    if one.times > 1:
        return f"was away {one.times} times in {length}: it is flapping"
    return f"was offline for {length}" if one.is_heard else f"was not heard of for {length}"


def place_of(until: datetime, day: int, count: int) -> tuple[int, int]:
    """Return day and number of an absence that ends now. day, count: of the device's absence before."""
    today = int(until.timestamp()) // DAY_S
    return today, count + 1 if today == day else 1


def folded(steps: Iterable[FleetStep], step_s: int) -> dict[int, FleetStep]:
    """Return steps added up to longer ones, by their beginnings."""
    found: dict[int, FleetStep] = {}
    for one in steps:
        at = one.at // step_s * step_s
        placed = replace(one, at=at)
        found[at] = found[at] + placed if at in found else placed
    return found


def spans(
    since: datetime,
    until: datetime,
    known_since: datetime | None,
    absences: Sequence[Absence],
    unwatched: Sequence[tuple[datetime, datetime]],
) -> list[PresenceSpan]:
    """Return how a device was, oldest first, without gaps.

    known_since: before it nobody wrote down absences; None: nobody ever did. absences: also the one that lasts, to the present.
    unwatched: when the server did not listen; it started where such a time ends.
    """
    claims = [PresenceSpan(since, until, PresenceState.ONLINE)]
    claims.append(PresenceSpan(since, until if known_since is None else known_since, PresenceState.UNKNOWN))
    claims += [PresenceSpan(*one, PresenceState.UNKNOWN) for one in unwatched]
    starts = sorted(one for _, one in unwatched)
    for one in absences:
        claims += _claims(one, starts)
    return list(_resolved([_cut(one, since, until) for one in claims]))


def _claims(one: Absence, starts: Sequence[datetime]) -> Iterator[PresenceSpan]:
    state = PresenceState.OFFLINE if one.times == 1 else PresenceState.FLAPPING
    if one.is_heard:
        yield PresenceSpan(one.since, one.until, state, one.times)
        return
    start = next((at for at in starts if one.since <= at <= one.until), one.since)
    yield PresenceSpan(one.since, start, state, one.times)
    yield PresenceSpan(start, one.until, PresenceState.UNKNOWN)


def _cut(one: PresenceSpan, since: datetime, until: datetime) -> PresenceSpan:
    return replace(one, since=max(one.since, since), until=min(one.until, until))


def _resolved(claims: Iterable[PresenceSpan]) -> Iterator[PresenceSpan]:
    """Yield spans that do not overlap: of claims on the same moment the strongest state holds."""
    waiting = sorted((one for one in claims if one.since < one.until), key=lambda one: one.since)
    edges = sorted({edge for one in waiting for edge in (one.since, one.until)})
    open_: list[PresenceSpan] = []
    last: PresenceSpan | None = None
    taken = 0
    for begin, end in pairwise(edges):
        while taken < len(waiting) and waiting[taken].since <= begin:
            open_.append(waiting[taken])
            taken += 1
        open_ = [one for one in open_ if one.until > begin]
        if not open_:
            continue
        strongest = max(open_, key=lambda one: _STRENGTH.index(one.state))
        if last is not None and last.until == begin and last.state is strongest.state:
            is_same = last.since >= strongest.since
            last = replace(last, until=end, times=last.times if is_same else last.times + strongest.times)
            continue
        if last is not None:
            yield last
        last = replace(strongest, since=begin, until=end)
    if last is not None:
        yield last


def coarse(found: Sequence[PresenceSpan], least: timedelta) -> list[PresenceSpan]:
    """Return spans of which as few as can be seen are left: FEW and more that are shorter than `least`, one after another, are one.

    It is unknown where all of it is, else flapping.
    """
    shown: list[PresenceSpan] = []
    short: list[PresenceSpan] = []
    for one in found:
        if one.until - one.since < least:
            short.append(one)
            continue
        shown += _joined(short)
        short = []
        shown.append(one)
    return shown + _joined(short)


def _joined(short: Sequence[PresenceSpan]) -> list[PresenceSpan]:
    if len(short) < FEW:
        return list(short)
    away = sum(one.times for one in short)
    state = PresenceState.FLAPPING if away else PresenceState.UNKNOWN
    return [PresenceSpan(short[0].since, short[-1].until, state, away)]


def online_shares(found: Sequence[PresenceSpan], at: Sequence[int], step_s: int) -> list[float | None]:
    """Return for steps which share of the known time a device was online. at: their beginnings, ascending.

    None where nothing is known, and where it was flapping: how long it was there is not kept.
    """
    online: dict[int, float] = {}
    known: dict[int, float] = {}
    for one in found:
        if one.state in {PresenceState.UNKNOWN, PresenceState.FLAPPING}:
            continue
        begin_s, end_s = one.since.timestamp(), one.until.timestamp()
        for place in range(int(begin_s) // step_s * step_s, int(end_s) + 1, step_s):
            length = min(end_s, place + step_s) - max(begin_s, place)
            if length > 0:
                known[place] = known.get(place, 0.0) + length
                online[place] = online.get(place, 0.0) + (length if one.state is PresenceState.ONLINE else 0.0)
    return [round(online[place] / known[place], 4) if place in known else None for place in at]

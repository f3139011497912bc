"""What is kept of a device's presence, and what a word of it changes: many words of many devices go into one transaction. Pure.

Rules:
1. An "off" counts only from the newest connection: a broker may send the will of an old one after a take-over.
2. An absence is written down when it ends. Those that have the same place of a day are one (`presence.model`, rule 3), also if they
   end in one transaction.
3. The words of one device are taken in the order in which they came; devices do not touch each other.
Source: docs/adr/0112-presence-history.md, docs/adr/0156-reports-stored-together.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Presence
from edgefleet_server.fleet.presence.model import MOST_A_DAY, Absence, Place, place_of
from edgefleet_server.fleet.reported.absence import FIRST_S, with_absence

MAX_CONN_ID: Final = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """What is kept of the presence of one device. The fields are columns of its row."""

    enrolled_at: datetime
    is_online: bool | None = None
    conn_id: str = ""
    last_seen: datetime | None = None
    offline_since: datetime | None = None
    absences: Sequence[int] = ()
    absence_day: int = 0
    absence_count: int = 0


@dataclass(slots=True)
class Folded:
    """What words changed. standings: of the devices that differ now; absences: those that ended; has_news: any came or went."""

    standings: dict[DeviceId, Standing] = field(default_factory=dict)
    absences: dict[Place, Absence] = field(default_factory=dict)
    has_news: bool = False


def folded(kept: Mapping[DeviceId, Standing], words: Sequence[tuple[DeviceId, Presence]], now: datetime) -> Folded:
    """Return what these words change, all of them heard now. Words of devices that are not in `kept` change nothing."""
    found = Folded()
    for device, word in words:
        before = found.standings.get(device) or kept.get(device)
        if before is None:
            continue
        after = _after(before, word, now)
        if after.is_online is not before.is_online:
            found.has_news = True
        if word.on and before.is_online is not True:
            after, away = _came_back(before, after, now)
            place = Place(device, after.absence_day, min(after.absence_count, MOST_A_DAY))
            earlier = found.absences.get(place)
            found.absences[place] = away if earlier is None else together(earlier, away)
        if after is not before:
            found.standings[device] = after
    return found


def together(one: Absence, other: Absence) -> Absence:
    """Return two absences of one place as the table keeps them: from the first beginning to the newest end."""
    times = one.times + other.times
    return Absence(min(one.since, other.since), max(one.until, other.until), is_heard=True, times=times)


def _after(before: Standing, word: Presence, now: datetime) -> Standing:
    conn_id = word.conn_id[:MAX_CONN_ID]
    if word.on:
        return replace(before, is_online=True, conn_id=conn_id, last_seen=now, offline_since=None)
    if before.conn_id in ("", conn_id):
        since = now if before.is_online is True else before.offline_since or now
        return replace(before, is_online=False, offline_since=since)
    return before


def _came_back(before: Standing, after: Standing, now: datetime) -> tuple[Standing, Absence]:
    """Return the standing of a device with an absence more, and that one. `offline_since` is None: it had never been there."""
    gone_since = before.offline_since
    away_s = 0.0 if gone_since is None else (now - gone_since).total_seconds()
    habit = with_absence(after.absences, away_s) if away_s >= FIRST_S else after.absences
    day, count = place_of(now, before.absence_day, before.absence_count)
    away = Absence(min(gone_since or before.enrolled_at, now), now, is_heard=before.is_online is False)
    return replace(after, absences=habit, absence_day=day, absence_count=count), away

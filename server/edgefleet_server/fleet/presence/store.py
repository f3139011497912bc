"""SQL of presence over time. Every function works in the caller's session and never commits."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table, and_, case, delete, func, or_, select, tuple_, update
from sqlmodel import Session, col

from edgefleet_server.db import bulk
from edgefleet_server.db.bulk import insert_into
from edgefleet_server.fleet.presence.model import MINUTE_S, Absence, FleetStep, Place
from edgefleet_server.fleet.tables import FleetAbsence, FleetDevice, FleetSample, FleetUnwatched

_SAMPLE: Final[Table] = FleetSample.__table__  # type: ignore[attr-defined]
_ABSENCE: Final[Table] = FleetAbsence.__table__  # type: ignore[attr-defined]
_MERGED: Final = {
    "since": "CASE WHEN excluded.since < fleet_absence.since THEN excluded.since ELSE fleet_absence.since END",
    "until": "CASE WHEN excluded.until > fleet_absence.until THEN excluded.until ELSE fleet_absence.until END",
    "is_heard": "TRUE",
    "times": "fleet_absence.times + excluded.times",
}
"""What becomes of an absence whose place is taken: `presence_fold.together`."""
_COUNTS: Final = ("samples", "online", "devices", "drifting", "drift_devices")


def count_fleet(session: Session) -> tuple[int, int, int]:
    """Return how many devices are online, how many are not revoked, and how many of those online report drift, without suspect ones."""
    device = FleetDevice
    is_online, is_live = col(device.is_online).is_(True), col(device.revoked_at).is_(None)
    counted = select(func.count(), func.sum(case((is_online, 1), else_=0))).select_from(device).where(is_live)
    devices, online = session.execute(counted).one()
    # only the condition of the index of those few that drift: with the others SQLite looks at every device that is online
    counts = case((and_(is_live, is_online, col(device.suspect_since).is_(None)), 1), else_=0)
    drifting = select(func.sum(counts)).select_from(device).where(col(device.drift).is_not(None))
    return int(online or 0), int(devices), int(session.execute(drifting).scalar_one() or 0)


def has_step(session: Session, scale_s: int, at: int) -> bool:
    """Return whether a step was sampled."""
    return session.get(FleetSample, (scale_s, at)) is not None


def claim_step(session: Session, scale_s: int, step: FleetStep) -> bool:
    """Store a step; return whether it is ours: of several processes one samples it."""
    made = insert_into(session, FleetSample).values(_row(scale_s, step)).on_conflict_do_nothing()
    return session.execute(made.returning(_SAMPLE.c.at)).first() is not None


def add_steps(session: Session, steps: Mapping[int, FleetStep]) -> None:
    """Add to steps, by scale."""
    made = insert_into(session, FleetSample).values([_row(scale_s, step) for scale_s, step in steps.items()])
    sums = {name: _SAMPLE.c[name] + made.excluded[name] for name in _COUNTS}
    session.execute(made.on_conflict_do_update(index_elements=["scale_s", "at"], set_=sums))


def _row(scale_s: int, step: FleetStep) -> dict[str, int]:
    return {"scale_s": scale_s, "at": step.at} | {name: getattr(step, name) for name in _COUNTS}


def fleet_steps(session: Session, scale_s: int, since: int, until: int) -> list[FleetStep]:
    """Return the steps that began in a span of time, oldest first."""
    row = FleetSample
    columns = (col(getattr(row, name)) for name in ("at", *_COUNTS))
    statement = select(*columns).where(col(row.scale_s) == scale_s, col(row.at) >= since, col(row.at) < until)
    return [FleetStep(*map(int, found)) for found in session.execute(statement.order_by(col(row.at)))]


def _newest_sample(session: Session, until: datetime) -> datetime | None:
    """Return when the newest minute with a sample began, None without one."""
    row = FleetSample
    statement = select(func.max(col(row.at))).where(col(row.scale_s) == MINUTE_S, col(row.at) <= int(until.timestamp()))
    found = session.execute(statement).scalar()
    return None if found is None else datetime.fromtimestamp(found, UTC)


def prune_steps(session: Session, before: Mapping[int, int]) -> int:
    """Remove steps that began before a moment, by scale; return how many."""
    row = FleetSample
    old = [and_(col(row.scale_s) == scale_s, col(row.at) < at) for scale_s, at in before.items()]
    return _count(session.execute(delete(row).where(or_(*old))))


def add_absences(session: Session, ended: Mapping[Place, Absence]) -> None:
    """Write down absences by device, day and place, or add each to the one that has its place.

    A clock that went back makes no absence that ends before it begins.
    """
    rows = [
        {
            "device_id": device_id, "day": day, "place": place, "since": one.since, "until": one.until,
            "is_heard": one.is_heard, "times": one.times,
        }
        for (device_id, day, place), one in sorted(ended.items())
    ]  # fmt: skip
    bulk.merge_rows(session, _ABSENCE, rows, _MERGED)


def absences(session: Session, device_id: str, first_day: int, since: datetime, until: datetime) -> Iterator[Absence]:
    """Yield the absences of a device that touch a span of time, oldest first. first_day: none of them ended before it."""
    row = FleetAbsence
    statement = (
        select(col(row.since), col(row.until), col(row.is_heard), col(row.times))
        .where(col(row.device_id) == device_id, col(row.day) >= first_day)
        .where(col(row.until) >= since, col(row.since) <= until)
        .order_by(col(row.day), col(row.place))
    )
    for found in session.execute(statement):
        yield Absence(*found)


def prune_absences(session: Session, before_day: int, limit: int) -> int:
    """Remove up to `limit` absences that ended before a day; return how many."""
    row = FleetAbsence
    key = (col(row.device_id), col(row.day), col(row.place))
    old = select(*key).where(col(row.day) < before_day).limit(limit)
    return _count(session.execute(delete(row).where(tuple_(*key).in_(old))))


def unwatched(session: Session, since: datetime, limit: int) -> list[tuple[datetime, datetime]]:
    """Return when no server listened, as far as it ended after a moment: the newest of it, oldest first."""
    row = FleetUnwatched
    statement = select(col(row.since), col(row.until)).where(col(row.until) >= since)
    found = session.execute(statement.order_by(col(row.until).desc()).limit(limit)).all()
    return [(one[0], one[1]) for one in reversed(found)]


def watched_since(session: Session) -> tuple[datetime, datetime] | None:
    """Return since when absences are written down, and when a server began to listen last; None: never."""
    row = FleetUnwatched
    first, last = session.execute(select(func.min(col(row.until)), func.max(col(row.until)))).one()
    return None if first is None else (first, last)


def note_unwatched(session: Session, now: datetime, least: timedelta = timedelta(0)) -> None:
    """Write down that no server listened since the newest sample of the fleet, or since the last such time if that is newer: it goes on.

    Nothing if that is shorter than `least`. What is of the future a clock wrote that was ahead: such times are removed.
    """
    row = FleetUnwatched
    session.execute(delete(row).where(col(row.until) > now, col(row.since) < col(row.until)))
    last: datetime | None = session.execute(select(func.max(col(row.until))).where(col(row.until) <= now)).scalar()
    since = max((one for one in (last, _newest_sample(session, now)) if one is not None), default=now)
    if now - since < least:
        return
    longer = update(row).where(col(row.until) == last, col(row.since) < col(row.until)).values(until=now)
    if since == last and _count(session.execute(longer)):
        return
    values = {"since": since, "until": now}
    session.execute(insert_into(session, row).values(values).on_conflict_do_nothing())


def prune_unwatched(session: Session, before: datetime) -> int:
    """Remove what ended before a moment, but for the beginning; return how many."""
    row = FleetUnwatched
    return _count(session.execute(delete(row).where(col(row.until) < before, col(row.since) < col(row.until))))


def _count(done: Any) -> int:
    return int(done.rowcount)


def presence_of(session: Session, device_id: str) -> Sequence[Any] | None:
    """Return is_online, offline_since, enrolled_at, revoked_at and last_seen of a device; None where it is not known."""
    row = FleetDevice
    names = ("is_online", "offline_since", "enrolled_at", "revoked_at", "last_seen")
    columns = [col(getattr(row, name)) for name in names]
    return session.execute(select(*columns).where(col(row.id) == device_id)).first()

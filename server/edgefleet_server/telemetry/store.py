"""The telemetry feature's SQL: batched Core statements. Every function works in the caller's session."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import JSON, ColumnElement, Integer, Text, and_, bindparam, cast, delete, func, or_, select, true
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from edgefleet_server.db.bulk import insert_into
from edgefleet_server.telemetry.tables import (
    TelemetryBatch,
    TelemetryCapture,
    TelemetryCaptureFetch,
    TelemetryWatched,
    TelemetryWindow,
)

SCANNED = 240_000
"""Twice as many windows as are stored of one device in a day (`device_daily_windows`)."""
ACTIVE = "active"
TELLING_LANES = ("active", "measure")
"""Whose windows say what a bundle costs on a device: real requests, or its golden inputs in a measurement."""
PERIOD_COLUMNS = (
    *("device_id", "lane", "sha256", "t0", "length_s", "n", "errors", "timeouts", "nonfinite"),
    *("latency", "classes", "joules_per_answer", "shadow"),
)

LATENCY_COLUMNS = (
    "device_id",
    "model",
    "lane",
    "sha256",
    "version",
    "t0",
    "length_s",
    "n",
    "latency_p95_ms",
    "classes",
)


def count_missing(session: Session, device_id: str) -> int:
    """Return how many numbers are missing between the messages that are kept of each boot of a device, without those joined into others."""
    row = TelemetryBatch
    mine = col(row.device_id) == device_id
    span = func.max(col(row.seq)) - func.min(col(row.seq)) + 1 - func.count()
    gaps = (
        select(col(row.boot_id), func.min(col(row.seq)), span).where(mine).group_by(col(row.boot_id)).having(span > 0)
    )
    missing = 0
    for boot, first, n in session.execute(gaps).all():
        is_joined = col(row.system)["joined"].as_string().is_not(None)
        later = select(col(row.system)).where(mine, col(row.boot_id) == boot, col(row.seq) > first, is_joined)
        joined = sum(int(system["joined"]) for system in session.execute(later).scalars())
        missing += max(0, int(n) - joined)
    return missing


def newest_batch(session: Session, device_id: str) -> TelemetryBatch | None:
    """Return the newest message of a device."""
    statement = (
        select(TelemetryBatch)
        .where(col(TelemetryBatch.device_id) == device_id)
        .order_by(col(TelemetryBatch.received_at).desc(), col(TelemetryBatch.seq).desc())
        .limit(1)
    )
    return session.execute(statement).scalars().first()


def windows_page(session: Session, device_id: str, before: int | None, limit: int) -> Sequence[TelemetryWindow]:
    """Return windows of a device, newest first."""
    statement = (
        select(TelemetryWindow)
        .where(col(TelemetryWindow.device_id) == device_id)
        .order_by(col(TelemetryWindow.id).desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(col(TelemetryWindow.id) < before)
    return session.execute(statement).scalars().all()


def count_windows(session: Session, device_id: str) -> int:
    """Return how many windows of a device are stored."""
    statement = select(func.count()).select_from(TelemetryWindow).where(col(TelemetryWindow.device_id) == device_id)
    return int(session.execute(statement).scalar_one())


def newest_windows(session: Session, device_id: str) -> Sequence[TelemetryWindow]:
    """Return the newest window of each model and lane of a device."""
    newest = (
        select(func.max(col(TelemetryWindow.id)))
        .where(col(TelemetryWindow.device_id) == device_id)
        .group_by(col(TelemetryWindow.model), col(TelemetryWindow.lane))
    )
    statement = (
        select(TelemetryWindow)
        .where(col(TelemetryWindow.id).in_(newest))
        .order_by(col(TelemetryWindow.model), col(TelemetryWindow.lane))
    )
    return session.execute(statement).scalars().all()


def windows_of_bundle(
    session: Session, sha256: str, since: datetime, device_id: str | None
) -> Iterator[TelemetryWindow]:
    """Yield the windows of one bundle received since a moment."""
    statement = select(TelemetryWindow).where(
        col(TelemetryWindow.sha256) == sha256, col(TelemetryWindow.received_at) >= since
    )
    if device_id is not None:
        statement = statement.where(col(TelemetryWindow.device_id) == device_id)
    yield from session.execute(statement.execution_options(yield_per=1000)).scalars()


def newest_of_bundle(session: Session, sha256: str, since: datetime, limit: int) -> Sequence[TelemetryWindow]:
    """Return the newest windows of one bundle that answered for users, received since a moment, at most so many.

    The newest of each device come first. Of a large fleet only the newest SCANNED are looked at.
    """
    row = TelemetryWindow
    newest = (
        select(col(row.id), col(row.device_id), col(row.received_at))
        .where(col(row.sha256) == sha256, col(row.received_at) >= since, col(row.lane) != "measure")
        .order_by(col(row.received_at).desc())
        .limit(SCANNED)
        .subquery()
    )
    turn = func.row_number().over(partition_by=newest.c.device_id, order_by=newest.c.received_at.desc())
    chosen = (
        select(newest.c.id, turn.label("turn")).order_by("turn", newest.c.received_at.desc()).limit(limit).subquery()
    )
    statement = select(row).join(chosen, chosen.c.id == col(row.id)).order_by(col(row.received_at).desc())
    return session.execute(statement).scalars().all()


def reporting_devices(session: Session, sha256: str, since: datetime, *, min_answers: int, limit: int) -> list[str]:
    """Return the devices that sent windows of a bundle with enough answers, in order, at most so many."""
    device = col(TelemetryWindow.device_id)
    statement = select(device).where(*_loaded([sha256], since, min_answers)).distinct().order_by(device).limit(limit)
    return list(session.execute(statement).scalars())


def devices_of_lane(session: Session, digests: Sequence[str], lane: str, since: datetime, *, limit: int) -> list[str]:
    """Return devices that sent windows of these bundles in a lane since a moment, in order, at most so many."""
    row = TelemetryWindow
    statement = (
        select(col(row.device_id))
        .where(col(row.sha256).in_(digests), col(row.lane) == lane, col(row.received_at) >= since)
        .distinct()
        .order_by(col(row.device_id))
        .limit(limit)
    )
    return list(session.execute(statement).scalars())


def loaded_windows(
    session: Session, digests: Sequence[str], devices: Sequence[str], since: datetime, *, min_answers: int, windows: int
) -> Iterator[TelemetryWindow]:
    """Yield the newest windows with enough answers of these bundles on these devices, at most `windows` of each pair."""
    row = TelemetryWindow
    number = func.row_number().over(partition_by=(col(row.sha256), col(row.device_id)), order_by=col(row.id).desc())
    numbered = (
        select(col(row.id), number.label("number"))
        .where(*_loaded(digests, since, min_answers), col(row.device_id).in_(devices))
        .subquery()
    )
    statement = select(row).join(numbered, numbered.c.id == col(row.id)).where(numbered.c.number <= windows)
    yield from session.execute(statement.execution_options(yield_per=1000)).scalars()


def windows_of_devices(
    session: Session, devices: Sequence[str], model: str, since: datetime, until: datetime | None, *, windows: int
) -> Iterator[Any]:
    """Yield the newest windows of a model on these devices that began in a span of time, at most `windows` of each device.

    Each as PERIOD_COLUMNS: a device may have thousands, and rows without an object of their own are read in a third of the time.
    """
    row = TelemetryWindow
    ends = () if until is None else (col(row.t0) < until,)
    number = func.row_number().over(partition_by=col(row.device_id), order_by=col(row.id).desc())
    numbered = (
        select(col(row.id), number.label("number"))
        .where(
            col(row.device_id).in_(devices),
            col(row.received_at) >= since,
            col(row.t0) >= since,
            col(row.model) == model,
            *ends,
        )
        .subquery()
    )
    columns = (getattr(row, name) for name in PERIOD_COLUMNS)
    statement = select(*columns).join(numbered, numbered.c.id == col(row.id)).where(numbered.c.number <= windows)
    yield from session.execute(statement.execution_options(yield_per=1000))


def _loaded(digests: Sequence[str], since: datetime, min_answers: int) -> tuple[ColumnElement[bool], ...]:
    row = TelemetryWindow
    return (
        col(row.sha256).in_(digests),
        col(row.received_at) >= since,
        col(row.lane).in_(TELLING_LANES),
        col(row.n) >= min_answers,
    )


def trend_rows(session: Session, devices: Sequence[str], *, windows: int) -> Iterator[Any]:
    """Yield (device, model, p95 in ms) of the newest windows of real requests of these devices, newest first, so many of each.

    One look into the index a device: a window function would read all that is kept of each.
    """
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    names = json.dumps(list(devices)) if is_sqlite else list(devices)
    yield from session.connection().execute(_newest(is_sqlite=is_sqlite), {"names": names, "windows": windows}).all()


@cache
def _newest(*, is_sqlite: bool) -> Any:
    """Return the query of the newest windows, made once: to write it and to find its compiled form takes longer than to ask it."""
    row, newest, names = (
        TelemetryWindow,
        aliased(TelemetryWindow),
        bindparam("names", type_=Text() if is_sqlite else JSON()),
    )
    each = func.json_each(names) if is_sqlite else func.json_array_elements_text(cast(names, JSON))
    asked = each.table_valued("value", name="asked")
    chosen = (
        select(col(newest.id))
        .where(col(newest.device_id) == asked.c.value, col(newest.lane) == ACTIVE)
        .order_by(col(newest.received_at).desc())
        .limit(bindparam("windows", type_=Integer()))
    )
    figures = select(col(row.device_id), col(row.model), col(row.latency_p95_ms))
    if is_sqlite:
        found = figures.select_from(asked).join(row, col(row.id).in_(chosen.correlate(asked)))
    else:
        few = chosen.lateral("few")
        found = figures.select_from(asked).join(few, true()).join(row, col(row.id) == few.c.id)
    return found.order_by(col(row.id).desc())


def classes_of_devices(
    session: Session, digests: Sequence[str], devices: Sequence[str], since: datetime, until: datetime, limit: int
) -> Iterator[tuple[str, bytes]]:
    """Yield (device, counts by class) of windows of these bundles that answered for users and began in a span of time, at most so many."""
    row = TelemetryWindow
    statement = (
        select(col(row.device_id), col(row.classes))
        .where(
            col(row.sha256).in_(digests),
            col(row.received_at) >= since,
            col(row.t0) >= since,
            col(row.t0) < until,
            col(row.lane) != "measure",
            col(row.device_id).in_(devices),
        )
        .limit(limit)
    )
    yield from ((str(device), classes) for device, classes in session.execute(statement))


def windows_between(session: Session, device_id: str, since: datetime, until: datetime) -> Iterator[TelemetryWindow]:
    """Yield the windows of a device that began in a span of time, however late they came, in the order in which they came."""
    row = TelemetryWindow
    statement = (
        select(row)
        .where(col(row.device_id) == device_id, col(row.received_at) >= since, col(row.t0).between(since, until))
        .order_by(col(row.received_at))
    )
    yield from session.execute(statement.execution_options(yield_per=1000)).scalars()


def devices_of_bundles(
    session: Session, digests: Sequence[str], since: datetime, until: datetime, *, windows: int, but: str
) -> list[str]:
    """Return the devices, but one, that sent the newest so many windows of these bundles for users in a span of time, in order."""
    row = TelemetryWindow
    newest = (
        select(col(row.device_id))
        .where(
            col(row.sha256).in_(digests),
            col(row.device_id) != but,
            col(row.received_at) >= since,
            col(row.received_at) <= until,
            col(row.lane) == ACTIVE,
        )
        .order_by(col(row.received_at).desc())
        .limit(windows)
        .subquery()
    )
    return list(session.execute(select(newest.c.device_id).distinct().order_by(newest.c.device_id)).scalars())


def latency_rows(session: Session, devices: Sequence[str], since: datetime, until: datetime) -> Iterator[Any]:
    """Yield LATENCY_COLUMNS of the windows of devices that began in a span of time, however late they came."""
    row = TelemetryWindow
    statement = select(*(getattr(row, name) for name in LATENCY_COLUMNS)).where(
        col(row.device_id).in_(devices), col(row.received_at) >= since, col(row.t0).between(since, until)
    )
    yield from session.execute(statement.execution_options(yield_per=1000))


def system_rows(session: Session, devices: Sequence[str], since: datetime, until: datetime) -> Iterator[Any]:
    """Yield (device, when it was measured, figures) of messages that devices wrote in a span of time, however late they came."""
    row = TelemetryBatch
    statement = select(col(row.device_id), col(row.at), col(row.system)).where(
        col(row.device_id).in_(devices), col(row.received_at) >= since, col(row.at).between(since, until)
    )
    yield from session.execute(statement.execution_options(yield_per=1000))


def delete_before(session: Session, moment: datetime) -> int:
    """Delete what was received before a moment; return how many windows."""
    session.execute(delete(TelemetryBatch).where(col(TelemetryBatch.received_at) < moment))
    statement = delete(TelemetryWindow).where(col(TelemetryWindow.received_at) < moment)
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def add_watched(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Insert what watched devices show, each message once."""
    session.execute(insert_into(session, TelemetryWatched).values(list(rows)).on_conflict_do_nothing())


def keep_watched(session: Session, device_id: str, newest: int) -> None:
    """Delete all but the newest messages of a watched device."""
    row = TelemetryWatched
    mine = col(row.device_id) == device_id
    last = select(col(row.id)).where(mine).order_by(col(row.id).desc()).offset(newest).limit(1).scalar_subquery()
    session.execute(delete(row).where(mine, col(row.id) <= last).execution_options(synchronize_session=False))


def watched_after(session: Session, device_id: str, after_id: int) -> Sequence[TelemetryWatched]:
    """Return what a watched device has shown after a message, oldest first."""
    row = TelemetryWatched
    statement = select(row).where(col(row.device_id) == device_id, col(row.id) > after_id).order_by(col(row.id))
    return session.execute(statement).scalars().all()


def delete_watched_before(session: Session, moment: datetime) -> None:
    """Delete what watched devices showed before a moment."""
    session.execute(delete(TelemetryWatched).where(col(TelemetryWatched.received_at) < moment))


def capture_fetch(session: Session, fetch_id: str, *, lock: bool = False) -> TelemetryCaptureFetch | None:
    """Return a fetch of captured records."""
    return session.get(TelemetryCaptureFetch, fetch_id, with_for_update=True if lock else None)


def capture(session: Session, device_id: str, record: str) -> TelemetryCapture | None:
    """Return one captured record of a device."""
    return session.get(TelemetryCapture, (device_id, record))


def captures_page(
    session: Session, device_id: str, fetch_id: str | None, after: str | None, limit: int
) -> tuple[Sequence[TelemetryCapture], int]:
    """Return captured records of a device, of one fetch where named, in order of id; and how many there are."""
    wanted = [col(TelemetryCapture.device_id) == device_id]
    if fetch_id is not None:
        wanted.append(col(TelemetryCapture.fetch_id) == fetch_id)
    total = int(session.execute(select(func.count()).select_from(TelemetryCapture).where(*wanted)).scalar_one())
    if after is not None:
        wanted.append(col(TelemetryCapture.record) > after)
    statement = select(TelemetryCapture).where(*wanted).order_by(col(TelemetryCapture.record)).limit(limit)
    return session.execute(statement).scalars().all(), total


def captures_of(
    session: Session, fetches: Sequence[str], after: tuple[str, str] | None, limit: int
) -> tuple[list[tuple[str, str, int]], int]:
    """Return (device, record, bytes) of the captured records of some fetches, in that order, after one; and how many there are."""
    row = TelemetryCapture
    wanted: list[ColumnElement[bool]] = [col(row.fetch_id).in_(fetches)]
    total = int(session.execute(select(func.count()).select_from(row).where(*wanted)).scalar_one())
    if after is not None:
        device, record = after
        is_later = and_(col(row.device_id) == device, col(row.record) > record)
        wanted.append(or_(col(row.device_id) > device, is_later))
    statement = select(col(row.device_id), col(row.record), col(row.size_bytes)).where(*wanted)
    statement = statement.order_by(col(row.device_id), col(row.record)).limit(limit)
    return [(str(device), str(name), int(size)) for device, name, size in session.execute(statement)], total


def capture_bytes(session: Session) -> dict[str, int]:
    """Return the bytes of all captured records, by model."""
    row = TelemetryCapture
    statement = select(col(row.model), func.sum(col(row.size_bytes))).group_by(col(row.model))
    return {str(model): int(size) for model, size in session.execute(statement)}


def delete_captures_before(session: Session, moment: datetime) -> None:
    """Delete captured records that came, and fetches that were asked for, before a moment."""
    session.execute(delete(TelemetryCapture).where(col(TelemetryCapture.received_at) < moment))
    session.execute(delete(TelemetryCaptureFetch).where(col(TelemetryCaptureFetch.asked_at) < moment))


def windows_after(session: Session, after_id: int, limit: int) -> list[Any]:
    """Return windows of real requests after an id, in order of id: its figures for alerts, without sketches and classes."""
    row = TelemetryWindow
    columns = (row.id, row.device_id, row.model, row.version, row.received_at, row.n, row.errors, row.timeouts)
    more = (row.nonfinite, row.crashes, row.latency_p95_ms)
    statement = select(*(col(one) for one in (*columns, *more))).where(col(row.id) > after_id, col(row.lane) == ACTIVE)
    return list(session.execute(statement.order_by(col(row.id)).limit(limit)))


def newest_window_id(session: Session) -> int:
    """Return the id of the newest window, 0 without one."""
    return int(session.execute(select(func.max(col(TelemetryWindow.id)))).scalar_one() or 0)

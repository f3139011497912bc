"""The SQL of roll-ups. Every function works in the caller's session."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import delete, func, select, text
from sqlmodel import Session, col

from edgefleet_server.db.bulk import insert_into, is_postgresql, upsert_rows
from edgefleet_server.telemetry.rollups.model import EVER
from edgefleet_server.telemetry.rollups.step_fold import SeriesKey
from edgefleet_server.telemetry.rollups.tables import TelemetryCohort, TelemetryRollup, TelemetrySeries

LOCK: Final = 0x6566_7275
"""The advisory lock of those who add, on PostgreSQL: one at a time, so that nobody waits for another in a circle."""
FEW: Final = 500
StoredKey = tuple[int, int, int]
"""Scale, series, beginning."""
_IDENTITY: Final = ("kind", "model", "version", "sha256", "lane", "cohort_id")


def lock(session: Session) -> None:
    """Let nobody else add until the caller's transaction ends. On SQLite who writes is alone."""
    if is_postgresql(session):
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def cohorts(session: Session, after: int = 0) -> list[TelemetryCohort]:
    """Return the cohorts with ids after this one, in order."""
    row = TelemetryCohort
    return list(session.execute(select(row).where(col(row.id) > after).order_by(col(row.id))).scalars())


def add_cohorts(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store cohorts; those that are known stay."""
    session.execute(insert_into(session, TelemetryCohort).values(rows).on_conflict_do_nothing())


def cohort_ids(session: Session, digests: Collection[str]) -> dict[str, int]:
    """Return the ids of those cohorts that are stored, by digest."""
    table = TelemetryCohort
    found = session.execute(select(col(table.digest), col(table.id)).where(col(table.digest).in_(digests)))
    return {digest: int(number) for digest, number in found if number is not None}


def count_cohorts(session: Session) -> int:
    """Return how many there are."""
    return int(session.execute(select(func.count()).select_from(TelemetryCohort)).scalar_one())


def series(session: Session, after: int = 0) -> Iterator[tuple[int, SeriesKey]]:
    """Yield the series with ids after this one, in order."""
    row = TelemetrySeries
    columns = (col(getattr(row, name)) for name in ("id", *_IDENTITY))
    for number, *key in session.execute(select(*columns).where(col(row.id) > after).order_by(col(row.id))):
        yield int(number), tuple(key)


def add_series(session: Session, keys: Sequence[SeriesKey]) -> None:
    """Store series; those that are known stay."""
    for start in range(0, len(keys), FEW):
        rows = [dict(zip(_IDENTITY, key, strict=True)) for key in keys[start : start + FEW]]
        session.execute(insert_into(session, TelemetrySeries).values(rows).on_conflict_do_nothing())


def rows_of(session: Session, keys: Sequence[StoredKey]) -> dict[StoredKey, bytes]:
    """Return what is stored of these steps."""
    columns = "SELECT r.scale_s, r.series_id, r.at, r.sums FROM"
    if is_postgresql(session):
        parts = [list(part) for part in zip(*keys, strict=True)]
        given = "unnest(CAST(:s AS integer[]), CAST(:i AS integer[]), CAST(:a AS bigint[])) AS g(s, i, a)"
        same = "r.scale_s = g.s AND r.series_id = g.i AND r.at = g.a"
        statement = text(f"{columns} {given} JOIN telemetry_rollup r ON {same}")  # only names of ours
        found = session.execute(statement, dict(zip("sia", parts, strict=True)))
    else:
        named = ("scale_s", "series_id", "at")
        same = " AND ".join(f"r.{name} = json_extract(g.value, '$[{at}]')" for at, name in enumerate(named))
        # a cross join keeps this order: for each key one look into the primary key
        statement = text(f"{columns} json_each(:keys) g CROSS JOIN telemetry_rollup r ON {same}")  # as above
        found = session.execute(statement, {"keys": msgspec.json.encode(keys).decode()})
    return {(scale, number, at): bytes(sums) for scale, number, at, sums in found}


def set_rows(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert steps, or set the sums of those that exist."""
    upsert_rows(session, TelemetryRollup.__table__, rows)  # type: ignore[attr-defined]


def steps(
    session: Session, scale_s: int, numbers: Collection[int], since: int, until: int
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (series, beginning, sums) of steps that began in a span of time."""
    row = TelemetryRollup
    given = sorted(numbers)
    for start in range(0, len(given), FEW):
        statement = select(col(row.series_id), col(row.at), col(row.sums)).where(
            col(row.scale_s) == scale_s,
            col(row.series_id).in_(given[start : start + FEW]),
            col(row.at) >= since,
            col(row.at) < until,
        )
        for number, at, sums in session.execute(statement):
            yield number, at, bytes(sums)


def delete_before(session: Session, scale_s: int, moment: int) -> int:
    """Delete steps of a scale that began before a moment; return how many. One look into the primary key a series."""
    row = TelemetryRollup
    every = select(col(TelemetrySeries.id))
    where = (col(row.scale_s) == scale_s, col(row.series_id).in_(every), col(row.at) < moment)
    return int(session.execute(delete(row).where(*where)).rowcount)  # type: ignore[attr-defined]


def count_rows(session: Session) -> int:
    """Return how many rows there are of steps that end. It reads them all: do it where nobody waits to write."""
    statement = select(func.count()).select_from(TelemetryRollup).where(col(TelemetryRollup.scale_s) > EVER)
    return int(session.execute(statement).scalar_one())


def begins(session: Session, scale_s: int) -> Iterator[tuple[int, int]]:
    """Yield (beginning, rows) of a scale, oldest first."""
    row = TelemetryRollup
    statement = select(col(row.at), func.count()).where(col(row.scale_s) == scale_s)
    for at, n in session.execute(statement.group_by(col(row.at)).order_by(col(row.at))):
        yield int(at), int(n)

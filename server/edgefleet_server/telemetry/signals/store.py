"""The SQL of drift: batched Core statements. Every function works in the caller's session."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, select, tuple_, update
from sqlmodel import Session, col

from edgefleet_server.db.bulk import insert_into
from edgefleet_server.telemetry.signals.tables import DriftBaseline, DriftBucket

ROWS_A_STATEMENT: Final = 500

Key = tuple[str, str, str, int, datetime]
"""Device, bundle digest, basis, length of the step in seconds, its beginning."""
_KEY: Final = tuple(col(getattr(DriftBucket, name)) for name in ("device_id", "sha256", "basis", "scale_s", "at"))


def make_buckets(session: Session, keys: Sequence[Key]) -> set[Key]:
    """Insert empty buckets where there are none yet; return the keys of those that are new."""
    new: set[Key] = set()
    for start in range(0, len(keys), ROWS_A_STATEMENT):
        rows = [
            {"device_id": one[0], "sha256": one[1], "basis": one[2], "scale_s": one[3], "at": one[4], "covered_s": 0, "signals": b""}
            for one in keys[start : start + ROWS_A_STATEMENT]
        ]  # fmt: skip
        statement = insert_into(session, DriftBucket).values(rows).on_conflict_do_nothing().returning(*_KEY)
        new |= {tuple(found) for found in session.execute(statement)}
    return new


def locked_buckets(session: Session, keys: Sequence[Key]) -> dict[Key, tuple[int, bytes]]:
    """Return seconds and signals of these buckets; no other process changes them until the caller's transaction ends."""
    found: dict[Key, tuple[int, bytes]] = {}
    for start in range(0, len(keys), ROWS_A_STATEMENT):
        statement = (
            select(*_KEY, col(DriftBucket.covered_s), col(DriftBucket.signals))
            .where(tuple_(*_KEY).in_(keys[start : start + ROWS_A_STATEMENT]))
            .order_by(*_KEY)
            .with_for_update()
        )
        found |= {tuple(row[:5]): (int(row[5]), row[6]) for row in session.execute(statement)}
    return found


def set_buckets(session: Session, values: Mapping[Key, tuple[int, bytes]]) -> None:
    """Set seconds and signals of buckets that exist."""
    if not values:
        return
    table = DriftBucket.__table__  # type: ignore[attr-defined]
    names = ("device_id", "sha256", "basis", "scale_s", "at")
    statement = (
        update(table)
        .where(*(table.c[name] == bindparam(f"key_{name}") for name in names))
        .values(covered_s=bindparam("new_covered_s"), signals=bindparam("new_signals"))
    )
    rows = [
        {
            **{f"key_{name}": part for name, part in zip(names, key, strict=True)},
            "new_covered_s": seconds,
            "new_signals": signals,
        }
        for key, (seconds, signals) in values.items()
    ]
    session.connection().execute(statement, rows)


def newest_step(session: Session, digests: Collection[str], scale_s: int) -> datetime | None:
    """Return when the newest step of these bundles began."""
    statement = select(func.max(col(DriftBucket.at))).where(
        col(DriftBucket.sha256).in_(digests), col(DriftBucket.scale_s) == scale_s
    )
    return session.execute(statement).scalar()


def has_counts(session: Session, scale_s: int, since: datetime) -> bool:
    """Return whether there is a step of a scale that began since a moment."""
    row = DriftBucket
    found = select(col(row.at)).where(col(row.scale_s) == scale_s, col(row.at) >= since).limit(1)
    return session.execute(found).first() is not None


def counted_devices(
    session: Session, digests: Collection[str], scale_s: int, since: datetime, limit: int
) -> list[tuple[str, str, str]]:
    """Return (digest, basis, device) of what was counted in steps since a moment, in order of device, at most so many."""
    row = DriftBucket
    statement = (
        select(col(row.sha256), col(row.basis), col(row.device_id))
        .where(col(row.sha256).in_(digests), col(row.scale_s) == scale_s, col(row.at) >= since)
        .distinct()
        .order_by(col(row.device_id), col(row.sha256), col(row.basis))
        .limit(limit)
    )
    return [(sha256, basis, device) for sha256, basis, device in session.execute(statement)]


def buckets_of(
    session: Session,
    digests: Collection[str],
    basis: str,
    scale_s: int,
    since: datetime,
    until: datetime,
    devices: Collection[str],
) -> Iterator[Any]:
    """Yield (device, begin, seconds, signals) of steps that began in a span of time, oldest first."""
    row = DriftBucket
    statement = (
        select(col(row.device_id), col(row.at), col(row.covered_s), col(row.signals))
        .where(
            col(row.sha256).in_(digests),
            col(row.basis) == basis,
            col(row.scale_s) == scale_s,
            col(row.at) >= since,
            col(row.at) < until,
            col(row.device_id).in_(devices),
        )
        .order_by(col(row.at), col(row.device_id))
    )
    yield from session.execute(statement.execution_options(yield_per=1000))


def delete_before(session: Session, scale_s: int, moment: datetime) -> int:
    """Delete steps of a scale that began before a moment; return how many."""
    statement = delete(DriftBucket).where(col(DriftBucket.scale_s) == scale_s, col(DriftBucket.at) < moment)
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def baselines(session: Session, model: str, version: str) -> Sequence[DriftBaseline]:
    """Return what was chosen as normal of a release, a row for each basis."""
    row = DriftBaseline
    statement = select(row).where(col(row.model) == model, col(row.version) == version).order_by(col(row.basis))
    return session.execute(statement).scalars().all()


def replace_baselines(session: Session, model: str, version: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Make these the baselines of a release; none: it has none any more. Return how many it had."""
    row = DriftBaseline
    old = session.execute(delete(row).where(col(row.model) == model, col(row.version) == version))
    if rows:
        session.execute(insert(row), [dict(one) for one in rows])
    return int(old.rowcount)  # type: ignore[attr-defined]

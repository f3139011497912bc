"""SQL of the event log. Every function works in the caller's session and never commits."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Select, case, cast, delete, func, literal, select, tuple_, update
from sqlmodel import Session, col

from edgefleet_server.db import bulk
from edgefleet_server.db.bulk import insert_into
from edgefleet_server.events.model import EventFilter
from edgefleet_server.events.tables import FleetEvent


def events_by_id(session: Session, ids: Sequence[int]) -> Sequence[FleetEvent]:
    """Return these events."""
    return session.execute(select(FleetEvent).where(col(FleetEvent.id).in_(ids))).scalars().all()


def newest_before(session: Session, moment: datetime) -> int:
    """Return the id of the newest event that came at or before a moment, 0 without one."""
    statement = select(col(FleetEvent.id)).where(col(FleetEvent.received_at) <= moment)
    return int(session.execute(statement.order_by(col(FleetEvent.id).desc()).limit(1)).scalar() or 0)


_EVENT_KEY: Final = (col(FleetEvent.device_id), col(FleetEvent.boot_id), col(FleetEvent.seq))


def add_events(session: Session, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Insert device events; those that are there already change nothing. Return those that were new, with their `id`."""
    if session.get_bind().dialect.name == "postgresql":
        # there a refused row still uses up an id, and a gap in the ids makes those who follow the feed wait
        rows = _without_known(session, rows)
    if not rows:
        return []
    by_key = {
        (row["device_id"], row["boot_id"], row["seq"]): row for row in reversed(rows)
    }  # of two the first one counts
    insert_all = insert_into(session, FleetEvent).values(list(rows)).on_conflict_do_nothing()
    found = session.execute(insert_all.returning(col(FleetEvent.id), *_EVENT_KEY))
    return sorted(({**by_key[tuple(key)], "id": int(one)} for one, *key in found), key=lambda row: row["id"])


def _without_known(session: Session, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_key = {(row["device_id"], row["boot_id"], row["seq"]): row for row in rows}
    known = {tuple(found) for found in session.execute(select(*_EVENT_KEY).where(tuple_(*_EVENT_KEY).in_(by_key)))}
    return [row for one, row in by_key.items() if one not in known]


def add_server_events(session: Session, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert events that were made here; return their ids in the order of `rows`."""
    return bulk.insert_counted(session, FleetEvent.__table__, rows)  # type: ignore[attr-defined]


def set_detail(session: Session, event_id: int, detail: Mapping[str, Any]) -> None:
    """Replace the detail of an event."""
    session.execute(update(FleetEvent).where(col(FleetEvent.id) == event_id).values(detail=dict(detail)))


def is_told(session: Session, kind: str, model: str, release: str) -> bool:
    """Return whether an event of this kind names a release of a model."""
    detail = col(FleetEvent.detail)["release"].as_string()
    query = select(col(FleetEvent.id)).where(
        col(FleetEvent.kind) == kind, col(FleetEvent.model) == model, detail == release
    )
    return session.execute(query.limit(1)).first() is not None


def devices_that_said(session: Session, kinds: Sequence[str], since: datetime, limit: int) -> Sequence[Any]:
    """Return (kind, model, device) of events of these kinds that were received since a moment, each once, at most `limit`."""
    columns = (col(FleetEvent.kind), col(FleetEvent.model), col(FleetEvent.device_id))
    chosen = select(*columns).where(col(FleetEvent.kind).in_(kinds), col(FleetEvent.received_at) >= since)
    return session.execute(chosen.distinct().order_by(*columns).limit(limit)).all()


def events_page(session: Session, what: EventFilter, before: int | None, limit: int) -> Sequence[FleetEvent]:
    """Return events, newest first."""
    statement = _chosen(select(FleetEvent), what).order_by(col(FleetEvent.id).desc()).limit(limit)
    if before is not None:
        statement = statement.where(col(FleetEvent.id) < before)
    return session.execute(statement).scalars().all()


def events_after(
    session: Session, what: EventFilter, after_id: int, until: int | None, limit: int
) -> Sequence[FleetEvent]:
    """Return events after an id, oldest first, up to the id `until` when one is given."""
    statement = _chosen(select(FleetEvent), what, after_id, until).order_by(col(FleetEvent.id)).limit(limit)
    return session.execute(statement).scalars().all()


def count_events(session: Session, what: EventFilter, *, after_id: int | None = None, until: int | None = None) -> int:
    """Return how many events there are."""
    statement = _chosen(select(func.count()).select_from(FleetEvent), what, after_id, until)
    return int(session.execute(statement).scalar_one())


def _chosen(
    statement: Select[Any], what: EventFilter, after_id: int | None = None, until: int | None = None
) -> Select[Any]:
    conditions: list[Any] = []
    if what.device is not None:
        conditions.append(col(FleetEvent.device_id) == what.device)
    if what.rollout is not None:
        conditions.append(col(FleetEvent.rollout_id) == what.rollout)
    if what.kinds:
        conditions.append(col(FleetEvent.kind).in_(what.kinds))
    if what.since is not None:
        conditions.append(col(FleetEvent.received_at) >= what.since)
    if what.until is not None:
        conditions.append(col(FleetEvent.received_at) <= what.until)
    if what.model is not None:
        conditions.append(col(FleetEvent.model) == what.model)
    if what.but_of:
        conditions.append(col(FleetEvent.device_id).not_in(what.but_of))
    if what.ids:
        conditions.append(col(FleetEvent.id).in_(what.ids))
    if after_id is not None:
        conditions.append(col(FleetEvent.id) > after_id)
    if until is not None:
        conditions.append(col(FleetEvent.id) <= until)
    return statement.where(*conditions)


def settled_until(session: Session, settled: datetime, after_id: int) -> int:
    """Return the id up to which nothing can appear any more after `after_id`: the last one before the first gap whose next
    event came after `settled`, else the newest. PostgreSQL only.

    One statement on purpose: each statement sees another moment, and a gap may close between two.
    """
    row_id, at = col(FleetEvent.id), col(FleetEvent.received_at)
    fresh = select(func.min(row_id)).where(row_id > after_id, at > settled).scalar_subquery()
    newest = select(func.max(row_id)).scalar_subquery()
    older = select(func.max(row_id)).where(row_id < fresh).scalar_subquery()
    base = select(
        func.greatest(literal(after_id, BigInteger), case((fresh.is_(None), newest), else_=older)).label("id")
    ).cte("base")
    before = func.lag(cast(row_id, BigInteger), 1, base.c.id).over(order_by=row_id)
    pairs = select(row_id.label("id"), before.label("before"), at.label("at")).where(row_id > base.c.id).cte("pairs")
    gap = select(func.min(pairs.c.before)).where(pairs.c.id > pairs.c.before + 1, pairs.c.at > settled)
    last = select(func.max(pairs.c.id))
    found = select(func.coalesce(gap.scalar_subquery(), last.scalar_subquery(), base.c.id))
    return int(session.execute(found).scalar_one())


def prune_events(session: Session, before: datetime, limit: int) -> int:
    """Remove up to `limit` events that devices reported before a moment; never the newest, whose id must not come again."""
    newest = select(func.max(col(FleetEvent.id))).scalar_subquery()
    old = (
        select(col(FleetEvent.id))
        .where(
            col(FleetEvent.received_at) < before,
            col(FleetEvent.boot_id).is_not(None),
            col(FleetEvent.rollout_id).is_(None),
            col(FleetEvent.id) < newest,
        )
        .limit(limit)
    )
    removed = session.execute(delete(FleetEvent).where(col(FleetEvent.id).in_(old)))
    return int(removed.rowcount)  # type: ignore[attr-defined]

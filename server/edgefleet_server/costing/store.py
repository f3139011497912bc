"""The SQL of costs. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table, and_, delete, func, or_, select
from sqlmodel import Session, col

from edgefleet_server.costing.model import Kind, Traffic
from edgefleet_server.costing.tables import CostGroupSet, CostPrices, CostTraffic
from edgefleet_server.db.bulk import insert_into

_TRAFFIC: Final[Table] = CostTraffic.__table__  # type: ignore[attr-defined]
_KEY: Final = ("scale_s", "at", "model", "kind", "bundle", "groups_id")
TrafficKey = tuple[int, int, str, str, str, int]
"""As the primary key of `CostTraffic`."""
Counts = tuple[int, int]
"""Bytes and messages."""


def group_set_ids(session: Session, digests: Collection[str]) -> dict[str, int]:
    """Return the ids of those sets of groups that are stored, by digest."""
    row = CostGroupSet
    found = session.execute(select(col(row.digest), col(row.id)).where(col(row.digest).in_(list(digests))))
    return {digest: int(number) for digest, number in found if number is not None}


def add_group_sets(session: Session, sets: Mapping[str, Sequence[str]]) -> None:
    """Store sets of groups by digest; those that are known stay."""
    rows = [{"digest": digest, "groups": list(groups)} for digest, groups in sets.items()]
    session.execute(insert_into(session, CostGroupSet).values(rows).on_conflict_do_nothing())


def count_group_sets(session: Session) -> int:
    """Return how many sets of groups there are."""
    return int(session.execute(select(func.count()).select_from(CostGroupSet)).scalar_one())


def add(session: Session, counts: Mapping[TrafficKey, Counts]) -> None:
    """Add to what is stored. Rows are taken in the order of their keys: two processes that add never wait for each other in a circle."""
    rows = [
        {**dict(zip(_KEY, key, strict=True)), "bytes": counts[key][0], "n": counts[key][1]} for key in sorted(counts)
    ]
    if rows:
        made = insert_into(session, CostTraffic)
        sums = {name: _TRAFFIC.c[name] + made.excluded[name] for name in ("bytes", "n")}
        session.connection().execute(made.on_conflict_do_update(index_elements=list(_KEY), set_=sums), rows)


def traffic(session: Session, scale_s: int, since: int, until: int, model: str = "") -> list[Traffic]:
    """Return what was counted in steps that began in a span of time, added up, of one model or of all."""
    row = CostTraffic
    keys = (col(row.model), col(row.kind), col(row.bundle), col(row.groups_id))
    statement = (
        select(*keys, func.sum(col(row.bytes)), func.sum(col(row.n)))
        .where(col(row.scale_s) == scale_s, col(row.at) >= since, col(row.at) < until)
        .group_by(*keys)
    )
    if model:
        statement = statement.where(col(row.model) == model)
    rows = session.execute(statement).all()
    named = select(col(CostGroupSet.id), col(CostGroupSet.groups))
    groups = {number: tuple(names) for number, names in session.execute(named)}
    return [
        Traffic(of, Kind(kind), bundle, groups.get(number, ()), int(size), int(n))
        for of, kind, bundle, number, size, n in rows
    ]


def first_at(session: Session, scale_s: int) -> int | None:
    """Return when the oldest step of a scale begins."""
    statement = select(func.min(col(CostTraffic.at))).where(col(CostTraffic.scale_s) == scale_s)
    found: int | None = session.execute(statement).scalar_one()
    return found


def prune(session: Session, before: Mapping[int, int]) -> int:
    """Remove steps that began before a moment, by scale; return how many."""
    row = CostTraffic
    old = [and_(col(row.scale_s) == scale_s, col(row.at) < at) for scale_s, at in before.items()]
    return int(session.execute(delete(row).where(or_(*old))).rowcount)  # type: ignore[attr-defined]


def prices(session: Session, *, lock: bool = False) -> CostPrices | None:
    """Return the prices that are set."""
    return session.get(CostPrices, 1, with_for_update=lock or None, populate_existing=True)


def set_prices(session: Session, document: Mapping[str, Any], now: datetime, by: str) -> None:
    """Set the prices."""
    row = {"document": dict(document), "set_at": now, "set_by": by[:120]}
    made = insert_into(session, CostPrices).values(id=1, **row)
    session.execute(made.on_conflict_do_update(index_elements=["id"], set_=row))


def remove_prices(session: Session) -> None:
    """Remove the prices."""
    session.execute(delete(CostPrices))

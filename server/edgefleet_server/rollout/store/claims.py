"""SQL of claims: which rollouts are due, which process holds one, and its fence.

Every function works in the caller's session and never commits.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import not_, or_, select
from sqlmodel import Session, col

from edgefleet_server.db import bulk
from edgefleet_server.rollout.state_machines import ROLLOUT_ACTIVE
from edgefleet_server.rollout.store.tables import Rollout

LEASE: Final = timedelta(seconds=12)
"""With the look every two seconds another replica has taken over 15 s after a crash (ADR 0043)."""

CLAIM_BATCH: Final = 8


# ---- the engine's claim


def lock_due(
    session: Session,
    owner: str,
    now: datetime,
    *,
    but: Collection[str] = (),
    woken_but: Collection[str] | None = None,
    last: Collection[str] = (),
) -> Sequence[Rollout]:
    """Lock about CLAIM_BATCH rollouts that are due and free until the transaction ends, and return them.

    Those under way come first: a look is when a failing release is stopped, and five hundred that begin at once must not keep it
    waiting. One that nobody has claimed or steered yet comes along with each claim, so none waits for ever. but: not these, due or not.
    woken_but: devices have reported, so the other open rollouts follow while there is room, but these; None: none of them. last: of
    `but`, those that come when there is room behind all others.
    """
    is_due, is_under_way = col(Rollout.next_eval_at) <= now, col(Rollout.fence) > 0
    rows = _lock(session, owner, now, is_due & is_under_way, but, CLAIM_BATCH)
    rows += _lock(session, owner, now, is_due & ~is_under_way, but, max(1, CLAIM_BATCH - len(rows)))
    if woken_but is not None and len(rows) < CLAIM_BATCH:
        rows += _lock(session, owner, now, ~is_due & _is_open(), {*but, *woken_but}, CLAIM_BATCH - len(rows))
    if last and len(rows) < CLAIM_BATCH:
        is_last = is_due & bulk.among(session, col(Rollout.id), sorted(last))
        rows += _lock(session, owner, now, is_last, (), CLAIM_BATCH - len(rows))
    return rows


def _lock(session: Session, owner: str, now: datetime, which: Any, but: Collection[str], limit: int) -> list[Rollout]:
    """Lock up to `limit` free rollouts of which `which` is true, those first whose time came first."""
    is_free = or_(
        col(Rollout.lease_until).is_(None), col(Rollout.lease_until) <= now, col(Rollout.lease_owner) == owner
    )
    statement = (
        select(Rollout)
        .where(col(Rollout.next_eval_at).is_not(None), which, is_free)
        .where(not_(bulk.among(session, col(Rollout.id), sorted(but))))
        .order_by(col(Rollout.next_eval_at))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(session.execute(statement).scalars())


def lease(rows: Sequence[Rollout], owner: str, now: datetime) -> list[tuple[str, int]]:
    """Take these rollouts, which `lock_due` locked; return (id, fence). The caller commits at once."""
    for row in rows:
        row.lease_owner, row.lease_until, row.fence = owner, now + LEASE, row.fence + 1
    return [(row.id, row.fence) for row in rows]


def is_any_due(session: Session, now: datetime, *, is_woken: bool) -> bool:
    """Return whether a claim could take something: a look that waits for no writer."""
    is_due = col(Rollout.next_eval_at) <= now
    which = or_(is_due, _is_open()) if is_woken else is_due
    return session.execute(select(col(Rollout.id)).where(which).limit(1)).first() is not None


def _is_open() -> Any:
    return col(Rollout.state).in_(sorted(ROLLOUT_ACTIVE))


def hold_fence(session: Session, rollout_id: str, fence: int) -> Rollout | None:
    """Lock a rollout's row for this transaction; return it, read anew, or None when the fence is no longer ours."""
    statement = select(Rollout).where(col(Rollout.id) == rollout_id, col(Rollout.fence) == fence).with_for_update()
    row: Rollout | None = session.execute(statement.execution_options(populate_existing=True)).scalars().first()
    return row


def share_fence(session: Session, rollout_id: str, fence: int) -> Rollout | None:
    """Lock a rollout's row together with others who only read it; return it, or None when the fence is no longer ours."""
    statement = select(Rollout).where(col(Rollout.id) == rollout_id, col(Rollout.fence) == fence)
    row: Rollout | None = session.execute(statement.with_for_update(read=True)).scalars().first()
    return row

"""SQL of rollouts, their stage runs and claims: which are due, which process holds one, and its fence.

Every function works in the caller's session and never commits.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Select, Table, Text, cast, func, insert, not_, or_, select, tuple_
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.db import bulk
from edgefleet_server.rollout.errors import RolloutUnknownError
from edgefleet_server.rollout.model import RolloutState, StageRun, StageState, Strength, VerdictKind
from edgefleet_server.rollout.state_machines import ROLLOUT_ACTIVE
from edgefleet_server.rollout.store.assignments import ASSIGNMENT
from edgefleet_server.rollout.store.tables import (
    Rollout,
    RolloutAssignment,
    RolloutCell,
    RolloutDecision,
    RolloutMember,
)

_CELL: Final[Table] = RolloutCell.__table__  # type: ignore[attr-defined]


def rollout(session: Session, rollout_id: str, *, lock: bool = False) -> Rollout:
    """Return a rollout's row; `lock` holds it until the transaction ends. Raises RolloutUnknownError."""
    row = session.get(Rollout, rollout_id, with_for_update=True if lock else None)
    if row is None:
        raise RolloutUnknownError(
            f"there is no rollout {rollout_id[:40]!r}", next_step="`edgectl rollout list` shows all rollouts"
        )
    return row


def page(  # noqa: PLR0913 - each a filter of one list
    session: Session,
    *,
    states: Sequence[str],
    model: str | None,
    device: str | None = None,
    modes: Sequence[str] = (),
    behind: tuple[datetime, str] | None,
    limit: int,
    is_oldest_first: bool = False,
) -> Sequence[Rollout]:
    """Return rollouts behind a place, newest first unless asked otherwise."""
    keys = (col(Rollout.created_at), col(Rollout.id))
    statement = select(Rollout).order_by(*(key if is_oldest_first else key.desc() for key in keys)).limit(limit)
    if behind is not None:
        place = tuple_(*keys)
        statement = statement.where(place > behind if is_oldest_first else place < behind)
    return session.execute(_chosen(statement, states, model, device, modes)).scalars().all()


def count(
    session: Session,
    *,
    states: Sequence[str],
    model: str | None,
    device: str | None = None,
    modes: Sequence[str] = (),
) -> int:
    """Return how many rollouts there are."""
    counted = select(func.count()).select_from(Rollout)
    return int(session.execute(_chosen(counted, states, model, device, modes)).scalar_one())


def count_by_state(session: Session) -> dict[str, int]:
    """Return how many rollouts are in each state that any is in."""
    counted = select(col(Rollout.state), func.count()).group_by(col(Rollout.state))
    return {state: int(n) for state, n in session.execute(counted)}


def _chosen(statement: Any, states: Sequence[str], model: str | None, device: str | None, modes: Sequence[str]) -> Any:
    """Return the statement for rollouts in these states (none: in any), of a model, with a device, with a stage of these modes.

    A mode is looked for in the text of the spec, as JSON is written here: quotes in a name would stand there behind a backslash.
    """
    if modes:
        text = cast(col(Rollout.spec), Text)
        statement = statement.where(or_(*(text.contains(f'"mode": "{mode}"', autoescape=True) for mode in modes)))
    if states:
        statement = statement.where(col(Rollout.state).in_(states))
    if device is not None:
        having = select(ASSIGNMENT.c.rollout_id).where(ASSIGNMENT.c.device_id == device)
        statement = statement.where(col(Rollout.id).in_(having))
    return statement if model is None else statement.where(col(Rollout.model) == model)


def lock_making(session: Session, model: str) -> None:
    """Let one transaction at a time make a rollout of a model: two at once would not see that they want the same devices.

    SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(sha256(f"rollout of {model}".encode()).digest()[:8], "big", signed=True)
        session.execute(select(func.pg_advisory_xact_lock(key)))


def active(session: Session, model: str | None = None) -> Sequence[Rollout]:
    """Return the rollouts that have not ended, oldest first."""
    statement = select(Rollout).where(col(Rollout.state).in_(sorted(ROLLOUT_ACTIVE)))
    if model is not None:
        statement = statement.where(col(Rollout.model) == model)
    return session.execute(statement.order_by(col(Rollout.created_at))).scalars().all()


def late(session: Session, since: datetime, model: str | None = None) -> Sequence[Rollout]:
    """Return the rollouts that finished at or after `since` and were not taken back, newest first."""
    over = (RolloutState.FINISHED.value, RolloutState.REGRESSED.value)
    statement = select(Rollout).where(col(Rollout.state).in_(over), col(Rollout.ended_at) >= since)
    if model is not None:
        statement = statement.where(col(Rollout.model) == model)
    return session.execute(statement.order_by(col(Rollout.ended_at).desc(), col(Rollout.id))).scalars().all()


def braked(session: Session, since: datetime) -> list[str]:
    """Return the rollouts whose devices must not begin anything: stopped and still open, or ended at or after `since`."""
    statement = select(col(Rollout.id)).where(
        col(Rollout.is_braked), or_(col(Rollout.ended_at).is_(None), col(Rollout.ended_at) >= since)
    )
    return sorted(session.execute(statement).scalars())


def failed_digests(session: Session) -> list[str]:
    """Return the bundles of strata that failed in rollouts that are still open: other strata of these go on.

    Without those that devices of another open rollout run: they may have to go back to them, and a brake must not hinder that.
    And without those that another stratum of an open rollout goes on with: strata by label have the bundle of their profile.
    """
    statement = (
        select(col(RolloutCell.digest), col(RolloutCell.rollout_id))
        .join(Rollout, col(Rollout.id) == col(RolloutCell.rollout_id))
        .where(
            col(RolloutCell.state) == StageState.FAILED.value,
            col(RolloutCell.digest) != "",
            col(Rollout.state).in_(sorted(ROLLOUT_ACTIVE)),
        )
        .distinct()
    )
    failed: dict[str, set[str]] = {}
    for digest, rollout_id in session.execute(statement):
        failed.setdefault(digest, set()).add(rollout_id)
    if failed:
        for digest, rollout_id in session.execute(_ways_back(failed)):
            if rollout_id not in failed.get(digest, ()):
                failed.pop(digest, None)
    return sorted(set(failed) - _going_on(session, failed)) if failed else []


def _going_on(session: Session, digests: Collection[str]) -> set[str]:
    """Return which of these bundles a stratum without a failed stage has, in a rollout that is open."""
    statement = (
        select(col(RolloutCell.digest), col(RolloutCell.rollout_id), col(RolloutCell.stratum), col(RolloutCell.state))
        .join(Rollout, col(Rollout.id) == col(RolloutCell.rollout_id))
        .where(col(RolloutCell.digest).in_(sorted(digests)), col(Rollout.state).in_(sorted(ROLLOUT_ACTIVE)))
    )
    lanes: dict[tuple[str, str, str], set[str]] = {}
    for digest, rollout_id, stratum, state in session.execute(statement):
        lanes.setdefault((digest, rollout_id, stratum), set()).add(state)
    return {digest for (digest, _, _), states in lanes.items() if StageState.FAILED.value not in states}


def _ways_back(digests: Collection[str]) -> Any:
    """Return the statement for which of these bundles devices of which open rollouts ran before."""
    previous = col(RolloutAssignment.previous)["sha256"].as_string()
    return (
        select(previous, col(RolloutAssignment.rollout_id))
        .join(Rollout, col(Rollout.id) == col(RolloutAssignment.rollout_id))
        .where(col(Rollout.state).in_(sorted(ROLLOUT_ACTIVE)), previous.in_(sorted(digests)))
        .distinct()
    )


# ---- cells, assignments, decisions


def cells(session: Session, rollout_id: str) -> list[StageRun]:
    """Return a rollout's cells in order of stage and stratum."""
    table = _CELL
    statement = select(table).where(table.c.rollout_id == rollout_id).order_by(table.c.stage, table.c.stratum)
    return [_cell(row) for row in session.execute(statement)]


def frozen_in(rollout_id: str) -> Select[Any]:
    """Return the query of the devices of a snapshot."""
    return select(col(RolloutMember.device_id)).where(col(RolloutMember.rollout_id) == rollout_id)


def save_cells(session: Session, rollout_id: str, new: Sequence[StageRun], changed: Sequence[StageRun]) -> None:
    """Write cells: insert the new ones, update the others, each in one batch."""
    bulk.insert_rows(session, _CELL, [_cell_row(rollout_id, one) for one in new])
    bulk.update_rows(session, _CELL, [_cell_row(rollout_id, one) for one in changed])


def freeze_members(session: Session, rollout_id: str, devices: Sequence[DeviceId]) -> None:
    """Store who belongs to a rollout whose membership is a snapshot."""
    if devices:
        session.execute(insert(RolloutMember), [{"rollout_id": rollout_id, "device_id": one} for one in devices])


def frozen_members(session: Session, rollout_id: str) -> frozenset[str]:
    """Return the devices of a snapshot."""
    return frozenset(session.execute(frozen_in(rollout_id)).scalars())


def add_decision(session: Session, row: RolloutDecision) -> None:
    """Store a decision."""
    session.add(row)


def decisions(session: Session, rollout_id: str, *, before: int | None, limit: int) -> Sequence[RolloutDecision]:
    """Return decisions, newest first."""
    statement = select(RolloutDecision).where(col(RolloutDecision.rollout_id) == rollout_id)
    if before is not None:
        statement = statement.where(col(RolloutDecision.id) < before)
    return session.execute(statement.order_by(col(RolloutDecision.id).desc()).limit(limit)).scalars().all()


def count_decisions(session: Session, rollout_id: str) -> int:
    """Return how many decisions were made."""
    statement = select(func.count()).select_from(RolloutDecision).where(col(RolloutDecision.rollout_id) == rollout_id)
    return int(session.execute(statement).scalar_one())


def _cell_row(rollout_id: str, cell: StageRun) -> dict[str, Any]:
    """Return a cell as its columns take it: enums as their text, the cut as decimal text."""
    plain = {name: getattr(value, "value", value) for name, value in asdict(cell).items()}
    return {**plain, "rollout_id": rollout_id, "cut": str(cell.cut)}


def _cell(row: Any) -> StageRun:
    return StageRun(
        stage=row.stage,
        stratum=ProfileName(row.stratum),
        state=StageState(row.state),
        cut=int(row.cut),
        population=row.population,
        digest=row.digest,
        opened_at=row.opened_at,
        soak_until=row.soak_until,
        resumed_at=row.resumed_at,
        ended_at=row.ended_at,
        verdict=None if row.verdict is None else VerdictKind(row.verdict),
        code=row.code,
        reason=row.reason,
        strength=None if row.strength is None else Strength(row.strength),
        bound=row.bound,
        asked_at=row.asked_at,
        approved_by=row.approved_by,
        intake=row.intake,
    )


# ---- claims


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
    """Lock a rollout's row for this transaction; return it, read again, or None when the fence is no longer ours."""
    statement = select(Rollout).where(col(Rollout.id) == rollout_id, col(Rollout.fence) == fence).with_for_update()
    row: Rollout | None = session.execute(statement.execution_options(populate_existing=True)).scalars().first()
    return row


def share_fence(session: Session, rollout_id: str, fence: int) -> Rollout | None:
    """Lock a rollout's row together with others who only read it; return it, or None when the fence is no longer ours."""
    statement = select(Rollout).where(col(Rollout.id) == rollout_id, col(Rollout.fence) == fence)
    row: Rollout | None = session.execute(statement.with_for_update(read=True)).scalars().first()
    return row

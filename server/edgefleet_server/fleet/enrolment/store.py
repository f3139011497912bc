"""SQL of claim tokens, of keys that wait for approval, and of packages of the agent.

Every function works in the caller's session and never commits.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, delete, func, not_, or_, select, update
from sqlmodel import Session, col

from edgefleet_protocol.claim import fingerprint
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.bulk import insert_new
from edgefleet_server.fleet.tables import (
    FleetAgentPackage,
    FleetClaim,
    FleetDevice,
    FleetEnrolment,
    FleetPending,
    FleetProtectedDevice,
)

PENDING: Final = "pending"

EXPIRED: Final = "expired"
"""Not stored: a row that still says `pending` after its time."""

BATCH: Final = 500
_SAME: Final = "same "

After = tuple[datetime, str]
"""The place of a row in a list: when it asked, and its id."""


def pending(session: Session, row_id: str, *, lock: bool = False) -> FleetPending | None:
    """Return a row, read again; `lock` holds it until the transaction ends."""
    return session.get(FleetPending, row_id, with_for_update=True if lock else None, populate_existing=True)


def lock_claim(session: Session, claim_id: str) -> None:
    """Let one key at a time begin to wait with a claim: what is counted then stays so until the transaction ends."""
    session.execute(select(col(FleetClaim.id)).where(col(FleetClaim.id) == claim_id).with_for_update())


def let_in_before(session: Session, key_sha256: str) -> FleetEnrolment | None:
    """Return how a key was enrolled that waited and was let in, if it was."""
    statement = (
        select(FleetEnrolment)
        .join(FleetPending, col(FleetPending.claim_id) == col(FleetEnrolment.claim_id))
        .where(
            col(FleetEnrolment.key_sha256) == key_sha256,
            col(FleetPending.key_sha256) == key_sha256,
            col(FleetPending.id) == fingerprint(key_sha256),
        )
    )
    return session.execute(statement).scalars().first()


def count_waiting(session: Session, claim_ids: Sequence[str], now: datetime) -> dict[str, int]:
    """Return how many keys wait with each of these claims; none: left out."""
    statement = (
        select(col(FleetPending.claim_id), func.count())
        .where(col(FleetPending.claim_id).in_(claim_ids), *_in_state(PENDING, now))
        .group_by(col(FleetPending.claim_id))
    )
    return {str(claim): int(n) for claim, n in session.execute(statement)}


def rows(
    session: Session, state: str, now: datetime, *, claim: str | None = None, after: After | None = None
) -> Iterator[tuple[FleetPending, dict[str, Any]]]:
    """Yield the keys in a state with the labels of their claim, the oldest first; read as they are asked for."""
    while True:
        found = session.execute(_chosen(state, now, claim, after).limit(BATCH)).all()
        for row, labels in found:
            yield row, labels
            after = (row.asked_at, row.id)
        if len(found) < BATCH:
            return


def count(session: Session, state: str, now: datetime, claim: str | None = None) -> int:
    """Return how many keys are in a state."""
    statement = select(func.count()).select_from(FleetPending).where(*_in_state(state, now))
    if claim is not None:
        statement = statement.where(col(FleetPending.claim_id) == claim)
    return int(session.execute(statement).scalar_one())


def _chosen(state: str, now: datetime, claim: str | None, after: After | None) -> Select[Any]:
    at, row_id = col(FleetPending.asked_at), col(FleetPending.id)
    statement = (
        select(FleetPending, col(FleetClaim.labels))
        .join(FleetClaim, col(FleetClaim.id) == col(FleetPending.claim_id))
        .where(*_in_state(state, now))
        .order_by(at, row_id)
    )
    if claim is not None:
        statement = statement.where(col(FleetPending.claim_id) == claim)
    if after is not None:
        statement = statement.where(or_(at > after[0], and_(at == after[0], row_id > after[1])))
    return statement


def _in_state(state: str, now: datetime) -> list[Any]:
    stored = col(FleetPending.state) == (PENDING if state == EXPIRED else state)
    if state == PENDING:
        return [stored, col(FleetPending.expires_at) > now]
    return [stored, col(FleetPending.expires_at) <= now] if state == EXPIRED else [stored]


def end_waiting(session: Session, claim_id: str, now: datetime) -> int:
    """Let the keys that wait with a claim wait no longer; return how many did."""
    mine = (col(FleetPending.claim_id) == claim_id, *_in_state(PENDING, now))
    return int(session.execute(update(FleetPending).where(*mine).values(expires_at=now)).rowcount)  # type: ignore[attr-defined]


def prune(session: Session, before: datetime) -> int:
    """Remove keys that gave up waiting, or were let in, before a moment; rejected ones stay. Return how many."""
    gave_up = and_(col(FleetPending.state) == PENDING, col(FleetPending.expires_at) < before)
    is_in = and_(col(FleetPending.state) == "approved", col(FleetPending.decided_at) < before)
    return int(session.execute(delete(FleetPending).where(or_(gave_up, is_in))).rowcount)  # type: ignore[attr-defined]


def claim_use(session: Session, claim_id: str) -> bool:
    """Take one use of a claim; False when none is left. One statement, so two devices cannot take the last one."""
    statement = (
        update(FleetClaim)
        .where(col(FleetClaim.id) == claim_id, col(FleetClaim.uses_left) > 0)
        .values(uses_left=col(FleetClaim.uses_left) - 1)
    )
    return int(session.execute(statement).rowcount) == 1  # type: ignore[attr-defined]


def suspect_before(
    session: Session, claim_id: str, key_sha256: str, public_key: str, facts: Mapping[str, Any]
) -> str | None:
    """Return why a new device may be a suspect one that enrols again, None when nothing says so.

    It has a key (`public_key`: PEM) or a claim token that a suspect device, revoked or not, used as well; or the board and the
    hostname of one, unless devices that are not suspect have them too: then they name no machine.
    """
    suspects = select(FleetDevice).where(col(FleetDevice.suspect_since).is_not(None)).order_by(col(FleetDevice.id))
    own = col(FleetDevice.id)
    used = select(col(FleetEnrolment.device_id))
    current = or_(col(FleetDevice.public_key) == public_key, col(FleetDevice.next_public_key) == public_key)
    hardware = and_(*(_fact(name) == str(facts.get(name, "")) for name in ("hostname", "board")))
    ways = [
        ("key", or_(own.in_(used.where(col(FleetEnrolment.key_sha256) == key_sha256)), current)),
        ("claim token", own.in_(used.where(col(FleetEnrolment.claim_id) == claim_id))),
    ]
    if facts.get("hostname"):
        ways.append(("hostname and board", hardware))
    for name, condition in ways:
        found = session.execute(suspects.where(condition).limit(1)).scalars().first()
        if found is None or (condition is hardware and _is_shared(session, hardware)):
            continue
        why = found.suspect_reason
        return why if why.startswith(_SAME) else f"{_SAME}{name} as the suspect device {found.id}: {why}"
    return None


def protected_before(session: Session, key_sha256: str, public_key: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the devices under a protection rule, revoked or not, that a new one was before.

    It has the key of one (`public_key`: PEM); or its hostname and board, unless a live device under no rule has them too: then
    they name no machine.
    """
    own = col(FleetDevice.id)
    under_rule = own.in_(select(col(FleetProtectedDevice.device_id)))
    used = select(col(FleetEnrolment.device_id)).where(col(FleetEnrolment.key_sha256) == key_sha256)
    current = or_(col(FleetDevice.public_key) == public_key, col(FleetDevice.next_public_key) == public_key)
    found = set(session.execute(select(own).where(under_rule, or_(own.in_(used), current))).scalars())
    hardware = and_(*(_fact(name) == str(facts.get(name, "")) for name in ("hostname", "board")))
    if facts.get("hostname") and (same := session.execute(select(own).where(under_rule, hardware)).scalars().all()):
        others = select(own).where(hardware, col(FleetDevice.revoked_at).is_(None), not_(under_rule)).limit(1)
        if session.execute(others).first() is None:
            found.update(same)
    return sorted(str(one) for one in found)


def _is_shared(session: Session, hardware: ColumnElement[bool]) -> bool:
    trusted = (col(FleetDevice.suspect_since).is_(None), col(FleetDevice.revoked_at).is_(None))
    return session.execute(select(col(FleetDevice.id)).where(hardware, *trusted).limit(1)).first() is not None


def _fact(name: str) -> ColumnElement[str]:
    return col(FleetDevice.facts)[name].as_string()  # type: ignore[no-any-return]


def claims_in_force(session: Session, now: datetime) -> Sequence[str]:
    """Return the ids of the claims that have not expired."""
    return session.scalars(select(col(FleetClaim.id)).where(col(FleetClaim.expires_at) > now)).all()


def claims_page(session: Session, after: str | None, limit: int) -> tuple[Sequence[FleetClaim], int]:
    """Return claims in order of id, and how many there are."""
    statement = select(FleetClaim).order_by(col(FleetClaim.id)).limit(limit)
    if after is not None:
        statement = statement.where(col(FleetClaim.id) > after)
    total = session.execute(select(func.count()).select_from(FleetClaim)).scalar_one()
    return session.execute(statement).scalars().all(), int(total)


def devices_of_claims(session: Session, claim_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the devices that each claim enrolled."""
    statement = (
        select(col(FleetEnrolment.claim_id), col(FleetEnrolment.device_id))
        .where(col(FleetEnrolment.claim_id).in_(claim_ids))
        .order_by(col(FleetEnrolment.at))
    )
    found: dict[str, list[str]] = {}
    for claim_id, device_id in session.execute(statement):
        found.setdefault(claim_id, []).append(device_id)
    return found


def not_cut_off(session: Session, limit: int) -> list[DeviceId]:
    """Return revoked devices that were not cut off the broker yet, in order of id."""
    row = FleetDevice
    wanted = (col(row.revoked_at).is_not(None), col(row.cut_off_at).is_(None))
    statement = select(col(row.id)).where(*wanted).order_by(col(row.id)).limit(limit)
    return [DeviceId(one) for one in session.execute(statement).scalars()]


def note_cut_off(session: Session, device_ids: Sequence[DeviceId], now: datetime) -> list[DeviceId]:
    """Note when devices were cut off, unless that is known; return those of which it was not."""
    row = FleetDevice
    statement = (
        update(row).where(col(row.id).in_(device_ids), col(row.cut_off_at).is_(None)).values(cut_off_at=now)
    ).returning(col(row.id))
    return sorted(DeviceId(one) for one in session.execute(statement).scalars())


def agent_packages(session: Session) -> list[FleetAgentPackage]:
    """Return the packages of the agent, at most one of a kind."""
    return list(session.execute(select(FleetAgentPackage)).scalars())


def put_agent_package(session: Session, row: Mapping[str, object], *, replaces: bool) -> None:
    """Write the package of a kind. replaces: False = only over one that was added earlier."""
    if insert_new(session, FleetAgentPackage, dict(row)):
        return
    written = update(FleetAgentPackage).where(col(FleetAgentPackage.kind) == row["kind"])
    if not replaces:
        written = written.where(col(FleetAgentPackage.added_at) < row["added_at"])
    session.execute(written.values(**row))

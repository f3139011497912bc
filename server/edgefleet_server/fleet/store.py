"""The fleet's SQL. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.fleet.errors import DeviceUnknownError
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus, SignedDesired
from edgefleet_server.fleet.tables import (
    FleetClaim,
    FleetDesired,
    FleetDevice,
    FleetEnrolment,
    FleetEvent,
    FleetHold,
    FleetModelState,
)

HOLD_ROW = 1
IN_CHUNK = 500


def device(session: Session, device_id: str, *, lock: bool = False) -> FleetDevice | None:
    """Return a device row; `lock` holds it until the transaction ends (SQLite: the whole database is held anyway)."""
    return session.get(FleetDevice, device_id, with_for_update=True if lock else None)


def known_device(session: Session, device_id: str, *, lock: bool = False) -> FleetDevice:
    """Return a device row as `device` does. Raises DeviceUnknownError."""
    row = device(session, device_id, lock=lock)
    if row is None:
        raise DeviceUnknownError(
            f"There is no device {device_id[:80]!r}.", next_step="`edgectl device list` shows all devices."
        )
    return row


def devices_page(session: Session, after: str | None, limit: int) -> Sequence[FleetDevice]:
    """Return device rows in order of id."""
    statement = select(FleetDevice).order_by(col(FleetDevice.id)).limit(limit)
    if after is not None:
        statement = statement.where(col(FleetDevice.id) > after)
    return session.execute(statement).scalars().all()


def devices_by_id(session: Session, ids: Sequence[str]) -> Sequence[FleetDevice]:
    """Return the rows of these devices in order of id."""
    rows: list[FleetDevice] = []
    for start in range(0, len(ids), IN_CHUNK):
        chosen = col(FleetDevice.id).in_(ids[start : start + IN_CHUNK])
        rows += session.execute(select(FleetDevice).where(chosen)).scalars().all()
    return sorted(rows, key=lambda row: row.id)


def facts(
    session: Session, *, ids: Collection[str] | None, profiles: Collection[str] | None, with_models: bool
) -> Iterator[DeviceFacts]:
    """Yield what selectors compare, in order of id; `ids` and `profiles` narrow the query where a selector allows."""
    models = _active_versions(session, ids) if with_models else {}
    statement = select(
        col(FleetDevice.id),
        col(FleetDevice.profile),
        col(FleetDevice.arch),
        col(FleetDevice.is_online),
        col(FleetDevice.revoked_at),
        col(FleetDevice.labels),
        col(FleetDevice.free_mb),
    ).order_by(col(FleetDevice.id))
    if ids is not None:
        statement = statement.where(col(FleetDevice.id).in_(ids))
    if profiles is not None:
        statement = statement.where(col(FleetDevice.profile).in_(profiles))
    for row_id, profile, arch, is_online, revoked_at, labels, free_mb in session.execute(statement):
        yield DeviceFacts(
            id=DeviceId(row_id),
            profile=ProfileName(profile),
            arch=arch,
            status=status_of(is_online, revoked_at),
            labels=labels,
            free_mb=free_mb,
            models=models.get(row_id, {}),
        )


def status_of(is_online: bool | None, revoked_at: datetime | None) -> DeviceStatus:
    """Return the one word for a device's reachability."""
    if revoked_at is not None:
        return DeviceStatus.REVOKED
    if is_online is None:
        return DeviceStatus.UNKNOWN
    return DeviceStatus.ONLINE if is_online else DeviceStatus.OFFLINE


def _active_versions(session: Session, ids: Collection[str] | None) -> dict[str, dict[str, str]]:
    statement = select(col(FleetModelState.device_id), col(FleetModelState.model), col(FleetModelState.version)).where(
        col(FleetModelState.version) != ""
    )
    if ids is not None:
        statement = statement.where(col(FleetModelState.device_id).in_(ids))
    found: dict[str, dict[str, str]] = {}
    for device_id, model, version in session.execute(statement):
        found.setdefault(device_id, {})[model] = version
    return found


def profiles_in_use(session: Session) -> list[str]:
    """Return the profiles of devices that are not revoked."""
    statement = select(col(FleetDevice.profile)).where(col(FleetDevice.revoked_at).is_(None)).distinct()
    return sorted(session.execute(statement).scalars())


def count_devices(session: Session) -> int:
    """Return the number of devices, revoked ones too."""
    return int(session.execute(select(func.count()).select_from(FleetDevice)).scalar_one())


def count_by(session: Session, column: Any) -> dict[Any, int]:
    """Return how many live devices have each value of a column."""
    statement = select(column, func.count()).where(col(FleetDevice.revoked_at).is_(None)).group_by(column)
    return {value: int(n) for value, n in session.execute(statement)}


def count_model_states(session: Session) -> list[tuple[str, str, str, int]]:
    """Return (model, version, assignment state, devices)."""
    keys = (col(FleetModelState.model), col(FleetModelState.version), col(FleetModelState.assignment))
    statement = select(*keys, func.count()).group_by(*keys).order_by(*keys)
    return [(model, version, state, int(n)) for model, version, state, n in session.execute(statement)]


def forget_presence(session: Session) -> None:
    """Mark every device unheard of."""
    session.execute(update(FleetDevice).values(is_online=None))


def claim_use(session: Session, claim_id: str) -> bool:
    """Take one use of a claim; False when none is left. One statement, so two devices cannot take the last one."""
    statement = (
        update(FleetClaim)
        .where(col(FleetClaim.id) == claim_id, col(FleetClaim.uses_left) > 0)
        .values(uses_left=col(FleetClaim.uses_left) - 1)
    )
    return int(session.execute(statement).rowcount) == 1  # type: ignore[attr-defined]


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


def all_desired(session: Session) -> Iterator[SignedDesired]:
    """Yield the signed document of every device that is not revoked."""
    yield from _signed(session, select_more=None)


def desired_changed_since(session: Session, since: datetime) -> Iterator[SignedDesired]:
    """Yield documents that were signed at or after `since`."""
    yield from _signed(session, select_more=col(FleetDesired.changed_at) >= since)


def desired_of(session: Session, device_id: str) -> SignedDesired | None:
    """Return the signed document of one device that is not revoked."""
    return next(_signed(session, select_more=col(FleetDesired.device_id) == device_id), None)


def _signed(session: Session, *, select_more: Any) -> Iterator[SignedDesired]:
    statement = (
        select(col(FleetDesired.device_id), col(FleetDesired.gen), col(FleetDesired.envelope))
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDevice.revoked_at).is_(None))
        .order_by(col(FleetDesired.device_id))
    )
    if select_more is not None:
        statement = statement.where(select_more)
    for device_id, gen, envelope in session.execute(statement):
        yield SignedDesired(DeviceId(device_id), int(gen), bytes(envelope))


def desired_row(session: Session, device_id: str, *, lock: bool = False) -> FleetDesired | None:
    """Return the row of a device's document."""
    return session.get(FleetDesired, device_id, with_for_update=True if lock else None)


def desired_rows(session: Session, device_ids: Collection[str]) -> dict[str, FleetDesired]:
    """Return the rows of these devices' documents, by device."""
    statement = select(FleetDesired).where(col(FleetDesired.device_id).in_(device_ids))
    return {row.device_id: row for row in session.execute(statement).scalars()}


def wanted_targets(session: Session, model: str) -> dict[str, str]:
    """Return the target of one model's active bundle in the documents of devices that are not revoked, by device."""
    target = col(FleetDesired.models)[(model, "active", "target")].as_string()
    statement = (
        select(col(FleetDesired.device_id), target)
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDevice.revoked_at).is_(None), target.is_not(None))
    )
    return {str(device_id): str(found) for device_id, found in session.execute(statement)}


def due_for_signing(session: Session, now: datetime, limit: int) -> list[str]:
    """Return devices whose document has passed half of its life, locked; those that others hold are left out."""
    statement = (
        select(col(FleetDesired.device_id))
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDesired.resign_at) <= now, col(FleetDevice.revoked_at).is_(None))
        .order_by(col(FleetDesired.resign_at))
        .limit(limit)
        .with_for_update(skip_locked=True, of=FleetDevice)
    )
    return list(session.execute(statement).scalars())


def delete_desired(session: Session, device_id: str) -> None:
    """Remove a device's document."""
    session.execute(delete(FleetDesired).where(col(FleetDesired.device_id) == device_id))


def model_states(session: Session, device_id: str) -> dict[str, FleetModelState]:
    """Return what a device last reported, by model."""
    statement = select(FleetModelState).where(col(FleetModelState.device_id) == device_id)
    return {row.model: row for row in session.execute(statement).scalars()}


def states_of_devices(session: Session, device_ids: Collection[str]) -> dict[str, list[FleetModelState]]:
    """Return what these devices last reported, by device, in order of model."""
    statement = (
        select(FleetModelState)
        .where(col(FleetModelState.device_id).in_(device_ids))
        .order_by(col(FleetModelState.model))
    )
    found: dict[str, list[FleetModelState]] = {}
    for row in session.execute(statement).scalars():
        found.setdefault(row.device_id, []).append(row)
    return found


def states_of_model(session: Session, model: str) -> Sequence[FleetModelState]:
    """Return what every device reports of one model, in order of device."""
    statement = (
        select(FleetModelState).where(col(FleetModelState.model) == model).order_by(col(FleetModelState.device_id))
    )
    return session.execute(statement).scalars().all()


def add_events(session: Session, rows: Sequence[dict[str, Any]]) -> int:
    """Insert device events; those that are there already change nothing. Return how many were new."""
    if not rows:
        return 0
    make = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = make(FleetEvent).values(list(rows)).on_conflict_do_nothing().returning(col(FleetEvent.id))
    return len(session.execute(statement).all())


def events_page(
    session: Session, *, device_id: str | None, before: int | None, since: datetime | None, limit: int
) -> Sequence[FleetEvent]:
    """Return events, newest first."""
    statement = select(FleetEvent).order_by(col(FleetEvent.id).desc()).limit(limit)
    if device_id is not None:
        statement = statement.where(col(FleetEvent.device_id) == device_id)
    if before is not None:
        statement = statement.where(col(FleetEvent.id) < before)
    if since is not None:
        statement = statement.where(col(FleetEvent.received_at) >= since)
    return session.execute(statement).scalars().all()


def count_events(session: Session, *, device_id: str | None, since: datetime | None) -> int:
    """Return how many events there are."""
    statement = select(func.count()).select_from(FleetEvent)
    if device_id is not None:
        statement = statement.where(col(FleetEvent.device_id) == device_id)
    if since is not None:
        statement = statement.where(col(FleetEvent.received_at) >= since)
    return int(session.execute(statement).scalar_one())


def hold(session: Session) -> FleetHold | None:
    """Return the brake document, if there was ever one."""
    return session.get(FleetHold, HOLD_ROW)

"""SQL of devices and groups that every part of the fleet shares. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.db import bulk
from edgefleet_server.db.bulk import insert_into
from edgefleet_server.db.keyset import walked
from edgefleet_server.fleet.errors import DeviceUnknownError
from edgefleet_server.fleet.model import CA_FINISHED, CA_STARTED, DeviceFacts, DeviceStatus
from edgefleet_server.fleet.tables import FleetCaRotation, FleetDevice, FleetGroup, FleetModelState, FleetSearchText
from edgefleet_server.signing.trust import CaChoice


def groups(session: Session, names: Collection[str] | None = None) -> Sequence[FleetGroup]:
    """Return groups in order of name: all, or those of these names that are there."""
    statement = select(FleetGroup).order_by(col(FleetGroup.name))
    if names is not None:
        statement = statement.where(col(FleetGroup.name).in_(names))
    return session.execute(statement).scalars().all()


def groups_page(
    session: Session, after: str | None, limit: int, *, is_down: bool = False
) -> tuple[Sequence[FleetGroup], int]:
    """Return groups in order of name, and how many there are."""
    statement = walked(select(FleetGroup), col(FleetGroup.name), after, limit, is_down=is_down)
    total = session.execute(select(func.count()).select_from(FleetGroup)).scalar_one()
    return session.execute(statement).scalars().all(), int(total)


def group(session: Session, name: str, *, lock: bool = False) -> FleetGroup | None:
    """Return a group; `lock` holds it until the transaction ends."""
    return session.get(FleetGroup, name, with_for_update=True if lock else None)


def share_groups(session: Session, names: Collection[str]) -> set[str]:
    """Keep these groups from being deleted until the transaction ends; return which of them are there."""
    statement = (
        select(col(FleetGroup.name))
        .where(col(FleetGroup.name).in_(names))
        .order_by(col(FleetGroup.name))
        .with_for_update(read=True)
    )
    return {str(name) for name in session.execute(statement).scalars()}


def add_group(session: Session, row: FleetGroup) -> bool:
    """Insert a group; False when its name is taken."""
    values = {"name": row.name, "selector": row.selector, "created_at": row.created_at, "created_by": row.created_by}
    statement = insert_into(session, FleetGroup).values(values).on_conflict_do_nothing().returning(col(FleetGroup.name))
    return session.execute(statement).first() is not None


IN_CHUNK = 1000


def device(session: Session, device_id: str, *, lock: bool = False) -> FleetDevice | None:
    """Return a device row; `lock` holds it until the transaction ends (SQLite: the whole database is held anyway)."""
    return session.get(FleetDevice, device_id, with_for_update=True if lock else None)


def known_device(session: Session, device_id: str, *, lock: bool = False) -> FleetDevice:
    """Return a device row as `device` does. Raises DeviceUnknownError."""
    row = device(session, device_id, lock=lock)
    if row is None:
        raise DeviceUnknownError(f"there is no device {device_id[:80]!r}", next_step=_next_step(session, device_id))
    return row


def display_names(session: Session, ids: Collection[str]) -> dict[str, str]:
    """Return the display names of these devices, by id; devices without one are left out."""
    found: dict[str, str] = {}
    wanted = list(ids)
    for start in range(0, len(wanted), IN_CHUNK):
        chosen = select(col(FleetDevice.id), col(FleetDevice.display_name)).where(
            col(FleetDevice.id).in_(wanted[start : start + IN_CHUNK]), col(FleetDevice.display_name) != ""
        )
        found |= {str(device): str(name) for device, name in session.execute(chosen)}
    return found


def _next_step(session: Session, text: str) -> str:
    named = (
        select(col(FleetDevice.id)).where(col(FleetDevice.display_name) == text).order_by(col(FleetDevice.id)).limit(3)
    )
    ids = [str(one) for one in session.execute(named).scalars()]
    if not ids:
        return "`edgectl device list` shows all devices"
    return f"That is the name of {', '.join(ids)}: use the id, because a device may choose its name."


def devices_by_id(session: Session, ids: Sequence[str]) -> Sequence[FleetDevice]:
    """Return the rows of these devices in order of id."""
    rows: list[FleetDevice] = []
    for start in range(0, len(ids), IN_CHUNK):
        chosen = col(FleetDevice.id).in_(ids[start : start + IN_CHUNK])
        rows += session.execute(select(FleetDevice).where(chosen)).scalars().all()
    return sorted(rows, key=lambda row: row.id)


def facts(session: Session, condition: ColumnElement[bool], *, with_models: bool) -> Iterator[DeviceFacts]:
    """Yield what selectors compare of the devices that a condition holds for, in order of id."""
    models = _active_versions(session, condition) if with_models else {}
    statement = (
        select(
            col(FleetDevice.id),
            col(FleetDevice.profile),
            col(FleetDevice.arch),
            col(FleetDevice.is_online),
            col(FleetDevice.revoked_at),
            col(FleetDevice.labels),
            col(FleetDevice.free_mb),
            col(FleetDevice.suspect_since),
        )
        .where(condition)
        .order_by(col(FleetDevice.id))
    )
    for row_id, profile, arch, is_online, revoked_at, labels, free_mb, suspect_since in session.execute(statement):
        yield DeviceFacts(
            id=DeviceId(row_id),
            profile=ProfileName(profile),
            arch=arch,
            status=status_of(is_online, revoked_at),
            labels=labels,
            free_mb=free_mb,
            models=models.get(row_id, {}),
            is_suspect=suspect_since is not None,
        )


def status_of(is_online: bool | None, revoked_at: datetime | None) -> DeviceStatus:
    """Return the one word for a device's reachability."""
    if revoked_at is not None:
        return DeviceStatus.REVOKED
    if is_online is None:
        return DeviceStatus.UNKNOWN
    return DeviceStatus.ONLINE if is_online else DeviceStatus.OFFLINE


def _active_versions(session: Session, condition: ColumnElement[bool]) -> dict[str, dict[str, str]]:
    matching = select(col(FleetDevice.id)).where(condition)
    statement = select(col(FleetModelState.device_id), col(FleetModelState.model), col(FleetModelState.version)).where(
        col(FleetModelState.version) != "", col(FleetModelState.device_id).in_(matching)
    )
    found: dict[str, dict[str, str]] = {}
    for device_id, model, version in session.execute(statement):
        found.setdefault(device_id, {})[model] = version
    return found


def count_devices(session: Session, *conditions: ColumnElement[bool], most: int | None = None) -> int:
    """Return the number of devices that the conditions hold for, revoked ones too; counting stops at `most`."""
    found = select(col(FleetDevice.id)).where(*conditions)
    if most is not None:
        found = found.limit(most)
    return int(session.execute(select(func.count()).select_from(found.subquery())).scalar_one())


def count_all(session: Session) -> int:
    """Return the number of devices, the revoked too: of the narrow rows that the database keeps one of for each (ADR 0164).

    Reports change the devices' own rows all the time, and PostgreSQL then looks into each of them to see whether it is there.
    """
    return int(session.execute(select(func.count()).select_from(FleetSearchText)).scalar_one())


def count_live(session: Session) -> int:
    """Return the number of devices that are not revoked; the revoked are few."""
    return count_all(session) - count_devices(session, col(FleetDevice.revoked_at).is_not(None))


def forget_presence(session: Session, now: datetime) -> None:
    """Mark every device unheard of, those that were there as away from now; locked in order of id, as all writers of documents do.

    So are those that went away later than now: a clock was ahead.
    """
    heard_of = col(FleetDevice.is_online).is_not(None)
    session.execute(select(col(FleetDevice.id)).where(heard_of).order_by(col(FleetDevice.id)).with_for_update())
    goes = or_(col(FleetDevice.is_online).is_(True), col(FleetDevice.offline_since) > now)
    session.execute(update(FleetDevice).where(goes).values(offline_since=now))
    session.execute(update(FleetDevice).where(heard_of).values(is_online=None))


def lock_live(session: Session, device_ids: Collection[str]) -> dict[str, int]:
    """Lock those of these devices that are known and not revoked, in order of id; return what gen each has reported."""
    statement = (
        select(col(FleetDevice.id), col(FleetDevice.reported_gen))
        .where(bulk.among(session, col(FleetDevice.id), device_ids), col(FleetDevice.revoked_at).is_(None))
        .order_by(col(FleetDevice.id))
        .with_for_update()
    )
    return {str(device_id): int(gen) for device_id, gen in session.execute(statement)}


def suspects(session: Session) -> frozenset[DeviceId]:
    """Return the suspect devices that are not revoked: they are few, and an index holds only them."""
    chosen = select(col(FleetDevice.id)).where(
        col(FleetDevice.suspect_since).is_not(None), col(FleetDevice.revoked_at).is_(None)
    )
    return frozenset(DeviceId(one) for one in session.execute(chosen).scalars())


def mark_suspect(session: Session, device_id: str, reason: str, now: datetime) -> bool:
    """Make a device suspect; return whether it was not. The first moment and the first reason stay."""
    statement = (
        update(FleetDevice)
        .where(col(FleetDevice.id) == device_id, col(FleetDevice.suspect_since).is_(None))
        .values(suspect_since=now, suspect_reason=reason)
    )
    return int(session.execute(statement).rowcount) == 1  # type: ignore[attr-defined]


def clear_suspicion(session: Session, device_id: str) -> bool:
    """Make a device suspect no longer; return whether it was."""
    statement = (
        update(FleetDevice)
        .where(col(FleetDevice.id) == device_id, col(FleetDevice.suspect_since).is_not(None))
        .values(suspect_since=None, suspect_reason="")
    )
    return int(session.execute(statement).rowcount) == 1  # type: ignore[attr-defined]


def lock_devices(session: Session) -> None:
    """Lock every device, in order of id: a process that signs documents has ended, or begins after this transaction."""
    session.execute(select(col(FleetDevice.id)).order_by(col(FleetDevice.id)).with_for_update())


def newest_ca_rotation(session: Session, *, lock: bool = False) -> FleetCaRotation | None:
    """Return the rotation of the device CA that was started last; `lock` holds it until the transaction ends."""
    row = FleetCaRotation
    statement = select(row).order_by(col(row.started_at).desc(), col(row.number).desc()).limit(1)
    return session.execute(statement.with_for_update() if lock else statement).scalars().first()


def first_ca(session: Session) -> str:
    """Return the SHA-256 of the CA that this server began with, "" while it was never rotated."""
    row = FleetCaRotation
    statement = select(col(row.old_ca)).order_by(col(row.started_at), col(row.number)).limit(1)
    return session.execute(statement).scalars().first() or ""


def ca_choice(session: Session, told: int) -> CaChoice:
    """Return which CA issues the certificate of a device. told: number of the announcement that the device knows.

    It would refuse one of a CA that it has not heard of, and then is to renew that of the old one as soon as it hears. Once the rotation is
    decided nobody gets one of the CA that goes.
    """
    rotation = newest_ca_rotation(session)
    if rotation is None or rotation.state not in (CA_STARTED, CA_FINISHED):
        return CaChoice()
    if rotation.state == CA_FINISHED or told >= rotation.number > 0:
        return CaChoice(by_next=True)
    return CaChoice(before_s=rotation.renew_from_s)

"""The fleet's SQL. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    String,
    Table,
    case,
    cast,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, col

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server import bulk
from edgefleet_server.fleet.errors import DeviceUnknownError
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus, EventFilter, SignedDesired
from edgefleet_server.fleet.tables import (
    FleetCaptureKey,
    FleetClaim,
    FleetDesired,
    FleetDevice,
    FleetEnrolment,
    FleetEvent,
    FleetHold,
    FleetModelState,
)

HOLD_ROW = 1
CAPTURE_KEY_ROW = 1
IN_CHUNK = 1000


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
        )
        .where(condition)
        .order_by(col(FleetDevice.id))
    )
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


def forget_presence(session: Session) -> None:
    """Mark every device unheard of; locked in order of id, as whoever writes many documents does."""
    heard_of = col(FleetDevice.is_online).is_not(None)
    session.execute(select(col(FleetDevice.id)).where(heard_of).order_by(col(FleetDevice.id)).with_for_update())
    session.execute(update(FleetDevice).where(heard_of).values(is_online=None))


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


def desired_changed_since(session: Session, since: datetime, known: Mapping[DeviceId, int]) -> Iterator[SignedDesired]:
    """Yield documents that were signed at or after `since` and have a higher gen than is known; only those are read whole."""
    table: Table = FleetDesired.__table__  # type: ignore[attr-defined]
    # one text of all: there may be all of a fleet, and a row of each takes twice as long to read
    pair = table.c.device_id + "=" + cast(table.c.gen, String)
    told = session.scalar(select(func.aggregate_strings(pair, " ")).where(table.c.changed_at >= since)) or ""
    pairs = (one.partition("=") for one in told.split())
    news = [device for device, _, gen in pairs if int(gen) > known.get(DeviceId(device), 0)]
    for start in range(0, len(news), IN_CHUNK):
        chosen = bulk.among(session, col(FleetDesired.device_id), sorted(news)[start : start + IN_CHUNK])
        yield from _signed(session, select_more=chosen)


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


def wanted_targets(session: Session, model: str) -> dict[str, str]:
    """Return the target of one model's active bundle in the documents of devices that are not revoked, by device."""
    target = col(FleetDesired.models)[(model, "active", "target")].as_string()
    statement = (
        select(col(FleetDesired.device_id), target)
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDevice.revoked_at).is_(None), target.is_not(None))
    )
    return {str(device_id): str(found) for device_id, found in session.execute(statement)}


def lock_live(session: Session, device_ids: Collection[str]) -> dict[str, int]:
    """Lock those of these devices that are known and not revoked, in order of id; return what gen each has reported."""
    statement = (
        select(col(FleetDevice.id), col(FleetDevice.reported_gen))
        .where(bulk.among(session, col(FleetDevice.id), device_ids), col(FleetDevice.revoked_at).is_(None))
        .order_by(col(FleetDevice.id))
        .with_for_update()
    )
    return {str(device_id): int(gen) for device_id, gen in session.execute(statement)}


def lock_documents(session: Session, device_ids: Collection[str]) -> Iterable[tuple[FleetDesired, str | None]]:
    """Lock the documents of devices that `lock_live` returned; return each, read anew, with the public key for captures.

    The key may be read in the same statement because it changes only while no device is locked (`lock_devices`).
    """
    key = select(col(FleetCaptureKey.public_key)).where(col(FleetCaptureKey.id) == CAPTURE_KEY_ROW).scalar_subquery()
    statement = (
        select(FleetDesired, key)
        .where(col(FleetDesired.device_id).in_(device_ids))
        .order_by(col(FleetDesired.device_id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return [(row[0], row[1]) for row in session.execute(statement)]


def lock_devices(session: Session) -> None:
    """Lock every device, in order of id: whoever signs documents has ended, or begins after this transaction."""
    session.execute(select(col(FleetDevice.id)).order_by(col(FleetDevice.id)).with_for_update())


def documents(session: Session, device_ids: Sequence[str]) -> Iterator[tuple[DeviceId, int, dict[str, Any]]]:
    """Yield (device, gen, models as plain data) of these devices' documents."""
    for start in range(0, len(device_ids), IN_CHUNK):
        chosen = bulk.among(session, col(FleetDesired.device_id), device_ids[start : start + IN_CHUNK])
        statement = select(col(FleetDesired.device_id), col(FleetDesired.gen), col(FleetDesired.models)).where(chosen)
        for device_id, gen, models in session.execute(statement):
            yield DeviceId(device_id), int(gen), models


def reported(session: Session, device_ids: Sequence[str]) -> Iterator[Any]:
    """Yield id, profile, presence, gen and the whole report of these devices, without the rest of their rows."""
    for start in range(0, len(device_ids), IN_CHUNK):
        statement = select(
            col(FleetDevice.id),
            col(FleetDevice.profile),
            col(FleetDevice.is_online),
            col(FleetDevice.last_seen),
            col(FleetDevice.revoked_at),
            col(FleetDevice.reported_gen),
            col(FleetDevice.reported),
        ).where(bulk.among(session, col(FleetDevice.id), device_ids[start : start + IN_CHUNK]))
        yield from session.execute(statement)


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


def states_of_model(session: Session, model: str) -> Sequence[FleetModelState]:
    """Return what every device reports of one model, in order of device."""
    statement = (
        select(FleetModelState).where(col(FleetModelState.model) == model).order_by(col(FleetModelState.device_id))
    )
    return session.execute(statement).scalars().all()


_EVENT_KEY: Final = (col(FleetEvent.device_id), col(FleetEvent.boot_id), col(FleetEvent.seq))


def add_events(session: Session, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Insert device events; those that are there already change nothing. Return those that were new, with their `id`."""
    if session.get_bind().dialect.name == "postgresql":
        # there a refused row still uses up an id, and a gap in the ids makes those who follow the feed wait
        rows = _without_known(session, rows)
    if not rows:
        return []
    said = {
        (row["device_id"], row["boot_id"], row["seq"]): row for row in reversed(rows)
    }  # of two the first one counts
    insert_all = insert_into(session, FleetEvent).values(list(rows)).on_conflict_do_nothing()
    found = session.execute(insert_all.returning(col(FleetEvent.id), *_EVENT_KEY))
    return sorted(({**said[tuple(key)], "id": int(one)} for one, *key in found), key=lambda row: row["id"])


def _without_known(session: Session, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    said = {(row["device_id"], row["boot_id"], row["seq"]): row for row in rows}
    known = {tuple(found) for found in session.execute(select(*_EVENT_KEY).where(tuple_(*_EVENT_KEY).in_(said)))}
    return [row for one, row in said.items() if one not in known]


def insert_into(session: Session, table: type[SQLModel]) -> Any:
    """Return the INSERT that knows ON CONFLICT on this kind of database."""
    return (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert(table)


def add_server_events(session: Session, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert events that were made here; return their ids in the order of `rows`."""
    return bulk.insert_counted(session, FleetEvent.__table__, rows)  # type: ignore[attr-defined]


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
    """Remove up to `limit` events that devices told before a moment; never the newest, whose id must not come again."""
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


def hold(session: Session) -> FleetHold | None:
    """Return the brake document, if one was ever signed."""
    row = session.get(FleetHold, HOLD_ROW)
    return row if row is not None and row.seq > 0 else None


def locked_hold(session: Session, now: datetime) -> FleetHold:
    """Return the row of the brake, locked and read anew; it is made when there is none."""
    empty = {"id": HOLD_ROW, "seq": 0, "rollouts": [], "digests": [], "envelope": b"", "expires_at": now}
    session.execute(insert_into(session, FleetHold).values(empty).on_conflict_do_nothing())
    statement = select(FleetHold).where(col(FleetHold.id) == HOLD_ROW).with_for_update()
    row: FleetHold = session.execute(statement.execution_options(populate_existing=True)).scalar_one()
    return row

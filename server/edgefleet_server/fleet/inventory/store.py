"""SQL that reads devices for lists, counts the fleet and finds who is in trouble.

What a list shows is read as plain rows of the columns that are shown, without documents and keys that nobody looks at (ADR 0061).
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, Row, Select, bindparam, func, select
from sqlmodel import Session, col

from edgefleet_server.fleet.store import IN_CHUNK
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice, FleetLabel, FleetModelState
from edgefleet_terms.reserved_labels import SITE_LABEL

_IDS: Final[BindParameter[Any]] = bindparam("ids", expanding=True)
_DEVICES: Final = (
    select(  # type: ignore[call-overload,misc]  # more columns than its overloads have
        FleetDevice.id, FleetDevice.profile, FleetDevice.arch, FleetDevice.labels, FleetDevice.facts, FleetDevice.enrolled_at,
        FleetDevice.cert_not_after, FleetDevice.revoked_at, FleetDevice.is_online, FleetDevice.last_seen, FleetDevice.reported_gen,
        FleetDevice.reported, FleetDevice.free_mb, FleetDevice.display_name, FleetDevice.cut_off_at,
        FleetDevice.suspect_since, FleetDevice.suspect_reason, FleetDevice.state_seq, FleetDevice.drift, FleetDevice.offline_since,
        col(FleetDesired.gen).label("desired_gen"), col(FleetDesired.models).label("desired_models"),
        FleetDesired.issued_at, FleetDesired.expires_at,
    )
    .select_from(FleetDevice)
    .outerjoin(FleetDesired, col(FleetDesired.device_id) == col(FleetDevice.id))
    .where(col(FleetDevice.id).in_(_IDS))
)  # fmt: skip
_STATES: Final = (
    select(  # type: ignore[call-overload]  # more columns than its overloads have
        FleetModelState.device_id, FleetModelState.model, FleetModelState.version, FleetModelState.active_target,
        FleetModelState.active_sha256, FleetModelState.phase, FleetModelState.assignment, FleetModelState.error_class,
        FleetModelState.changed_at,
    )
    .where(col(FleetModelState.device_id).in_(_IDS))
    .order_by(col(FleetModelState.model))
)  # fmt: skip
"""Made once: to write such a statement and to find its compiled form takes as long as to read a few rows."""


def shown_devices(session: Session, ids: Sequence[str]) -> list[Any]:
    """Return what lists show of these devices and of their documents, in the order of `ids`: databases may order texts otherwise than
    Python. A device without a document has None for all that stands there."""
    rows = {row.id: row for row in _rows(session, _DEVICES, ids)}
    return [rows[one] for one in ids if one in rows]


def shown_states(session: Session, ids: Sequence[str]) -> dict[str, list[Any]]:
    """Return what these devices last reported, by device, in order of model."""
    found: dict[str, list[Any]] = {}
    for row in _rows(session, _STATES, ids):
        found.setdefault(row.device_id, []).append(row)
    return found


def _rows(session: Session, statement: Select[Any], ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Return rows without what the session does for objects; what was changed in it is seen."""
    session.flush()
    return session.connection().execute(statement, {"ids": list(ids)}).all()


def profiles_in_use(session: Session) -> list[str]:
    """Return the profiles of devices that are not revoked."""
    statement = select(col(FleetDevice.profile)).where(col(FleetDevice.revoked_at).is_(None)).distinct()
    return sorted(session.execute(statement).scalars())


def count_by(session: Session, column: Any) -> dict[Any, int]:
    """Return how many live devices have each value of a column."""
    statement = select(column, func.count()).where(col(FleetDevice.revoked_at).is_(None)).group_by(column)
    return {value: int(n) for value, n in session.execute(statement)}


def profiles_of(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Return the profiles of those of these devices that are live."""
    found: dict[str, str] = {}
    own, profile = col(FleetDevice.id), col(FleetDevice.profile)
    for start in range(0, len(ids), IN_CHUNK):
        live = select(own, profile).where(own.in_(ids[start : start + IN_CHUNK]), col(FleetDevice.revoked_at).is_(None))
        found |= {str(device): str(name) for device, name in session.execute(live)}
    return found


def count_model_states(session: Session) -> list[tuple[str, str, str, int]]:
    """Return (model, version, assignment state, devices)."""
    keys = (col(FleetModelState.model), col(FleetModelState.version), col(FleetModelState.assignment))
    statement = select(*keys, func.count()).group_by(*keys).order_by(*keys)
    return [(model, version, state, int(n)) for model, version, state, n in session.execute(statement)]


def count_versions(session: Session) -> list[tuple[str, str, int]]:
    """Return (model, version, live devices that run it), most first. The revoked, who are few, are counted apart and taken off."""
    revoked = select(col(FleetDevice.id)).where(col(FleetDevice.revoked_at).is_not(None))
    keys = (col(FleetModelState.model), col(FleetModelState.version))
    running = select(*keys, func.count()).where(col(FleetModelState.version) != "").group_by(*keys)
    counts = {(str(model), str(version)): int(n) for model, version, n in session.execute(running)}
    for model, version, n in session.execute(running.where(col(FleetModelState.device_id).in_(revoked))):
        counts[model, version] -= int(n)
    found = [(model, version, n) for (model, version), n in counts.items() if n > 0]
    return sorted(found, key=lambda one: (-one[2], one[0], one[1]))


def count_bundles(session: Session) -> list[tuple[str, str, int]]:
    """Return (model, sha256 of the bundle, live devices that run it)."""
    state = FleetModelState
    live = select(col(FleetDevice.id)).where(col(FleetDevice.revoked_at).is_(None))
    keys = (col(state.model), col(state.active_sha256))
    running = select(*keys, func.count()).where(col(state.active_sha256) != "", col(state.device_id).in_(live))
    return [(str(model), str(sha256), int(n)) for model, sha256, n in session.execute(running.group_by(*keys))]


def count_labels(session: Session, of_key: int, most: int) -> list[tuple[str, str, int]]:
    """Return (key, value, live devices that have it), most first: of each key so many values, of the site even where other keys have more.

    An index holds them in this order. The revoked, who are few, are counted apart and taken off.
    """
    key, value = col(FleetLabel.key), col(FleetLabel.value)
    order = func.row_number().over(partition_by=key, order_by=(func.count().desc(), value))
    each = select(key, value, func.count().label("n"), order.label("place")).group_by(key, value).subquery().c
    kept = select(each.key, each.value, each.n).where(each.place <= of_key)
    kept = kept.order_by(each.key != SITE_LABEL, each.n.desc(), each.key).limit(most)
    counts = {(str(name), str(text)): int(n) for name, text, n in session.execute(kept)}
    revoked = select(col(FleetDevice.id)).where(col(FleetDevice.revoked_at).is_not(None))
    gone = select(key, value, func.count()).where(col(FleetLabel.device_id).in_(revoked)).group_by(key, value)
    for name, text, n in session.execute(gone):
        if (name, text) in counts:
            counts[name, text] -= int(n)
    found = [(name, text, n) for (name, text), n in counts.items() if n > 0]
    return sorted(found, key=lambda one: (-one[2], one[0], one[1]))


def newest_troubles(session: Session, states: Sequence[str], limit: int) -> list[tuple[FleetModelState, Any]]:
    """Return what live devices report of models in these states, the newest first, each with the device's whole report."""
    row = FleetModelState
    newest: list[FleetModelState] = []
    for state in states:  # one walk along the index each, and some more than are wanted: revoked devices are among them
        found = select(row).where(col(row.assignment) == state).order_by(col(row.changed_at).desc()).limit(2 * limit)
        newest += session.execute(found).scalars()
    ids = {one.device_id for one in newest}
    known = select(col(FleetDevice.id), col(FleetDevice.reported)).where(
        col(FleetDevice.id).in_(ids), col(FleetDevice.revoked_at).is_(None)
    )
    reports = {str(row.id): row.reported for row in session.execute(known)}
    newest.sort(key=lambda one: one.changed_at, reverse=True)
    return [(one, reports[one.device_id]) for one in newest if one.device_id in reports][:limit]

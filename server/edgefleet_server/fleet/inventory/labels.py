"""What people change of devices: labels, profile and display name, of one or of all that a selector matches. Thread-safe; calls block.

What devices say of themselves is in `reported`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, update
from sqlmodel import Session, col

from edgefleet_profiles.profile import HardwareProfile
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.display_name import check_name
from edgefleet_server.fleet.errors import BadLabelError
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.protection import store as protection_store
from edgefleet_server.fleet.selectors import device_selector, grammar
from edgefleet_server.fleet.tables import FleetDevice

SAMPLE: Final = 20
_BATCH: Final = 1_000

Changes = Mapping[str, str | None]
"""Labels to set; None removes one."""


@dataclass(frozen=True)
class LabelChange:
    """What labelling by selector did, or would do: how many devices matched and changed, and the first of those that change."""

    matched: int
    changed: int
    dry_run: bool
    sample: Sequence[DeviceId]


class DeviceEdits:
    """Changes labels, profiles and display names. Every write joins the caller's transaction."""

    def __init__(self, db: Database, feed: EventLog, profile: Callable[[str], HardwareProfile], clock: Clock) -> None:
        """Wire the parts. profile: returns a hardware profile or raises."""
        self._db = db
        self._feed = feed
        self._profile = profile
        self._clock = clock

    def update(self, device_id: str, labels: Changes, profile: str | None, display_name: str | None = None) -> None:
        """Set what is given of one device. display_name: "" removes it.

        Raises DeviceUnknownError, BadLabelError, BadDisplayNameError, ProfileUnknownError.
        """
        with self._db.session() as session:
            row = store.known_device(session, device_id, lock=True)
            protection_store.note_members(session, self._clock.now(), [device_id])  # what enrolled as a rule was made
            row.labels = grammar.check_labels(_merged(row.labels, labels))
            if display_name is not None:
                row.display_name = check_name(display_name) if display_name else ""
            if profile is not None and profile != row.profile:
                before, row.profile = row.profile, self._profile(profile).name
                detail = {"from": before, "to": row.profile}
                self._feed.add([NewEvent("profile_set", device_id, detail=detail)])
            session.flush()
            protection_store.note_members(session, self._clock.now(), [device_id])

    def editable(self, device_id: str, *, lock: bool = False) -> list[Any]:
        """Return what people can change of a device, as JSON values: what its entity tag names. Raises DeviceUnknownError.

        `lock` holds the device until the caller's transaction ends.
        """
        scope = self._db.session() if lock else self._db.read()
        with scope as session:
            row = store.known_device(session, device_id, lock=lock)
            return [row.id, row.labels, row.profile, row.revoked_at is not None, row.display_name]

    def label(self, selector: str, labels: Changes, *, dry_run: bool) -> LabelChange:
        """Set labels of every live device that a selector matches, all or none. Raises BadSelectorError, BadLabelError."""
        if not labels:
            raise BadLabelError("no label is named", next_step="say which to set or to remove")
        grammar.check_labels(_merged({}, labels))
        parsed = grammar.parse_selector(selector)
        scope = self._db.read() if dry_run else self._db.session()
        with scope as session:
            matched = [
                one.id for one in device_selector.matching(session, parsed) if one.status is not DeviceStatus.REVOKED
            ]
            if not dry_run and len(matched) <= store.IN_CHUNK:
                store.lock_live(session, matched)
            elif not dry_run:
                store.lock_devices(session)
            changed = list(_changed(device_selector.labels_of(session, matched), labels))
            if not dry_run:
                ids, now = [device for device, _ in changed], self._clock.now()
                protection_store.note_members(session, now, ids)  # as in `update`
                _write(session, changed)
                protection_store.note_members(session, now, ids)
        return LabelChange(len(matched), len(changed), dry_run, [device for device, _ in changed[:SAMPLE]])


def _merged(before: Mapping[str, str], labels: Changes) -> dict[str, str]:
    return {key: value for key, value in {**before, **labels}.items() if value is not None}


def _changed(
    devices: Iterable[tuple[DeviceId, Mapping[str, str]]], labels: Changes
) -> Iterable[tuple[DeviceId, dict[str, str]]]:
    """Yield the devices whose labels become others. Raises BadLabelError naming one that would have too many."""
    for device, before in devices:
        after = _merged(before, labels)
        if after != before:
            if len(after) > grammar.MAX_LABELS:
                raise BadLabelError(
                    f"the device {device} would have {len(after)} labels, more than {grammar.MAX_LABELS}; none was changed",
                    next_step="remove one of its labels, or leave it out of the selector",
                )
            yield device, after


def _write(session: Session, changed: Sequence[tuple[DeviceId, dict[str, str]]]) -> None:
    statement = update(FleetDevice).where(col(FleetDevice.id) == bindparam("device")).values(labels=bindparam("after"))
    for start in range(0, len(changed), _BATCH):
        rows = [{"device": device, "after": after} for device, after in changed[start : start + _BATCH]]
        session.connection().execute(statement, rows)

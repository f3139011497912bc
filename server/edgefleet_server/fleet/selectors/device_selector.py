"""The devices that a selector matches, and which devices are live."""

from collections.abc import Collection, Mapping, Sequence

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.selectors import grammar, resolve


class DeviceSelector:
    """Finds devices. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Read from `db`."""
        self._db = db

    def select(self, selector: str) -> list[DeviceFacts]:
        """Return the devices that a selector matches, in order of id. Raises BadSelectorError."""
        parsed = grammar.parse_selector(selector)
        with self._db.read() as session:
            return list(resolve.matching(session, parsed))

    def population(self, selector: str) -> list[DeviceFacts]:
        """Return the devices that a selector matches, without revoked ones, in order of id. Raises BadSelectorError."""
        return [one for one in self.select(selector) if one.status is not DeviceStatus.REVOKED]

    def live_among(self, devices: Collection[DeviceId]) -> set[DeviceId]:
        """Return which of these devices are known and not revoked."""
        with self._db.read() as session:
            return {DeviceId(row.id) for row in store.devices_by_id(session, list(devices)) if row.revoked_at is None}

    def labels_of(self, device_ids: Sequence[DeviceId]) -> dict[DeviceId, Mapping[str, str]]:
        """Return the labels of each of these devices; unknown devices are left out."""
        with self._db.read() as session:
            return dict(resolve.labels_of(session, device_ids))

"""Reads desired documents: one device's, all that a broker must retain, those that changed, and what a device may pull."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired import store
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.model import OfferedBlob, SignedDesired
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.registry.model import BundleView


class Bundles(Protocol):
    """What the reader needs of the registry."""

    def bundles_by_digest(self, digests: Sequence[str]) -> Mapping[Sha256, BundleView]:
        """Return signed bundles by the digests that are known."""
        ...


class DesiredReader:
    """Reads documents. Thread-safe; calls block."""

    def __init__(self, db: Database, bundles: Bundles, devices: DeviceSelector, desired: DesiredBook) -> None:
        """Wire the parts."""
        self._db = db
        self._bundles = bundles
        self._devices = devices
        self._desired = desired

    def of_device(self, device_id: DeviceId) -> SignedDesired | None:
        """Return a device's signed document, or None when it has none or is revoked."""
        with self._db.read() as session:
            return store.desired_of(session, device_id)

    def all_desired(self) -> list[SignedDesired]:
        """Return every live device's document: what must be retained on a broker."""
        with self._db.read() as session:
            return list(store.all_desired(session))

    def desired_changed_since(self, since: datetime, known: Mapping[DeviceId, int]) -> list[SignedDesired]:
        """Return documents signed at or after `since`, by whichever process, of a higher gen than is known of the device."""
        with self._db.read() as session:
            return list(store.desired_changed_since(session, since, known))

    def offered_to(self, device_id: DeviceId) -> list[OfferedBlob]:
        """Return what a device may pull: the bundles its document names, and their leaf indexes. Nothing when revoked."""
        if not self._devices.live_among([device_id]):
            return []
        bundles = self._desired.offered_to(device_id)
        known = self._bundles.bundles_by_digest([blob.sha256 for blob in bundles])
        return bundles + [OfferedBlob(bundle.leaves, 0) for bundle in known.values()]

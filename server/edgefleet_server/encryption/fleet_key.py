"""The fleet key: what keys of sealed bundles are sealed to until a device needs one (ADR 0122).

- A pair, made with the first sealed publication. The public part is open, so that a conversion worker, which opens no secret, can seal
  to it; the private part is sealed in the database.
- Each sealed bundle has a key of its own, which the registry keeps, sealed to the fleet key. For a device it is opened and sealed again, to
  the key that the device told when it enrolled or renewed its certificate.
"""

from collections.abc import Mapping
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.hpke import SealedError, new_key, seal, unseal
from edgefleet_protocol.sealed_model import about_key
from edgefleet_server.db.database import Database
from edgefleet_server.encryption import store
from edgefleet_server.encryption.errors import FleetKeyMissingError
from edgefleet_server.encryption.model import SealedColumn, SealedValue
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.encryption.tables import FleetKeyRow

SEALED: Final = SealedColumn("fleet key of sealed models", "fleet_key", "secret", ("public",), "created_at")


class FleetKey:
    """Seals and opens keys of bundles. Thread-safe; calls block; writes join the caller's transaction."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts. What opens secrets is named later, and in a conversion worker never."""
        self._db = db
        self._clock = clock
        self._sealer: Sealer | None = None

    def open_with(self, sealer: Sealer) -> Sealer:
        """Name who seals and opens the private part; return it."""
        self._sealer = sealer
        return sealer

    def ensure_for(self, options: Mapping[str, Any]) -> None:
        """See that there is a fleet key when a publication has these options. Raises FleetKeyMissingError, and as `Sealer.seal`."""
        if not options.get("seal"):
            return
        with self._db.session() as session:
            if store.fleet_key(session) is None:
                secret, public = (part.hex() for part in new_key())
                sealed = self._opener().seal(SEALED.place(public), secret)
                store.begin_fleet_key(session, public, sealed, self._clock.now())

    def seal(self, key: bytes, sha256: Sha256) -> str:
        """Return the key of a bundle as it is stored. Raises FleetKeyMissingError."""
        with self._db.read() as session:
            return seal(bytes.fromhex(_known(store.fleet_key(session)).public), key, about_key(sha256)).hex()

    def open(self, sealed: str, sha256: Sha256) -> bytes:
        """Return the key of a bundle. Raises FleetKeyMissingError, and what opening a secret raises."""
        with self._db.read() as session:
            row = _known(store.fleet_key(session))
            secret = self._opener().open(SealedValue(SEALED.place(row.public), row.secret))
        try:
            return unseal(bytes.fromhex(secret), bytes.fromhex(sealed), about_key(sha256))
        except SealedError as error:
            raise FleetKeyMissingError(
                f"the key of the bundle {sha256[:12]} was sealed to another fleet key than the one that there is",
                next_step="bring back the table `fleet_key` from a backup, or publish the release again under a new version",
            ) from error

    def for_device(self, sealed: str, sha256: Sha256, device_key: bytes) -> bytes:
        """Return the key of a bundle, sealed to a device's. Raises as `open`, SealedError when that is no key."""
        return seal(device_key, self.open(sealed, sha256), about_key(sha256))

    def _opener(self) -> Sealer:
        if self._sealer is None:
            raise FleetKeyMissingError("this process opens no secrets, so it has no fleet key")
        return self._sealer


def _known(row: FleetKeyRow | None) -> FleetKeyRow:
    if row is None:
        raise FleetKeyMissingError(
            "there is no fleet key, so no model can be sealed",
            next_step="after a restore bring back the table `fleet_key`; else publish a release with `--seal`, which makes one",
        )
    return row

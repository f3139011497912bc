"""The tenant's capture key: the public half, named in every device's document (ADR 0030).

Operators set it, documents read it. A change makes every document due for signing: the engine signs them
again in batches, so that a fleet hears of it within a minute or so, and no call blocks for a fleet. It changes while every device is
locked: a caller that has locked one may read it at any time until the transaction ends.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlmodel import Session, col

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import CaptureRequest
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired.store import CAPTURE_KEY_ROW
from edgefleet_server.fleet.errors import BadCaptureKeyError
from edgefleet_server.fleet.store import lock_devices
from edgefleet_server.fleet.tables import FleetCaptureKey, FleetDesired

_CAPTURE_REQUEST = "fleet_capture_wish"


@dataclass(frozen=True)
class CaptureKeyView:
    """The key that records are sealed to from now on: 64 hex digits of a raw X25519 public key."""

    public_key: str
    set_at: datetime
    set_by: str


class CaptureKeyBook:
    """Sets and reads the key."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def key(self, *, lock: bool = False) -> CaptureKeyView | None:
        """Return the key, None when nothing shall be captured; `lock` holds it until the transaction ends."""
        with self._db.session() if lock else self._db.read() as session:
            row = session.get(FleetCaptureKey, CAPTURE_KEY_ROW, with_for_update=lock or None)
            return None if row is None else CaptureKeyView(row.public_key, row.set_at, row.set_by)

    def set(self, public_key: str, by: str) -> CaptureKeyView:
        """Seal to this key from now on. Raises BadCaptureKeyError."""
        try:
            is_key = len(bytes.fromhex(public_key)) == 32 and any(bytes.fromhex(public_key))
        except ValueError:
            is_key = False
        if not is_key:
            raise BadCaptureKeyError(
                "a capture key is 64 hex digits of an X25519 public key",
                next_step="create one with `edgectl capture-key create --out capture.key`",
            )
        now = self._clock.now()
        with self._db.session() as session:
            row = FleetCaptureKey(id=CAPTURE_KEY_ROW, public_key=public_key.lower(), set_at=now, set_by=by[:120])
            session.merge(row)
            self.sign_all_soon(session, now)
        return CaptureKeyView(public_key.lower(), now, by[:120])

    def remove(self) -> None:
        """Capture nothing any more; devices that hear of it stop. Again: changes nothing."""
        with self._db.session() as session:
            row = session.get(FleetCaptureKey, CAPTURE_KEY_ROW)
            if row is not None:
                session.delete(row)
                self.sign_all_soon(session, self._clock.now())

    @staticmethod
    def sign_all_soon(session: Session, now: datetime) -> None:
        """Make every document due for signing: what all of them say has changed."""
        # devices, then documents, each in order of id, as everywhere: else this and who signs could wait for each other
        lock_devices(session)
        device_id = col(FleetDesired.device_id)
        later = select(device_id).where(col(FleetDesired.resign_at) > now).order_by(device_id).with_for_update()
        session.execute(
            update(FleetDesired)
            .where(device_id.in_(later))
            .values(resign_at=now)
            .execution_options(synchronize_session=False)
        )


def capture_request(session: Session) -> CaptureRequest | None:
    """Return what a document signed in this transaction says of capture; looked up once a transaction, after a device is locked."""
    if _CAPTURE_REQUEST not in session.info:
        row = session.get(FleetCaptureKey, CAPTURE_KEY_ROW)
        remember_key(session, None if row is None else row.public_key)
    request: CaptureRequest | None = session.info[_CAPTURE_REQUEST]
    return request


def remember_key(session: Session, public_key: str | None) -> None:
    """Note what was read together with something else, for `capture_wish` in the same transaction; None: there is no key."""
    session.info[_CAPTURE_REQUEST] = None if public_key is None else CaptureRequest(key=public_key)

"""The tenant's capture key: the public half, named in every device's document (ADR 0030).

Its own file because documents read it and operators set it. A change makes every document due for signing: the engine signs them
anew in batches, so that a fleet hears of it within a minute or so, and no call blocks for a fleet.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlmodel import Session, col

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import CaptureWish
from edgefleet_server.db import Database
from edgefleet_server.fleet.errors import BadCaptureKeyError
from edgefleet_server.fleet.tables import FleetCaptureKey, FleetDesired

_ONLY = 1


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

    def key(self) -> CaptureKeyView | None:
        """Return the key, None when nothing shall be captured."""
        with self._db.read() as session:
            row = session.get(FleetCaptureKey, _ONLY)
            return None if row is None else CaptureKeyView(row.public_key, row.set_at, row.set_by)

    def set(self, public_key: str, by: str) -> CaptureKeyView:
        """Seal to this key from now on. Raises BadCaptureKeyError."""
        try:
            is_key = len(bytes.fromhex(public_key)) == 32 and any(bytes.fromhex(public_key))
        except ValueError:
            is_key = False
        if not is_key:
            raise BadCaptureKeyError(
                "A capture key is 64 hex digits of an X25519 public key.",
                next_step="Make one with `edgectl capture-key new --out capture.key`.",
            )
        now = self._clock.now()
        with self._db.session() as session:
            row = FleetCaptureKey(id=_ONLY, public_key=public_key.lower(), set_at=now, set_by=by[:120])
            session.merge(row)
            self._sign_all_soon(session, now)
        return CaptureKeyView(public_key.lower(), now, by[:120])

    def remove(self) -> None:
        """Capture nothing any more; devices that hear of it stop. Again: changes nothing."""
        with self._db.session() as session:
            row = session.get(FleetCaptureKey, _ONLY)
            if row is not None:
                session.delete(row)
                self._sign_all_soon(session, self._clock.now())

    @staticmethod
    def _sign_all_soon(session: Session, now: datetime) -> None:
        # locked in order of id, as everywhere: else a batch that signs and this statement could wait for each other
        device_id = col(FleetDesired.device_id)
        later = select(device_id).where(col(FleetDesired.resign_at) > now).order_by(device_id).with_for_update()
        session.execute(
            update(FleetDesired)
            .where(device_id.in_(later))
            .values(resign_at=now)
            .execution_options(synchronize_session=False)
        )


def capture_wish(session: Session) -> CaptureWish | None:
    """Return what a document signed in this transaction says of capture; looked up once a transaction."""
    known: list[CaptureWish | None] | None = session.info.get("fleet_capture_wish")
    if known is None:
        row = session.get(FleetCaptureKey, _ONLY)
        known = session.info["fleet_capture_wish"] = [None if row is None else CaptureWish(key=row.public_key)]
    return known[0]

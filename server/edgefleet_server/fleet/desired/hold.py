"""The hold: one signed document for the whole tenant, naming rollouts and digests that no device may go on with.

It is no device's document: it is one row, has its own sequence and reaches devices before any of theirs.
Rules:
- A new hold is signed when its content differs, half of its life is over or the director has a new key, and only then.
- `seq` rises with every signing and is never below the unix time in seconds: a server restored from an old backup is heard,
  although devices do not report which hold they know.
- The hold is locked before devices: a caller that writes both in one transaction calls `set` first.
Source: docs/protocol/desired.md, "Hold".
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import Hold, encode_hold
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_server.db.database import CommitSignal, Database
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.tables import FleetHold
from edgefleet_server.signing.service import SigningService

HOLD_LIFE: Final = timedelta(days=7)

_log = logging.getLogger(__name__)


class HoldDocument:
    """Writes and reads the hold."""

    def __init__(self, db: Database, signing: SigningService, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._signing = signing
        self._clock = clock
        self._bell = CommitSignal()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each commit that signed a hold; return how to stop."""
        return self._bell.subscribe(listener)

    def set(self, rollouts: Iterable[str], digests: Iterable[str]) -> bool:
        """Make the hold name exactly these; return whether one was signed."""
        wanted = sorted(set(rollouts)), sorted(set(digests))
        now = self._clock.now()
        with self._db.session() as session:
            known = desired_store.hold(session)
            if known is None and wanted == ([], []):
                return False
            row = desired_store.locked_hold(session, now)
            if (row.rollouts, row.digests) == wanted and not self._is_due(row, now):
                return False
            self._sign(session, row, *wanted)
            return True

    def resign_due(self, now: datetime) -> bool:
        """Sign the hold again when half of its life is over; return whether it was."""
        with self._db.read() as session:
            known = desired_store.hold(session)
            if known is None or not self._is_due(known, now):
                return False
        with self._db.session() as session:
            row = desired_store.locked_hold(session, now)
            if not self._is_due(row, now):  # another process was faster
                return False
            self._sign(session, row, row.rollouts, row.digests)
            return True

    def sign_again(self) -> None:
        """Sign the hold again, whatever its age: every device verifies it, and reads what the repository says by now."""
        with self._db.session() as session:
            row = desired_store.locked_hold(session, self._clock.now())
            self._sign(session, row, row.rollouts or [], row.digests or [])

    def names(self) -> tuple[list[str], list[str]]:
        """Return the rollouts and the bundles that the hold names, each sorted."""
        with self._db.read() as session:
            row = desired_store.hold(session)
            return ([], []) if row is None else (list(row.rollouts), list(row.digests))

    def envelope(self) -> bytes | None:
        """Return the signed hold, or None when there never was one."""
        with self._db.read() as session:
            row = desired_store.hold(session)
            return None if row is None else bytes(row.envelope)

    def _sign(self, session: Session, row: FleetHold, rollouts: Sequence[str], digests: Sequence[str]) -> None:
        now = self._clock.now()
        hold = Hold(
            seq=max(row.seq + 1, int(now.timestamp())),
            expires=(now + HOLD_LIFE).replace(microsecond=0),
            rollouts=list(rollouts),
            digests=list(digests),
        )
        row.seq, row.expires_at = hold.seq, hold.expires
        row.rollouts, row.digests = hold.rollouts, hold.digests
        row.envelope = self._signing.sign_hold(encode_hold(hold))
        session.flush()
        self._bell.ring(session)
        _log.info("hold signed", extra={"seq": hold.seq, "rollouts": len(rollouts), "digests": len(digests)})

    def _is_due(self, row: FleetHold, now: datetime) -> bool:
        if row.expires_at - now <= HOLD_LIFE / 2:
            return True
        keys = {one.keyid for one in parse_envelope(row.envelope).signatures}
        return self._signing.director_keyid() not in keys

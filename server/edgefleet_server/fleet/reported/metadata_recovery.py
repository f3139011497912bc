"""What a device says of a restored server: it has seen more of the repository than is here, so the repository is signed again.

Nothing else that a device says makes the server sign for all of them.
Rules:
- It is done at the word of any device, since nothing else knows: a database says nothing of what was written after its copy.
- It may be wrong: a device to which somebody replays old metadata says the same. Then nothing is lost but a signing of all roles.
- One device may have it done MAX_TURNS times in TURNS_WITHIN by one process: an honest one needs a turn, and one more for each
  MAX_SEEN_ROLES models that were lost.
- Each time is an event that names the device and the models that must be published again.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import MAX_SEEN_ROLES, Seen
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.signing.errors import SigningError
from edgefleet_server.signing.fast_forward_recovery import VersionsSeen
from edgefleet_server.signing.service import SigningService
from edgefleet_server.signing.trust import MODEL_PREFIX

KIND: Final = "restored"
MAX_TURNS: Final = 6
TURNS_WITHIN: Final = timedelta(hours=1)

_log = logging.getLogger(__name__)


class MetadataRecovery:
    """Signs the repository ahead of what devices have seen. Thread-safe; blocks while it signs."""

    def __init__(self, db: Database, signing: SigningService, feed: EventLog, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._signing = signing
        self._feed = feed
        self._clock = clock
        self._turns: dict[DeviceId, list[datetime]] = {}

    def take(self, device: DeviceId, seen: Seen) -> bool:
        """Sign again what a device has seen more of than is here; return whether anything was. Failures to sign are logged."""
        known = VersionsSeen(seen.version, dict(sorted(seen.roles.items())[:MAX_SEEN_ROLES]))
        if not self._signing.is_outrun(
            known
        ):  # a whole fleet reports the same at once, and writers wait for each other
            return False
        now = self._clock.now()
        turns = [at for at in self._turns.get(device, []) if now - at < TURNS_WITHIN]
        if len(turns) >= MAX_TURNS:
            _log.warning(
                "a device told too often that this server was restored: is this clock right?",
                extra={"device_id": device, "seen": seen.version, "clock_s": int(now.timestamp())},
            )
            return False
        try:
            models = self._sign(device, known)
        except SigningError as error:
            _log.error("metadata cannot be signed again", extra={"reason": error.message, "next": error.next_step})
            return False
        if models is None:
            return False
        self._turns[device] = [*turns, now]
        _log.warning(
            "a device has seen newer metadata: was this server restored from an older copy? signed again; publish lost models again",
            extra={"device_id": device, "lost_models": ",".join(models)},
        )
        return True

    def _sign(self, device: DeviceId, seen: VersionsSeen) -> list[str] | None:
        """Return the models whose roles were made again, None when there was nothing to sign."""
        with self._db.session():
            done = self._signing.outrun(seen)
            if done is None:
                return None
            models = [role.removeprefix(MODEL_PREFIX) for role in done.lost]
            detail = {"device": device, "seen": seen.version, "everything": done.everything, "lost_models": models}
            self._feed.add([NewEvent(KIND, detail=detail)])
            return models

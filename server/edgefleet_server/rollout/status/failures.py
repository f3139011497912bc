"""On which devices a release failed, for people. Nothing here writes.

It needs no snapshot of the rollout: a rollout of many devices must not be read whole to name the few that failed.
"""

from dataclasses import dataclass

from edgefleet_server.db.database import Database
from edgefleet_server.rollout.store import assignments


@dataclass(frozen=True)
class FailedDevice:
    """A device on which the release failed, as it stands, in the sense of `facts.stands_failed`."""

    device: str
    state: str
    error_class: str
    reason: str


class FailureReader:
    """Reads failures. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def failed(self, rollout_id: str, *, limit: int) -> tuple[list[FailedDevice], int]:
        """Return the first devices on which a rollout's release failed, in order of id, and how many there are."""
        with self._db.read() as session:
            rows = assignments.failed(session, rollout_id, limit)
            return [FailedDevice(*row) for row in rows], assignments.count_failed(session, rollout_id)

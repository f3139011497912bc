"""Keys that wait to be let in: how one begins to wait, and what it is answered while it does.

A key that waits is no device yet. Rules:
1. A key that asks with a claim of `approval` waits: it gets no certificate, no id, no topic and no document, and hears of nothing.
2. It is named by its fingerprint, which the device computes and shows by itself: the operator compares the two.
3. Asking again is free: the same key has one row, and a poll only reads, but once a minute.
4. A leaked claim token costs little: at most `enrol_pending_max` keys wait with it, each for `enrol_pending_s`. Waiting takes no use.
5. A rejection is final for the key, with whatever claim it comes. A key that nobody approved in time may ask again.
Source: ADR 0053.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.claim import fingerprint
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.enrolment import store as enrolment_store
from edgefleet_server.fleet.errors import ApprovalExpiredError, FleetError, KeyRejectedError, TooManyPendingError
from edgefleet_server.fleet.tables import FleetClaim, FleetPending
from edgefleet_server.settings import ServerSettings

HEARD_RESOLUTION: Final = timedelta(minutes=1)
RETRY_LEAST_S: Final = 2
RETRY_MOST_S: Final = 60
RETRY_SHARE: Final = 0.1
"""Of the time that a key has waited by now: a key that is new is answered at once, one that waits for days asks once a minute."""


class PendingState(StrEnum):
    """How it stands with a key that had to wait. Public: never renamed."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Waiting:
    """What a key that waits is answered. retry_s: when to ask again."""

    fingerprint: str
    expires_at: datetime
    retry_s: int


class ApprovalPendingError(FleetError):
    """An operator has to approve the key first. `waiting` is the answer to the device."""

    code = "enroll.pending"

    def __init__(self, waiting: Waiting) -> None:
        super().__init__(
            f"the key {waiting.fingerprint} waits for an operator's approval",
            next_step=f"Approve it: edgectl device approve {waiting.fingerprint}",
        )
        self.waiting = waiting


def state_of(row: FleetPending, now: datetime) -> PendingState:
    """Return how it stands with a key now."""
    stored = PendingState(row.state)
    return PendingState.EXPIRED if stored is PendingState.PENDING and row.expires_at <= now else stored


class PendingEnrolments:
    """Keeps the keys that wait. Works in the caller's session."""

    def __init__(self, feed: EventLog, clock: Clock, settings: ServerSettings) -> None:
        """Wire the parts."""
        self._feed = feed
        self._clock = clock
        self._patience = timedelta(seconds=settings.enrol_pending_s)
        self._most = settings.enrol_pending_max

    def peek(self, session: Session, claim: FleetClaim, key_sha256: Sha256) -> Waiting | None:
        """Return the answer to a key that waits with this claim, when nothing has to be written for that; else None."""
        row, now = enrolment_store.pending(session, fingerprint(key_sha256)), self._clock.now()
        if row is None or row.key_sha256 != key_sha256 or row.claim_id != claim.id:
            return None
        is_waiting = state_of(row, now) is PendingState.PENDING and now - row.heard_at < HEARD_RESOLUTION
        return _waiting(row, now) if is_waiting else None

    def find(self, session: Session, claim: FleetClaim, key_sha256: Sha256, *, is_waiting: bool) -> Waiting | None:
        """Return the answer to a key that waits, None when it does not or has to begin again. is_waiting: it believes to wait.

        A key that shows another claim goes on waiting with the one it began with, as long as that one is good: else two leaked
        tokens and one key would make rows and events without end. Raises KeyRejectedError, ApprovalExpiredError.
        """
        row, now = enrolment_store.pending(session, fingerprint(key_sha256)), self._clock.now()
        if row is None:
            return None
        if row.key_sha256 != key_sha256:
            raise KeyRejectedError(
                f"another key has the fingerprint {row.id}", next_step="let the device create a new key"
            )
        state = state_of(row, now)
        if state is PendingState.REJECTED:
            why = f": {row.reason}" if row.reason else ""
            raise KeyRejectedError(
                f"an operator rejected this device's key {row.id}{why}",
                next_step="ask the operator why. It is final for this key",
            )
        if row.claim_id != claim.id and not (claim.approval and self._is_good(session, row.claim_id, now)):
            return None
        if state is PendingState.EXPIRED and is_waiting:
            raise ApprovalExpiredError(
                f"nobody approved the key {row.id} by {row.expires_at:%Y-%m-%d %H:%MZ}",
                next_step="enrol again, and ask an operator to approve the device meanwhile",
            )
        if state is not PendingState.PENDING:
            return None
        row.heard_at = now
        return _waiting(row, now)

    @staticmethod
    def _is_good(session: Session, claim_id: str, now: datetime) -> bool:
        claim = session.get(FleetClaim, claim_id)
        return claim is not None and claim.uses_left > 0 and claim.expires_at > now

    def add(
        self,
        session: Session,
        claim: FleetClaim,
        key_sha256: Sha256,
        csr: str,
        facts: Mapping[str, Any],
        profile: ProfileName,
    ) -> Waiting:
        """Let a key wait; the claim is locked by the caller. Raises TooManyPendingError."""
        now = self._clock.now()
        waiting = enrolment_store.count_waiting(session, [claim.id], now).get(claim.id, 0)
        if waiting >= self._most:
            raise TooManyPendingError(
                f"{waiting} devices are pending with this claim token, which is the limit",
                next_step="an operator has to decide about them: edgectl device pending",
            )
        row = session.merge(
            FleetPending(
                id=fingerprint(key_sha256),
                key_sha256=key_sha256,
                claim_id=claim.id,
                state=PendingState.PENDING.value,
                csr=csr,
                facts=dict(facts),
                profile=profile,
                asked_at=now,
                heard_at=now,
                expires_at=now + self._patience,
                decided_at=None,
                decided_by="",
                reason="",
                device_id="",
            )
        )
        session.flush()
        detail = {"fingerprint": row.id, "claim": claim.id, "profile": profile, "hostname": facts.get("hostname", "")}
        self._feed.add([NewEvent("pending", detail=detail)])
        return _waiting(row, now)

    def settle(self, session: Session, claim: FleetClaim, key_sha256: Sha256, device_id: str) -> None:
        """Let a key wait no more that got in another way: with this claim, which needs no approval."""
        row, now = enrolment_store.pending(session, fingerprint(key_sha256)), self._clock.now()
        if row is not None and row.key_sha256 == key_sha256 and state_of(row, now) is PendingState.PENDING:
            row.state, row.device_id, row.decided_at = PendingState.APPROVED.value, device_id, now
            row.claim_id = claim.id


def _waiting(row: FleetPending, now: datetime) -> Waiting:
    waited_s = (now - row.asked_at).total_seconds()
    return Waiting(row.id, row.expires_at, int(min(RETRY_MOST_S, max(RETRY_LEAST_S, waited_s * RETRY_SHARE))))

"""An operator's word about keys that wait: who waits, letting in, rejecting.

Enrolment is what devices ask; this is what operators answer. Rules:
1. Letting in takes one use of the claim and makes the device of the request that proved possession of the key. The next time the
   device asks it gets its certificate.
2. Many are decided about in one call, in transactions of BATCH keys. Each has its own result: done, or why not.
3. Every decision may be repeated: a key that was let in or rejected stays so, and that counts as done.
Source: ADR 0053.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import BadCursorError, PageRequest
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.enrolment import store as enrolment_store
from edgefleet_server.fleet.enrolment.enrolment import Enroller
from edgefleet_server.fleet.enrolment.pending_devices import PendingState, state_of
from edgefleet_server.fleet.errors import BadChoiceError, ClaimUsedUpError
from edgefleet_server.fleet.selectors import device_selector, grammar
from edgefleet_server.fleet.tables import FleetPending

BATCH: Final = 50
KEPT: Final = timedelta(days=30)
"""How long decided and expired requests are listed."""


@dataclass(frozen=True)
class PendingView:
    """A key that waits or waited. id: its fingerprint; heard_at: when it last asked; device: what became of it, "" = none."""

    id: str
    key_sha256: str
    state: PendingState
    claim: str
    profile: str
    labels: Mapping[str, str]
    facts: Mapping[str, Any]
    asked_at: datetime
    heard_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str
    reason: str
    device: str


@dataclass(frozen=True)
class Choice:
    """Which keys are meant: these, or those that a selector matches; claim: only those that wait with this one."""

    ids: Sequence[str] | None = None
    selector: str | None = None
    claim: str | None = None


@dataclass(frozen=True)
class Decided:
    """A key that was decided about, now or before; device: its id when it was let in."""

    id: str
    state: PendingState
    device: str


@dataclass(frozen=True)
class Undecided:
    """A key that could not be decided about, why, and what to do."""

    id: str
    reason: str
    next: str


@dataclass(frozen=True)
class Decisions:
    """What became of the keys that were meant."""

    matched: int
    done: Sequence[Decided]
    skipped: Sequence[Undecided]


class ApprovalBook:
    """Lists keys that wait and decides about them."""

    def __init__(self, db: Database, enroller: Enroller, feed: EventLog, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._enroller = enroller
        self._feed = feed
        self._clock = clock

    def page(
        self, page: PageRequest, *, state: PendingState, selector: str = "", claim: str | None = None
    ) -> tuple[list[PendingView], int]:
        """Return up to one more key than the page has, the oldest first, and how many there are.

        Raises BadSelectorError, BadCursorError.
        """
        after, now = _after(page), self._clock.now()
        with self._db.read() as session:
            matches = _matcher(session, selector)
            rows = enrolment_store.rows(session, state, now, claim=claim, after=after)
            found = [_view(row, labels, now) for row, labels in islice(filter(matches, rows), page.limit + 1)]
            if not selector:
                return found, enrolment_store.count(session, state, now, claim)
            return found, sum(1 for _ in filter(matches, enrolment_store.rows(session, state, now, claim=claim)))

    def approve(self, choice: Choice, by: str) -> Decisions:
        """Let keys in. Raises BadChoiceError, BadSelectorError."""

        def let_in(session: Session, row: FleetPending, now: datetime) -> Undecided | None:
            try:
                device = self._enroller.let_in(session, row)
            except ClaimUsedUpError as error:
                return Undecided(row.id, error.message, error.next_step)
            row.state, row.device_id = PendingState.APPROVED.value, device
            detail = {"fingerprint": row.id, "claim": row.claim_id, "by": by}
            self._feed.add([NewEvent("approved", device, detail=detail)])
            return None

        return self._decide(choice, PendingState.APPROVED, by, let_in)

    def reject(self, choice: Choice, by: str, reason: str = "") -> Decisions:
        """Refuse keys for good. Raises BadChoiceError, BadSelectorError."""

        def refuse(_session: Session, row: FleetPending, _now: datetime) -> Undecided | None:
            row.state, row.reason = PendingState.REJECTED.value, reason
            detail = {"fingerprint": row.id, "claim": row.claim_id, "by": by, "reason": reason}
            self._feed.add([NewEvent("rejected", detail={k: v for k, v in detail.items() if v})])
            return None

        return self._decide(choice, PendingState.REJECTED, by, refuse)

    def prune(self, now: datetime) -> int:
        """Forget who was let in or gave up KEPT ago; return how many."""
        with self._db.session() as session:
            return enrolment_store.prune(session, now - KEPT)

    def _decide(
        self,
        choice: Choice,
        goal: PendingState,
        by: str,
        act: Callable[[Session, FleetPending, datetime], Undecided | None],
    ) -> Decisions:
        ids = self._chosen(choice)
        done: list[Decided] = []
        skipped: list[Undecided] = []
        for start in range(0, len(ids), BATCH):
            with self._db.session() as session:
                for one in ids[start : start + BATCH]:
                    now = self._clock.now()
                    row = enrolment_store.pending(session, one, lock=True)
                    if row is None or (choice.claim is not None and row.claim_id != choice.claim):
                        skipped.append(Undecided(one, "no such device waits", "See `edgectl device pending`."))
                        continue
                    state = state_of(row, now)
                    why_not = None if state is goal else _over(row, state) or act(session, row, now)
                    if why_not is not None:
                        skipped.append(why_not)
                        continue
                    if state is not goal:
                        row.decided_at, row.decided_by = now, by[:80]
                    done.append(Decided(row.id, goal, row.device_id))
        return Decisions(len(ids), done, skipped)

    def _chosen(self, choice: Choice) -> list[str]:
        """Return the fingerprints that are meant, sorted: so two operators never wait for each other."""
        if (choice.ids is None) == (choice.selector is None):
            got = "both" if choice.ids is not None else "neither"
            raise BadChoiceError(
                f"expected either `ids` or `selector`, got {got}",
                next_step="name fingerprints, or a selector ('' means all that wait)",
            )
        if choice.ids is not None:
            return sorted({_normal(one) for one in choice.ids})
        with self._db.read() as session:
            rows = enrolment_store.rows(session, PendingState.PENDING, self._clock.now(), claim=choice.claim)
            return sorted(row.id for row, _ in filter(_matcher(session, choice.selector or ""), rows))


def _normal(text: str) -> str:
    """Return a fingerprint as it is stored, whatever way it was typed."""
    digits = text.strip().lower().replace("-", "").replace(" ", "")
    return "-".join(digits[start : start + 4] for start in range(0, len(digits), 4))[:32]


def _over(row: FleetPending, state: PendingState) -> Undecided | None:
    match state:
        case PendingState.PENDING:
            return None
        case PendingState.APPROVED:
            return Undecided(
                row.id,
                f"it was let in as {row.device_id}",
                f"Revoke it: `edgectl device revoke {row.device_id}`.",
            )
        case PendingState.REJECTED:
            return Undecided(
                row.id,
                f"it was rejected by {row.decided_by}, which is final for its key",
                "Let the device make a new key: remove pending-key.pem from its state folder, and enrol again.",
            )
        case PendingState.EXPIRED:
            return Undecided(row.id, "its request has expired", "Let it enrol again.")


def _matcher(session: Session, selector: str) -> Callable[[tuple[FleetPending, Mapping[str, str]]], bool]:
    """Return whether a selector matches a key with the labels of its claim. Raises BadSelectorError."""
    parsed = grammar.parse_selector(selector)
    groups = device_selector.asked_groups(session, parsed)

    def matches(one: tuple[FleetPending, Mapping[str, str]]) -> bool:
        row, labels = one
        facts = {key: value for key, value in labels.items() if not grammar.is_reserved(key)}
        facts |= {"id": row.id, "profile": row.profile, "arch": str(row.facts.get("arch", "")), "status": row.state}
        return parsed.matches(facts, device_selector.groups_of(facts, groups))

    return matches


def _after(page: PageRequest) -> enrolment_store.After | None:
    if not page.after:
        return None
    at, _, fingerprint = page.after.partition(" ")
    try:
        return datetime.fromisoformat(at), fingerprint
    except ValueError as error:
        raise BadCursorError("this cursor belongs to another list") from error


def place_of(view: PendingView) -> str:
    """Return the key after which the next page begins."""
    return f"{view.asked_at.isoformat()} {view.id}"


def _view(row: FleetPending, labels: Mapping[str, str], now: datetime) -> PendingView:
    return PendingView(
        id=row.id,
        key_sha256=row.key_sha256,
        state=state_of(row, now),
        claim=row.claim_id,
        profile=row.profile,
        labels=labels,
        facts=row.facts,
        asked_at=row.asked_at,
        heard_at=row.heard_at,
        expires_at=row.expires_at,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        reason=row.reason,
        device=row.device_id,
    )

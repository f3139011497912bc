"""What the page of enrolment shows, as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.db.keyset import PageRequest, cut_page
from edgefleet_server.fleet.enrolment.approval import ApprovalBook, PendingView, place_of
from edgefleet_server.fleet.enrolment.enrolment import Enroller
from edgefleet_server.fleet.enrolment.model import ClaimView
from edgefleet_server.fleet.enrolment.pending_devices import PendingState

PER_PAGE: Final = 100

MAX_CLAIMS: Final = 500

SHOWN_CLAIMS: Final = 50

STILL_ASKS: Final = timedelta(minutes=3)
"""A device that waits asks once a minute at least, which is noted within a minute."""


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """A device that waits or waited."""

    seen: PendingView
    hostname: str
    hardware: str
    labels: str
    still_asks: bool


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim token. is_open: a device could still enrol with it."""

    seen: ClaimView
    labels: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class EnrolmentPage:
    """All of the page. waiting: devices that wait, whatever the page lists; more_claims: those that it does not list."""

    rows: Sequence[WaitingRow]
    total: int
    next_cursor: str | None
    waiting: int
    claims: Sequence[ClaimRow]
    more_claims: int


class EnrolmentReader:
    """Reads what the page shows."""

    def __init__(self, approvals: ApprovalBook, enroller: Enroller) -> None:
        """Wire the parts."""
        self._approvals = approvals
        self._enroller = enroller

    def page(self, state: PendingState, selector: str, after: str | None, now: datetime) -> EnrolmentPage:
        """Return the page. Raises BadSelectorError, BadCursorError."""
        request = PageRequest(PER_PAGE, after)
        found, total = self._approvals.page(request, state=state, selector=selector)
        cut = cut_page(found, request, total, place_of)
        is_plain = state is PendingState.PENDING and not selector
        waiting = total if is_plain else self._approvals.page(PageRequest(1), state=PendingState.PENDING)[1]
        seen, all_claims = self._enroller.claims(None, MAX_CLAIMS)
        claims = [ClaimRow(one, _pairs(one.labels), one.uses_left > 0 and one.expires_at > now) for one in seen]
        claims.sort(key=lambda one: (one.is_open, one.seen.created_at), reverse=True)
        return EnrolmentPage(
            rows=[_row(one, now) for one in cut.items],
            total=total,
            next_cursor=cut.next_cursor,
            waiting=waiting,
            claims=claims[:SHOWN_CLAIMS],
            more_claims=max(0, all_claims - SHOWN_CLAIMS),
        )


def _row(one: PendingView, now: datetime) -> WaitingRow:
    facts = one.facts
    ram_mb = facts.get("ram_mb") or 0
    hardware = [str(facts.get("board") or facts.get("arch") or ""), f"{ram_mb} MiB" if ram_mb else ""]
    return WaitingRow(
        seen=one,
        hostname=str(facts.get("hostname") or ""),
        hardware=", ".join(filter(None, hardware)),
        labels=_pairs(one.labels),
        still_asks=now - one.heard_at <= STILL_ASKS,
    )


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))

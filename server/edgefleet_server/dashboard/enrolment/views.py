"""What the page of enrolment shows, as rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.dashboard.core.filters import number
from edgefleet_server.db.keyset import PageRequest, cut_page
from edgefleet_server.fleet.enrolment.approval import ApprovalBook, PendingView, place_of
from edgefleet_server.fleet.enrolment.enrolment import Enroller
from edgefleet_server.fleet.enrolment.model import ClaimView
from edgefleet_server.fleet.enrolment.pending_devices import PendingState
from edgefleet_server.fleet.inventory.device_list import DeviceLister, Facets
from edgefleet_server.fleet.readmission.model import ReadmissionState, ReadmissionView
from edgefleet_server.fleet.readmission.service import ReadmissionBook

PER_PAGE: Final = 100

MAX_CLAIMS: Final = 500

SHOWN_CLAIMS: Final = 50

MAX_RETURNING: Final = 50

OWN_LABELS: Final = "edgefleet/"
"""Labels that acts of ours give; nobody enrols a device with them."""

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
class TokenChoices:
    """What a new token can give its devices, as values and words with how many devices have it. labels: by their key."""

    labels: Mapping[str, Sequence[tuple[str, str]]]
    profiles: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class EnrolmentPage:
    """All of the page. waiting: devices that wait, whatever the page lists; more_claims: those that it does not list.

    returning: devices that ask to come back after the end of their certificate, the first MAX_RETURNING; more_returning: the others.
    open_claims, uses_left: of those that were read, the newest MAX_CLAIMS. are_all_read: whether there are no others.
    """

    rows: Sequence[WaitingRow]
    total: int
    next_cursor: str | None
    waiting: int
    claims: Sequence[ClaimRow]
    more_claims: int
    open_claims: int
    uses_left: int
    are_all_read: bool
    choices: TokenChoices
    returning: Sequence[ReadmissionView] = ()
    more_returning: int = 0


class EnrolmentReader:
    """Reads what the page shows."""

    def __init__(
        self, approvals: ApprovalBook, enroller: Enroller, lists: DeviceLister, readmissions: ReadmissionBook
    ) -> None:
        """Wire the parts."""
        self._readmissions = readmissions
        self._approvals = approvals
        self._enroller = enroller
        self._lists = lists

    def page(
        self, state: PendingState, selector: str, after: str | None, profiles: Collection[str], now: datetime
    ) -> EnrolmentPage:
        """Return the page. profiles: all that a device may have. Raises BadSelectorError, BadCursorError."""
        request = PageRequest(PER_PAGE, after)
        found, total = self._approvals.page(request, state=state, selector=selector)
        cut = cut_page(found, request, total, place_of)
        is_plain = state is PendingState.PENDING and not selector
        waiting = total if is_plain else self._approvals.page(PageRequest(1), state=PendingState.PENDING)[1]
        returning, all_returning = self._readmissions.page(PageRequest(MAX_RETURNING), ReadmissionState.PENDING)
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
            open_claims=sum(one.is_open for one in claims),
            uses_left=sum(one.seen.uses_left for one in claims if one.is_open),
            are_all_read=all_claims <= len(claims),
            choices=token_choices(self._lists.facets(), profiles),
            returning=returning[:MAX_RETURNING],
            more_returning=max(0, all_returning - MAX_RETURNING),
        )


def token_choices(facets: Facets, profiles: Collection[str]) -> TokenChoices:
    """Return what a new token can give: the labels that devices have, and all profiles, those of most devices first."""
    labels: dict[str, list[tuple[str, str]]] = {}
    for key, value, n in facets.labels:
        if value and not key.startswith(OWN_LABELS):
            labels.setdefault(key, []).append((f"{key}={value}", _having(value, n)))
    counts = sorted(((facets.profiles.get(one, 0), one) for one in profiles), key=lambda one: (-one[0], one[1]))
    return TokenChoices(labels, [(name, _having(name, n)) for n, name in counts])


def _having(name: str, devices: int) -> str:
    return f"{name} ({number(devices)} device{'' if devices == 1 else 's'})" if devices else name


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

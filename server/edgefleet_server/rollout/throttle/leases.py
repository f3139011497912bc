"""Leases of downloads: who holds one, and whether there is room for one more. Pure.

1. A rollout with `limits` offers the release only together with a lease, in the same transaction. A lease is a row. The counts are
   read after the one row that all such ticks lock (`store.throttle.lock_line_for`), so no number of replicas exceeds a limit by even one.
2. A device holds its lease from the offer until it is past its download, or is known not to download: it failed for good, it
   accepted a newer document, or it is not there. One that should have taken the newer document, is there and says nothing of it
   holds it for SETTLE more: a device that was asked to stop may not know it yet.
3. An offer that is not taken up within TAKE_UP is taken back, with the lease; devices that are not there are offered nothing.
4. `concurrent_downloads` and `per_site` count the leases of all rollouts; a device without the label `site` is at no site.
5. `bandwidth`: a bundle of L bytes books the line for 8·L / bandwidth seconds, one after the other; the next one begins when
   the line is booked for at most AHEAD more. So of bundles of at most M bytes, no more than bandwidth·(t + AHEAD)/8 + M bytes
   begin in any t seconds, however fast or slow devices are.

Source: ADR 0036.
"""

from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.messages import TRANSIENT, AssignmentState, Phase
from edgefleet_server.rollout.model import Assignment, Report
from edgefleet_server.rollout.spec.model import Limits

TAKE_UP: Final = timedelta(minutes=10)
SETTLE: Final = timedelta(minutes=10)
NEXT_OFFER: Final = timedelta(hours=1)
"""A device that is there but did not take its offer up waits so long: longer than its lease may last, so others get it meanwhile."""
AHEAD: Final = timedelta(seconds=2)
"""So far ahead the line may be booked already: as long as the engine takes to look again."""

_S: Final = AssignmentState
_DOWNLOADS: Final = frozenset({_S.OFFERED, _S.ACKED, _S.DOWNLOADING})
_NEVER: Final = frozenset(
    {_S.STAGED, _S.PARITY_OK, _S.APPLYING, _S.VERIFYING, _S.HEALTHY, _S.REGRESSED, _S.ROLLED_BACK}
)
"""The bundle is there, or the device has gone back."""
_PAST: Final = frozenset(
    {Phase.PREFLIGHT, Phase.GOLDEN, Phase.WARMING, Phase.SWITCHING, Phase.PROBATION, Phase.COMMITTED}
)


def holds(a: Assignment | None, report: Report | None, digest: str, now: datetime) -> bool:
    """Return whether a device may still be downloading the bundle that a lease was taken for."""
    if a is None or a.state in _NEVER:
        return False
    if a.state in _DOWNLOADS and not a.back_gen:
        return True
    if report is None or not report.is_online or report.is_revoked or report.reported_gen > a.gen:
        return False
    since = a.back_at or a.entered_at
    if report.active_sha256 == digest or since is None or now >= since + SETTLE:
        return False
    is_this_try = report.wanted_sha256 == digest and report.attempt == a.attempt
    has_failed = report.phase is Phase.FAILED and report.error_class not in TRANSIENT
    return not (is_this_try and (report.phase in _PAST or has_failed))


def full(limits: Limits, total: int, at_site: int | None) -> str:
    """Return which limit leaves no room for one more download: `downloads`, `site`, "" when none does.

    total: leases of all rollouts; at_site: those at the device's site, None when it has none.
    """
    if limits.concurrent_downloads is not None and total >= limits.concurrent_downloads:
        return "downloads"
    if limits.per_site is not None and at_site is not None and at_site >= limits.per_site:
        return "site"
    return ""


def line_is_free(limits: Limits, line_until: datetime | None, now: datetime) -> bool:
    """Return whether the line has room for one more bundle."""
    return limits.bandwidth_bps is None or line_until is None or line_until <= now + AHEAD


def booked(limits: Limits, line_until: datetime | None, length: int, now: datetime) -> datetime | None:
    """Return until when the line is booked after a bundle of `length` bytes; unchanged without a bandwidth."""
    if limits.bandwidth_bps is None:
        return line_until
    return max(line_until or now, now) + timedelta(seconds=8 * length / limits.bandwidth_bps)

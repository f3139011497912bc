"""How fast a rollout may go: whether a device that waits may be offered the release now, and why not. Pure.

1. First what lies in the device: its next try, its window, whether it is there (that matters where leases are taken). Then what is
   shared: the rate of the stage, downloads under way, its site, the bandwidth. The first that says no is the reason.
2. Each offer is taken from what is shared at once, so one pass never offers more than there is room for.
3. What people see is asked here too (`planner/offers.explain`): what is shown is what will happen.
4. Nothing here holds a rollback: what is taken back goes out at once.

Leases of downloads (ADR 0036):
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

The ramp of a stage:
1. A stage's first minute begins with its first offer and has the rate `start`. The rate is of all strata of the stage together,
   and joiners and repeated offers count like any other.
2. A minute at rate r: by its second s, at most floor(r·s/60) + 1 devices are offered the release, and never more than r in it.
   So offers are spread over the minute, and a server that was away does not catch up beyond the minute's rate.
3. A minute ends with the first look at least 60 s after it began; the next begins with that look.
4. The next minute's rate is min(max, floor(rate x factor)), but at least one more than before, if in the minute that ended
   devices were offered the release, none of the stage failed, and factor is above 1. Else it stays: a minute in which nothing
   was offered proves nothing, and one with a failure is no reason to hurry. A failure is one that counts as evidence, or one
   after which the device is offered the release again (`device.retries`).

AWS IoT Jobs has the same exponential rate, which new members of a group bypass: here nobody does.

Start jitter (ADR 0064):
1. With `device.start_within` so many, always. Without it as many as the crowd needs at PER_S devices a second; a crowd of SMALL or less
   none, and none where a rate or limits spread the offers already.
2. The crowd of a stage is who is offered the release now, was within RECENT, or waits for nothing but the next look: a look offers
   a part of a large stage, and the looks after it come at once.
3. It is part of `download_deadline`, and by itself at most a quarter of that, and of the shortest window.
4. A device that tries again after a failure does not wait for others: those are few, and had a wait of their own (`planner/recall`).
What is taken back is never spread.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import TRANSIENT, AssignmentState, Phase
from edgefleet_server.rollout.effects import BandwidthBooked, Effect, LeaseTaken, Offer, PaceEffect, RampWindowUpdated
from edgefleet_server.rollout.model import Assignment, Lease, Lot, RampWindow, Report, Snapshot, Wait, Whereabouts
from edgefleet_server.rollout.spec import maintenance_windows
from edgefleet_server.rollout.spec.maintenance_windows import TZ_DEVICE, Window
from edgefleet_server.rollout.spec.model import Limits, Rate, Spec

# ---- leases


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


# ---- the ramp


MINUTE: Final = timedelta(minutes=1)


def minute_at(rate: Rate, stage: int, known: RampWindow | None, now: datetime) -> RampWindow:
    """Return the minute that a look at `now` falls in. known: the last one, None before the first offer."""
    if known is None:
        return RampWindow(stage, now, rate.start)
    if now - known.began_at < MINUTE:
        return known
    return RampWindow(stage, now, next_rate(rate, known))


def next_rate(rate: Rate, ended: RampWindow) -> int:
    """Return the rate after a minute that ended."""
    if ended.offered == 0 or ended.failed > 0 or rate.factor <= 1:
        return min(ended.per_min, rate.max)
    return min(rate.max, max(int(ended.per_min * rate.factor), ended.per_min + 1))


def room(minute: RampWindow, now: datetime) -> int:
    """Return how many more devices may be offered the release now."""
    passed_s = max(0.0, (now - minute.began_at).total_seconds())
    allowed = min(minute.per_min, int(minute.per_min * passed_s / MINUTE.total_seconds()) + 1)
    return max(0, allowed - minute.offered)


def room_at(minute: RampWindow) -> datetime:
    """Return when the minute, or the one after it, has room for one more device."""
    if minute.offered >= minute.per_min:
        return minute.began_at + MINUTE
    return minute.began_at + MINUTE * minute.offered / minute.per_min


def counted(minute: RampWindow, *, offered: int = 0, failed: int = 0) -> RampWindow:
    """Return the minute with more devices offered, or failed."""
    return replace(minute, offered=minute.offered + offered, failed=minute.failed + failed)


# ---- start jitter


PER_S: Final = 200
"""Devices that begin a second: new connections with mutual TLS that one broker takes on two cores."""
SMALL: Final = 200
RECENT: Final = timedelta(minutes=1)
SHARE: Final = 4
"""What a spread may take by itself of a deadline or of a window: one part of so many."""


def spread_offers(
    effects: Sequence[Effect], assignments: Mapping[DeviceId, Assignment], spec: Spec, now: datetime
) -> Sequence[Effect]:
    """Return the effects of a tick with the span in each of its offers. assignments: as the tick leaves them."""
    stages = {assignments[effect.device].stage for effect in effects if isinstance(effect, Offer)}
    has_crowd = bool(stages) and len(assignments) > SMALL and spec.device.start_within is None
    crowds = _crowds(assignments, now) if has_crowd else {}
    spans = {stage: span for stage in stages if (span := within_s(spec, stage, crowds.get(stage, 0)))}
    if not spans:
        return effects
    return [
        _spread(effect, assignments[effect.device], spans) if isinstance(effect, Offer) else effect
        for effect in effects
    ]


def spans_of(spec: Spec, lots: Iterable[Lot]) -> dict[int, int]:
    """Return over how many seconds at most the devices of each stage begin, 0: at once. lots: of all devices, for what people see."""
    devices = Counter[int]()
    for a, n in lots:
        devices[a.stage] += n
    return {stage: within_s(spec, stage, n) for stage, n in devices.items()}


def within_s(spec: Spec, stage: int, crowd: int) -> int:
    """Return over how many seconds a crowd of a stage begins, 0: at once."""
    fixed = spec.device.start_within
    if fixed is not None:
        return int(fixed.total_seconds())
    is_spread = spec.stages[stage].rate is not None or spec.limits.are_set
    if is_spread or crowd <= SMALL:
        return 0
    most = min(spec.device.download, *(window.duration for window in spec.windows), timedelta.max) / SHARE
    return min(ceil(crowd / PER_S), int(most.total_seconds()))


def _crowds(assignments: Mapping[DeviceId, Assignment], now: datetime) -> dict[int, int]:
    since, eligible = now - RECENT, AssignmentState.ELIGIBLE
    return Counter(
        a.stage
        for a in assignments.values()
        if (
            (a.retry_at is None or a.retry_at <= now)
            if a.state is eligible
            else a.offered_at is not None and a.offered_at > since
        )
    )


def _spread(offer: Offer, a: Assignment, spans: Mapping[int, int]) -> Offer:
    is_new = a.state is AssignmentState.OFFERED and not a.retries and not a.failed_before
    return Offer(offer.device, spans[a.stage]) if is_new and a.stage in spans else offer


# ---- codes of what holds a device: stable

NEW: Final = "new"
RETRY: Final = "retry"
WINDOW: Final = "window"
NO_TIME_ZONE: Final = "no_time_zone"
AWAY: Final = "away"
RATE: Final = "rate"
DOWNLOADS: Final = "downloads"
SITE: Final = "site"
BANDWIDTH: Final = "bandwidth"

_NOWHERE: Final = Whereabouts()


class AdmissionControl:
    """What is left of a rollout's pace at one moment. `admit` uses it up."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        facts = snapshot.pace
        self._snapshot = snapshot
        self._now = now
        self._spec = snapshot.spec
        self.minutes = {one.stage: one for one in facts.minutes}
        self._leased = {one.device for one in facts.leases}
        self._total = facts.total
        self._by_site = Counter(facts.by_site)
        self._line_until = facts.line_until
        self._openings: dict[str, maintenance_windows.Opening] = {}

    # ---- the running minute

    def count_failures(self, failed: int) -> None:
        """Note devices of the rollout that failed, in the minute that runs; call it before the first `blocked_by`."""
        if failed:
            self.minutes = {stage: counted(one, failed=failed) for stage, one in self.minutes.items()}

    def minute(self, stage: int) -> RampWindow | None:
        """Return the minute of a stage, None when it has no rate."""
        rate = self._rate(stage)
        if rate is None:
            return None
        found = minute_at(rate, stage, self.minutes.get(stage), self._now)
        if stage in self.minutes:
            self.minutes[stage] = found
        return found

    # ---- asking

    def is_spent(self, stage: int) -> bool:
        """Whether nobody can be offered anything more in this pass, whichever device it is."""
        minute = self.minute(stage)
        if minute is not None and room(minute, self._now) == 0:
            return True
        limits = self._spec.limits
        is_full = limits.concurrent_downloads is not None and self._total >= limits.concurrent_downloads
        return is_full or not line_is_free(limits, self._line_until, self._now)

    def blocked_by(self, a: Assignment, stage: int) -> Wait | None:
        """Return why a device is not offered the release now, None when it can be. stage: the one that offers."""
        return self._own(a) or self._shared(a, stage)

    def is_in_window(self, a: Assignment) -> bool:
        """Return whether a window is open for a device."""
        return self._opening(a).is_open

    def _own(self, a: Assignment) -> Wait | None:
        if a.retry_at is not None and a.retry_at > self._now:
            return Wait(RETRY, a.reason or "waits before it is offered again", "time", a.retry_at)
        if self._spec.recalls and a.device not in self._snapshot.pace.where:
            return Wait(NEW, "has just joined the rollout", "time: the engine checks every 2 s", self._now)
        stands = self._opening(a)
        if stands.is_unknown:
            return self._no_zone(a)
        if not stands.is_open:
            return _closed(stands)
        report = self._snapshot.reports.get(a.device)
        if self._spec.limits.are_set and (report is None or not report.is_online):
            seen = report.last_seen if report is not None else None
            since = f"not heard of since {seen:%Y-%m-%d %H:%MZ}" if seen else "not heard of yet"
            policy = self._spec.offline
            begins = max(moment for moment in (a.due_at, a.entered_at, seen, self._now - policy.after) if moment)
            return Wait(
                AWAY,
                f"{since}; with limits, only devices that are there are offered a download",
                f"its return, or it counts as {policy.count}",
                begins + policy.after,
            )
        return None

    def _shared(self, a: Assignment, stage: int) -> Wait | None:
        minute = self.minute(stage)
        if minute is not None and room(minute, self._now) == 0:
            reason = (
                f"the stage goes at {minute.per_min} devices a minute; {minute.offered} were offered it in this one"
            )
            return Wait(RATE, reason, "time: lower ranks go first", max(room_at(minute), self._now))
        limits, site = self._spec.limits, self._site(a)
        match full(limits, self._total, self._by_site[site] if site else None):
            case "downloads":
                reason = f"{self._total} downloads are under way, at most {limits.concurrent_downloads} may be"
                return Wait(DOWNLOADS, reason, "a download ends")
            case "site":
                reason = (
                    f"{self._by_site[site]} downloads are under way at site {site}, at most {limits.per_site} may be"
                )
                return Wait(SITE, reason, f"a download at {site} ends")
        if not line_is_free(limits, self._line_until, self._now):
            assert self._line_until is not None
            reason = f"bundles that were begun use the bandwidth until {self._line_until:%H:%M:%SZ}"
            return Wait(BANDWIDTH, reason, "time", self._line_until - AHEAD)
        return None

    # ---- admitting

    def admit(self, a: Assignment, stage: int) -> list[PaceEffect]:
        """Use up what one offer needs; return what has to be written."""
        effects: list[PaceEffect] = []
        minute = self.minute(stage)
        if minute is not None:
            self.minutes[stage] = counted(minute, offered=1)
            effects.append(RampWindowUpdated(self.minutes[stage]))
        limits = self._spec.limits
        if not limits.are_set:
            return effects
        site, bundle = self._site(a), self._snapshot.bundles.get(a.stratum)
        length = bundle.length if bundle is not None else 0
        if a.device not in self._leased:
            self._leased.add(a.device)
            self._total += 1
            self._by_site[site] += 1
        effects.append(LeaseTaken(Lease(a.device, self._snapshot.id, site, length, self._now)))
        until = booked(limits, self._line_until, length, self._now)
        if until is not None and until != self._line_until:
            self._line_until = until
            effects.append(BandwidthBooked(until))
        return effects

    # ---- what a device is asked about

    def _rate(self, stage: int) -> Rate | None:
        return self._snapshot.spec.stages[stage].rate

    def _site(self, a: Assignment) -> str:
        return self._snapshot.pace.where.get(a.device, _NOWHERE).site

    def _opening(self, a: Assignment) -> maintenance_windows.Opening:
        tz = self._snapshot.pace.where.get(a.device, _NOWHERE).tz
        found = self._openings.get(tz)
        if found is None:
            found = self._openings[tz] = maintenance_windows.opening(self._spec.windows, tz, self._now)
        return found

    def _no_zone(self, a: Assignment) -> Wait:
        tz = self._snapshot.pace.where.get(a.device, _NOWHERE).tz
        reason = f"its label tz is {tz!r}, which is no time zone" if tz else "it has no label tz"
        moves = f"`edgectl device label {a.device} tz=Europe/Berlin` (its own), or a window whose tz is UTC"
        return Wait(NO_TIME_ZONE, f"{reason}, so it is in no window", moves)


def window_text(window: Window) -> str:
    """Return a window in words."""
    zone = "its own time zone" if window.tz == TZ_DEVICE else window.tz
    hours = window.duration / timedelta(hours=1)
    return f"`{window.cron}` for {hours:.4g} h in {zone}"


def _closed(stands: maintenance_windows.Opening) -> Wait:
    if stands.until is None or stands.window is None:
        return Wait(
            WINDOW, "outside of its windows, and none comes in fifty years", "another rollout, with other windows"
        )
    reason = f"outside of its window, {window_text(stands.window)}: the next one opens {stands.until:%Y-%m-%d %H:%MZ}"
    return Wait(WINDOW, reason, "time", stands.until)

"""Whether a device that waits may be offered the release now, and why not. Pure.

1. First what lies in the device: its next try, its window, whether it is there (that matters where leases are taken). Then what is
   shared: the rate of the stage, downloads under way, its site, the bandwidth. The first that says no is the reason.
2. Each offer is taken from what is shared at once, so one pass never offers more than there is room for.
3. What people see is asked here too (`planner/offers.explain`): what is shown is what will happen.
4. Nothing here holds a rollback: what is taken back goes out at once.
"""

from collections import Counter
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.rollout.effects import BandwidthBooked, LeaseTaken, PaceEffect, RampWindowUpdated
from edgefleet_server.rollout.model import Assignment, Lease, RampWindow, Snapshot, Wait, Whereabouts
from edgefleet_server.rollout.spec import maintenance_windows
from edgefleet_server.rollout.spec.maintenance_windows import TZ_DEVICE, Window
from edgefleet_server.rollout.spec.model import Rate
from edgefleet_server.rollout.throttle import leases, ramp

# ---- codes: stable

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
            self.minutes = {stage: ramp.counted(one, failed=failed) for stage, one in self.minutes.items()}

    def minute(self, stage: int) -> RampWindow | None:
        """Return the minute of a stage, None when it has no rate."""
        rate = self._rate(stage)
        if rate is None:
            return None
        found = ramp.minute_at(rate, stage, self.minutes.get(stage), self._now)
        if stage in self.minutes:
            self.minutes[stage] = found
        return found

    # ---- asking

    def is_spent(self, stage: int) -> bool:
        """Whether nobody can be offered anything more in this pass, whichever device it is."""
        minute = self.minute(stage)
        if minute is not None and ramp.room(minute, self._now) == 0:
            return True
        limits = self._spec.limits
        is_full = limits.concurrent_downloads is not None and self._total >= limits.concurrent_downloads
        return is_full or not leases.line_is_free(limits, self._line_until, self._now)

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
            return Wait(NEW, "belongs to the rollout since this moment", "the next look, in seconds", self._now)
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
                f"it comes back; else it counts as {policy.count} then",
                begins + policy.after,
            )
        return None

    def _shared(self, a: Assignment, stage: int) -> Wait | None:
        minute = self.minute(stage)
        if minute is not None and ramp.room(minute, self._now) == 0:
            reason = (
                f"the stage goes at {minute.per_min} devices a minute; {minute.offered} were offered it in this one"
            )
            return Wait(RATE, reason, "time: lower ranks go first", max(ramp.room_at(minute), self._now))
        limits, site = self._spec.limits, self._site(a)
        match leases.full(limits, self._total, self._by_site[site] if site else None):
            case "downloads":
                reason = f"{self._total} downloads are under way, at most {limits.concurrent_downloads} may be"
                return Wait(DOWNLOADS, reason, "a download ends")
            case "site":
                reason = (
                    f"{self._by_site[site]} downloads are under way at site {site}, at most {limits.per_site} may be"
                )
                return Wait(SITE, reason, f"a download at {site} ends")
        if not leases.line_is_free(limits, self._line_until, self._now):
            assert self._line_until is not None
            reason = f"bundles that were begun use the bandwidth until {self._line_until:%H:%M:%SZ}"
            return Wait(BANDWIDTH, reason, "time", self._line_until - leases.AHEAD)
        return None

    # ---- admitting

    def admit(self, a: Assignment, stage: int) -> list[PaceEffect]:
        """Use up what one offer needs; return what has to be written."""
        effects: list[PaceEffect] = []
        minute = self.minute(stage)
        if minute is not None:
            self.minutes[stage] = ramp.counted(minute, offered=1)
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
        until = leases.booked(limits, self._line_until, length, self._now)
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

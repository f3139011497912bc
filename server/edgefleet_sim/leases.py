"""A rollout's pace in the simulation: minutes, leases and the line, as the database holds them; and when time alone moves it.

The planner's own rules decide who is offered the release. Only this rollout has leases here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout import admission
from edgefleet_server.rollout.effects import BandwidthBooked, LeaseEnded, LeaseTaken, PaceEffect, RampWindowUpdated
from edgefleet_server.rollout.model import (
    NO_PACE_FACTS,
    WAITING,
    Assignment,
    Lease,
    PaceFacts,
    RampWindow,
    Snapshot,
    Whereabouts,
)
from edgefleet_server.rollout.planner.tick import explain
from edgefleet_server.rollout.spec.model import Spec


def is_paced(spec: Spec) -> bool:
    """Say whether a spec says how fast, when or how often again."""
    return spec.recalls or spec.device.retries is not None or any(stage.rate for stage in spec.stages)


@dataclass
class ThrottleRows:
    """What is stored of a rollout's pace."""

    minutes: dict[int, RampWindow] = field(default_factory=dict)
    leases: dict[DeviceId, Lease] = field(default_factory=dict)
    line_until: datetime | None = None

    def facts(
        self, spec: Spec, assignments: Mapping[DeviceId, Assignment], where: Mapping[DeviceId, Whereabouts]
    ) -> PaceFacts:
        """Return what the server would load, as `store.throttle.pace_facts` does."""
        if not is_paced(spec):
            return NO_PACE_FACTS
        asked = (one.device for one in assignments.values() if one.state in WAITING) if spec.recalls else ()
        return PaceFacts(
            minutes=tuple(self.minutes[stage] for stage in sorted(self.minutes)),
            leases=tuple(self.leases[device] for device in sorted(self.leases)),
            total=len(self.leases),
            by_site=Counter(lease.site for lease in self.leases.values()),
            line_until=self.line_until,
            where={device: where[device] for device in asked},
        )

    def carry(self, effect: PaceEffect) -> None:
        """Write what a plan says of the pace."""
        match effect:
            case RampWindowUpdated():
                self.minutes[effect.minute.stage] = effect.minute
            case LeaseTaken():
                self.leases[effect.lease.device] = effect.lease
            case LeaseEnded():
                self.leases.pop(effect.device, None)
            case BandwidthBooked():
                self.line_until = effect.until


def dues(snapshot: Snapshot, now: datetime) -> Iterator[datetime]:
    """Yield when time alone moves a rollout that keeps a pace: next tries, minutes, windows, offers that nobody takes up."""
    yield from (
        wait.until
        for wait in explain(snapshot, now, [(a, 1) for a in snapshot.assignments]).waits.values()
        if wait.until is not None
    )
    if snapshot.spec.limits.are_set:
        for one in snapshot.assignments:
            if one.state is AssignmentState.OFFERED and one.offered_at is not None:
                yield one.offered_at + admission.TAKE_UP
            if one.device in {lease.device for lease in snapshot.pace.leases}:
                yield (one.back_at or one.entered_at or now) + admission.SETTLE

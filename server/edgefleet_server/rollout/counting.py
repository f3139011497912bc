"""Devices of a rollout by outcome, as people see them. Pure; what a decision rests on is counted in `facts`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.facts import UNCOUNTED, is_exposed, is_failure
from edgefleet_server.rollout.model import Assignment, Snapshot

_S: Final = AssignmentState


@dataclass(frozen=True)
class CountsView:
    """Devices by outcome. members = all that belong; exposed = took the release up; rolled_back is also in failed when the
    device did it by itself. retried: of failed, those that a person had tried again, however that ended."""

    members: int = 0
    offered: int = 0
    exposed: int = 0
    pending: int = 0
    healthy: int = 0
    failed: int = 0
    unreachable: int = 0
    incompatible: int = 0
    rolled_back: int = 0
    retried: int = 0


def counts_of(snapshot: Snapshot, assignments: Iterable[Assignment], now: datetime) -> CountsView:
    """Return devices by outcome; each is counted once, and who failed before a retry as failed."""
    some = list(assignments)
    exposed = sum(is_exposed(a) for a in some)
    rest = [a for a in some if not is_failure(a)]
    failed = len(some) - len(rest)
    taken_back = sum(a.state is _S.ROLLED_BACK for a in rest)
    soaks = [one.soak for one in snapshot.spec.stages]
    running = [a for a in rest if a.state is _S.HEALTHY and a.switched_at is not None]
    healthy = sum((a.switched_at or now) + soaks[a.stage] <= now for a in running)
    return CountsView(
        members=failed + sum(a.state not in UNCOUNTED for a in rest),
        offered=sum(a.state in (_S.ELIGIBLE, _S.OFFERED) for a in rest),
        exposed=exposed,
        pending=exposed - healthy - failed - taken_back,
        healthy=healthy,
        failed=failed,
        unreachable=sum(a.state is _S.UNREACHABLE for a in rest),
        incompatible=sum(a.state is _S.INCOMPATIBLE for a in rest),
        rolled_back=sum(a.state is _S.ROLLED_BACK for a in some),
        retried=sum(bool(a.failed_before) for a in some),
    )

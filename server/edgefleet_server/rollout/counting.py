"""Devices of a rollout by outcome, as people see them. Pure; what a decision rests on is counted in `facts`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.facts import UNCOUNTED, Lot, is_exposed, is_failure
from edgefleet_server.rollout.model import Snapshot

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


def counts_of(snapshot: Snapshot, lots: Iterable[Lot], now: datetime) -> CountsView:
    """Return devices by outcome; each is counted once, and who failed before a retry as failed."""
    some = list(lots)
    exposed = sum(n for a, n in some if is_exposed(a))
    rest = [(a, n) for a, n in some if not is_failure(a)]
    failed = sum(n for _, n in some) - sum(n for _, n in rest)
    taken_back = sum(n for a, n in rest if a.state is _S.ROLLED_BACK)
    soaks = [one.soak for one in snapshot.spec.stages]
    running = [(a, n) for a, n in rest if a.state is _S.HEALTHY and a.switched_at is not None]
    healthy = sum(n for a, n in running if (a.switched_at or now) + soaks[a.stage] <= now)
    return CountsView(
        members=failed + sum(n for a, n in rest if a.state not in UNCOUNTED),
        offered=sum(n for a, n in rest if a.state in (_S.ELIGIBLE, _S.OFFERED)),
        exposed=exposed,
        pending=exposed - healthy - failed - taken_back,
        healthy=healthy,
        failed=failed,
        unreachable=sum(n for a, n in rest if a.state is _S.UNREACHABLE),
        incompatible=sum(n for a, n in rest if a.state is _S.INCOMPATIBLE),
        rolled_back=sum(n for a, n in some if a.state is _S.ROLLED_BACK),
        retried=sum(n for a, n in some if a.failed_before),
    )

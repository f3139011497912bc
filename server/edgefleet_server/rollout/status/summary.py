"""Reads a rollout as people see it, in the caller's transaction: devices counted by outcome, not one by one.

A summary must not cost what a reconcile pass does: no members, and by name only devices that wait for an offer, where that is
needed to say what for: the spec has a throttle, which depends on the device, or the queue is long.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.ids import ModelName, ReleaseRef, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.model import NO_PACE_FACTS, Lot, Member, RolloutState, Snapshot
from edgefleet_server.rollout.planner.document_state import batch_for, needs_rollback
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.preparation.loader import SnapshotLoader
from edgefleet_server.rollout.preparation.membership import by_stratum
from edgefleet_server.rollout.spec.fields import PREVIOUS
from edgefleet_server.rollout.spec.model import Limits, Offline, Spec
from edgefleet_server.rollout.spec.parser import stored_spec
from edgefleet_server.rollout.state_machines import ROLLOUT_ACTIVE, UNCOUNTED, is_exposed, is_failure
from edgefleet_server.rollout.status.whereabouts import (
    TURNED_BAD,
    Recovery,
    Whereabouts,
    away_of,
    flow_of,
    is_on_its_way,
    replaced_by,
    way_back,
)
from edgefleet_server.rollout.store import confirmation_rows, device_counts, measurements, rollouts, throttle
from edgefleet_server.rollout.store.tables import Rollout

_NOBODY: Final[tuple[Member, ...]] = ()

_WAITS: Final = AssignmentState.ELIGIBLE

MOST_LOOKED_AT: Final = 200
"""Devices that are read by name for one page."""

MOST_SILENT_NAMED: Final = 4


@dataclass(frozen=True, slots=True)
class RolloutSummary:
    """A rollout as it stood at a moment. snapshot: without assignments; these are in lots."""

    snapshot: Snapshot
    lots: Sequence[Lot]
    now: datetime


def has_pace(spec: Spec) -> bool:
    """Return whether it depends on the device when it is offered the release."""
    is_usual = (spec.limits, spec.offline) == (Limits(), Offline()) and not spec.windows
    has_terms = (spec.device.retries, spec.device.start_within) != (None, None)
    return not is_usual or has_terms or any(stage.rate is not None for stage in spec.stages)


class SummaryReader:
    """Reads how rollouts stand."""

    def __init__(self, fleet: RolloutFleet, loader: SnapshotLoader) -> None:
        self._fleet = fleet
        self._loader = loader

    def standing(self, session: Session, row: Rollout, now: datetime, *, is_whole: bool) -> RolloutSummary:
        """Return a rollout; with `is_whole` also what its devices wait for is in it, while it is open."""
        spec = stored_spec(row.spec)
        cells = tuple(rollouts.cells(session, row.id))
        lots = device_counts.lots(session, row.id, spec, cells, now)
        is_open = is_whole and row.state in ROLLOUT_ACTIVE
        is_offered = is_open and row.state == RolloutState.RUNNING
        if is_offered and (has_pace(spec) or _is_long(lots)):
            lots = device_counts.each_waiting(session, row.id, lots)
        waiting = [one for one, _ in lots if one.state is _WAITS] if is_offered else []
        asks = bool(waiting) and spec.limits.are_set
        bundles = self._loader.bundles(ReleaseRef.parse(spec.release)) if asks else {}
        reports = self._loader.reports([one.device for one in waiting], ModelName(row.model)) if asks else {}
        snapshot = Snapshot(
            id=RolloutId(row.id),
            state=RolloutState(row.state),
            spec=spec,
            salt=row.salt,
            bundles=by_stratum(bundles, _NOBODY, waiting),
            members=_NOBODY,
            cells=cells,
            assignments=(),
            reports=reports,
            code=row.code,
            reason=row.reason,
            pace=throttle.pace_facts(session, self._fleet.devices, row.id, spec, waiting) if is_open else NO_PACE_FACTS,
            confirmations=confirmation_rows.of_rollout(session, row.id) if is_whole else (),
            measured=() if spec.gates.quality is None else measurements.measured(session, row.id),
        )
        return RolloutSummary(snapshot, lots, now)

    def whereabouts(self, session: Session, row: Rollout, standing: RolloutSummary) -> Whereabouts:
        """Return where the devices of a rollout are; silent ones among the MOST_LOOKED_AT that have stood still longest."""
        snapshot, now = standing.snapshot, standing.now
        soaks = [one.soak for one in snapshot.spec.stages]
        looked_at = device_counts.looked_at(session, row.id, now, max(soaks), MOST_LOOKED_AT + 1)
        reports = self._fleet.offers.reports_of([one.device for one in looked_at], row.model)
        moving = [one for one in looked_at if is_on_its_way(one, soaks, now)]
        away = away_of(moving, reports) if row.state in ROLLOUT_ACTIVE else []
        is_known = len(looked_at) <= MOST_LOOKED_AT and snapshot.spec.rollback_to == PREVIOUS
        back = sum(n for a, n in standing.lots if needs_rollback(a))
        return Whereabouts(
            flow=flow_of(standing.lots, snapshot.cells, away, soaks, now),
            way_back=way_back(back, looked_at if is_known else None, reports),
            recovery=Recovery(*device_counts.recovery(session, row.id)) if row.state in TURNED_BAD else Recovery(),
            replaced=replaced_by(looked_at),
            silent=tuple(one.device for one in away[:MOST_SILENT_NAMED]),
        )


def _is_long(lots: Sequence[Lot]) -> bool:
    """Whether so many wait that the next look does not offer the release to all, so that it matters who is first in the line."""
    return sum(n for one, n in lots if one.state is _WAITS) > batch_for(sum(n for _, n in lots))


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

"""Reads a rollout as people see it, in the caller's transaction: counted, not device by device.

Its own module because a look must not cost what a tick does: no members, and by name only devices that wait for an offer where that is
needed to tell what for: the spec has a pace, which depends on the device, or the line is long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.ids import ModelName, ReleaseRef, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.fleet.service import FleetService
from edgefleet_server.rollout import lot_store, pace_store, quality_store, store
from edgefleet_server.rollout.draft import batch_for
from edgefleet_server.rollout.facts import Lot
from edgefleet_server.rollout.loading import Loader
from edgefleet_server.rollout.machines import ROLLOUT_ACTIVE
from edgefleet_server.rollout.model import Member, RolloutState, Snapshot, Spec
from edgefleet_server.rollout.pace import NO_PACE_FACTS, NO_PACING
from edgefleet_server.rollout.populating import by_stratum
from edgefleet_server.rollout.spec import stored_spec
from edgefleet_server.rollout.tables import Rollout

_NOBODY: Final[tuple[Member, ...]] = ()
_WAITS: Final = AssignmentState.ELIGIBLE


@dataclass(frozen=True, slots=True)
class Standing:
    """A rollout as it stood at a moment. snapshot: without assignments; these are in lots."""

    snapshot: Snapshot
    lots: Sequence[Lot]
    now: datetime


def has_pace(spec: Spec) -> bool:
    """Return whether it depends on the device when it is offered the release."""
    return spec.pacing != NO_PACING or any(stage.rate is not None for stage in spec.stages)


class StandingReader:
    """Reads how rollouts stand."""

    def __init__(self, fleet: FleetService, loader: Loader) -> None:
        self._fleet = fleet
        self._loader = loader

    def standing(self, session: Session, row: Rollout, now: datetime, *, is_whole: bool) -> Standing:
        """Return a rollout; with `is_whole` also what its devices wait for is in it, while it is open."""
        spec = stored_spec(row.spec)
        cells = tuple(store.cells(session, row.id))
        lots = lot_store.lots(session, row.id, spec, cells, now)
        is_open = is_whole and row.state in ROLLOUT_ACTIVE
        is_offered = is_open and row.state == RolloutState.RUNNING
        if is_offered and (has_pace(spec) or _is_long(lots)):
            lots = lot_store.each_waiting(session, row.id, lots)
        waiting = [one for one, _ in lots if one.state is _WAITS] if is_offered else []
        asks = bool(waiting) and spec.pacing.limits.are_set
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
            reason=row.reason,
            pace=pace_store.pace_facts(session, self._fleet, row.id, spec, waiting) if is_open else NO_PACE_FACTS,
            measured=() if spec.quality is None else quality_store.measured(session, row.id),
        )
        return Standing(snapshot, lots, now)


def _is_long(lots: Sequence[Lot]) -> bool:
    """Whether so many wait that the next look does not offer the release to all, so that it matters who is first in the line."""
    return sum(n for one, n in lots if one.state is _WAITS) > batch_for(sum(n for _, n in lots))

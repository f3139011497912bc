"""What a decision about a cell rests on, counted from the assignments. Pure.

Its own module because planner, explanation and tests count with it. Accepted failures count nowhere; exposed means that the
device took up its document, whatever became of it then.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.machines import EXPOSED_STATES, FAILED_STATES
from edgefleet_server.rollout.model import Assignment, Cell, Counts, Facts, Snapshot
from edgefleet_server.rollout.power import rule_in
from edgefleet_server.rollout.rules import LOST

_S: Final = AssignmentState
_NOT_YET: Final = timedelta(seconds=1)
UNCOUNTED: Final = frozenset({_S.CANCELLED, _S.SUPERSEDED})
OUTSIDE: Final = UNCOUNTED | {_S.INCOMPATIBLE}
"""The device has no part in the rollout any more, or never had one."""


def facts_of(snapshot: Snapshot, cell: Cell, assignments: Iterable[Assignment], now: datetime) -> Facts:
    """Return what a decision about a cell rests on. assignments: of the whole rollout, as they are now."""
    spec = snapshot.spec
    everything = list(assignments)
    mode = spec.stages[cell.stage].shape.mode  # what runs beside a version says nothing of how it serves
    everything = [a for a in everything if spec.stages[a.stage].shape.mode is mode]
    lane = [a for a in everything if a.stratum == cell.stratum and a.stage <= cell.stage and not a.is_accepted]
    healthy = [a for a in lane if a.state is _S.HEALTHY]
    soaked = sum(soak_end(snapshot, a, now) <= now for a in healthy)
    failed = [a for a in lane if is_failure(a)]
    exposed = sum(a.state in EXPOSED_STATES for a in lane)
    counts = Counts(
        members=sum(a.state not in UNCOUNTED for a in lane),
        offered=sum(a.state in (_S.ELIGIBLE, _S.OFFERED) for a in lane),
        exposed=exposed,
        pending=exposed - soaked - len(failed),
        healthy=soaked,
        failed=len(failed),
        unreachable=sum(a.state is _S.UNREACHABLE for a in lane),
        incompatible=sum(a.state is _S.INCOMPATIBLE for a in lane),
        accepted=sum(a.is_accepted and a.stratum == cell.stratum for a in everything),
    )
    own = [a for a in lane if a.stage == cell.stage and a.state not in OUTSIDE | {_S.UNREACHABLE}]
    pool = [a for a in everything if not a.is_accepted]
    since = max(moment for moment in (cell.opened_at, cell.resumed_at, now - timedelta(days=3650)) if moment)
    return Facts(
        stage=cell.stage,
        stratum=cell.stratum,
        population=cell.population,
        counts=counts,
        failures=dict(sorted(Counter(_class_of(a) for a in failed).items())),
        soaking=len(healthy) - soaked,
        stage_members=len(own),
        stage_tried=sum(a.state in EXPOSED_STATES for a in own),
        pooled_exposed=sum(a.state in EXPOSED_STATES for a in pool),
        pooled_failed=sum(is_failure(a) for a in pool),
        rule=rule_in(spec, cell.stage, cell.population, counts.members),
        max_failure=spec.gate.max_failure,
        promote_below=spec.gate.promote_below,
        alpha_abort=spec.gate.alpha_abort,
        alpha_promote=spec.gate.alpha_promote,
        on_fail=spec.on_fail,
        open_for_s=max(0.0, (now - since).total_seconds()),
        inconclusive_after_s=spec.on_inconclusive.after.total_seconds(),
        inconclusive_do=spec.on_inconclusive.do,
    )


def is_failure(a: Assignment) -> bool:
    """Return whether the release failed on the device. What the server took back is no failure of the device."""
    return a.state in FAILED_STATES and not (a.state is _S.ROLLED_BACK and not a.error_class)


def soak_end(snapshot: Snapshot, a: Assignment, now: datetime) -> datetime:
    """Return when a device has run the release for the soak of its stage; not yet where its candidate does not run just now."""
    soak = snapshot.spec.stages[a.stage].soak
    return now + max(soak, _NOT_YET) if a.switched_at is None else a.switched_at + soak


def _class_of(a: Assignment) -> str:
    return LOST if a.state is _S.LOST else a.error_class or "internal"

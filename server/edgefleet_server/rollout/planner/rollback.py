"""A release that is taken back: what every device ran before is written into its document, newest exposed first. Pure.

- A device that never took up the offer is simply withdrawn.
- One that does not confirm in time that it went back is named, and stays in the state in which it was last heard.
- What another release's document replaced meanwhile is never written over.
"""

from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import Revert, StepReport
from edgefleet_server.rollout.model import Assignment, RolloutState, Snapshot, Wait
from edgefleet_server.rollout.planner import document_state, recall
from edgefleet_server.rollout.planner.builder import PlanBuilder, StratumTrack
from edgefleet_server.rollout.planner.observe import OVERWRITTEN, REVOKED
from edgefleet_server.rollout.spec.fields import NO_WAY_BACK
from edgefleet_server.rollout.state_machines import IN_FLIGHT, UNSWITCHED, AssignmentEvent, moved

BACK_FACTOR: Final = 10
"""A pass takes back so many times as it offers, unless it plans the whole rollout."""
NOT_BACK: Final = "not confirmed to be back"
CONFIRM: Final = "confirm"
_KEPT: Final = "it keeps the release (rollback_to: none)"
_REVERTS: Final = frozenset(
    {RolloutState.RUNNING, RolloutState.ROLLING_BACK, RolloutState.PAUSED, RolloutState.AWAITING_APPROVAL}
)
"""Waiting stops offers, not the rollback of a stratum that failed."""
_S: Final = AssignmentState
_E: Final = AssignmentEvent


def is_rolled_back(plan: PlanBuilder, track: StratumTrack) -> bool:
    """Return whether the release is taken back in a stratum."""
    return track.has_failed or plan.state is RolloutState.ROLLING_BACK


def owes_confirmation(a: Assignment) -> bool:
    """Return whether a device whose document was taken back has not said yet that it went back."""
    return a.back_at is not None and a.back_done_at is None


def confirmation(snapshot: Snapshot, a: Assignment) -> Wait:
    """Return that the rollback of such a device waits for it, and until when."""
    until = None if a.back_at is None else a.back_at + snapshot.spec.device.ack
    return Wait(CONFIRM, "was told to go back and has not confirmed it", "its report; else it is named", until)


def batch_of(plan: PlanBuilder) -> int:
    """Return how many documents this pass may sign."""
    return document_state.batch_for(max(len(plan.snapshot.members), len(plan.assignments)))


def revert(plan: PlanBuilder) -> StepReport | None:
    """Write the former release back where a stratum failed (or everywhere, when the rollout is rolled back)."""
    if plan.state not in _REVERTS:
        return None
    failed = {track.stratum for track in plan.tracks() if is_rolled_back(plan, track)}
    for a in list(plan.assignments.values()):
        if a.stratum in failed and a.state is _S.ELIGIBLE:
            _end_waiting(plan, a)
    todo = [a for a in plan.assignments.values() if a.stratum in failed and document_state.needs_rollback(a)]
    todo.sort(key=lambda a: (a.exposed_at or a.offered_at or plan.now, a.device), reverse=True)
    most = BACK_FACTOR * batch_of(plan)
    plan.is_cut_short |= len(todo) > most
    for a in todo[:most]:
        _revert(plan, a)
    for a in [a for a in plan.assignments.values() if a.state is _S.UNREACHABLE and a.back_done_at is not None]:
        if a.back_gen and document_state.is_still_on_it(plan.snapshot, a, plan.withdrawn):
            # it took the release up all the same: it must be heard to be back
            plan.update_assignment(a.but(back_done_at=None))
    _name_overdue(plan)
    return StepReport("rollback.revert", f"{len(todo[:most])} of {len(todo)} devices reverted") if todo else None


def _end_waiting(plan: PlanBuilder, a: Assignment) -> None:
    """End a device's wait for an offer in a stratum that failed; one that may run the release goes back like any other."""
    exposed_at = a.exposed_at or plan.now
    if a.gen and document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn):
        # it went on to a stage of another mode, or waits for its next try: its candidate ends below
        plan.move_assignment(a, moved(a, _E.ACK, plan.now, exposed_at=exposed_at))
    elif document_state.may_have_switched(plan.snapshot, a, plan.withdrawn):
        # what it goes back to stands in its document since the offer was withdrawn
        late = moved(a, _E.ACK, plan.now, exposed_at=exposed_at, back_gen=a.gen + 1, back_at=plan.now)
        plan.move_assignment(a, late)
    else:
        recall.end_candidate(plan, a)
        reason = "its stratum was stopped"
        plan.move_assignment(a, moved(a, _E.CANCEL, plan.now, reason=reason, ended_at=plan.now))


def _revert(plan: PlanBuilder, a: Assignment) -> None:
    if not document_state.asks_for_release(plan.snapshot, a, plan.withdrawn):
        if a.state not in IN_FLIGHT:  # those are superseded when their pass observes it
            _note_overwritten(plan, a)
        return
    is_candidate = document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn)
    to = None if is_candidate or a.state in UNSWITCHED else plan.snapshot.way_back.get(a.stratum)
    if reason := "" if is_candidate or to is not None else _why_kept(plan, a):
        if reason is not _KEPT or a.state not in IN_FLIGHT:  # what is on its way may end first, since it stays
            kept = a.but(back_gen=max(1, a.gen), back_at=plan.now, reason=f"{NOT_BACK}: {reason}")
            plan.update_assignment(kept)
        return
    plan.emit(Revert(a.device, is_rollback=True, is_beside=is_candidate, to=to))
    is_unmoved = a.state in (_S.OFFERED, _S.UNREACHABLE) and not document_state.may_be_on_it(plan.snapshot, a)
    after = a.but(back_at=plan.now)
    if is_unmoved and a.state is _S.OFFERED:
        reason = "its stratum was stopped before it took up its document"
        after = moved(
            after, _E.CANCEL, plan.now, reason=reason, ended_at=plan.now, back_done_at=plan.now, deadline=None
        )
        plan.move_assignment(a, after)
        return
    plan.update_assignment(after.but(back_done_at=plan.now) if is_unmoved else after)


def _note_overwritten(plan: PlanBuilder, a: Assignment) -> None:
    """Note that a device's document names another release; one that runs ours still must be heard to be back like any other."""
    is_on_it = document_state.is_still_on_it(plan.snapshot, a, plan.withdrawn)
    done = a.but(back_gen=a.gen + 1, back_at=plan.now, back_done_at=None if is_on_it else plan.now)
    report = plan.snapshot.reports.get(a.device)
    is_gone = report is not None and report.is_revoked
    reason = REVOKED if is_gone else "" if is_on_it else OVERWRITTEN
    plan.update_assignment(done.but(reason=a.reason or reason))


def _why_kept(plan: PlanBuilder, a: Assignment) -> str:
    """Return why a device keeps the release although it is taken back, "" when it goes back."""
    if a.previous is not None and a.previous.sha256 == document_state.digest_of(plan.snapshot, a.stratum):
        return "it ran this very release before, and nothing older is known"
    runs_it = a.state in (_S.APPLYING, _S.VERIFYING, _S.HEALTHY, _S.LOST)
    return _KEPT if runs_it and plan.snapshot.spec.rollback_to == NO_WAY_BACK else ""


def _name_overdue(plan: PlanBuilder) -> None:
    """Note which devices did not confirm in time that they went back.

    Each stays in the state that it was last heard in. `lost` would be a failure of the release, and count against it in other
    strata, although the server cut its way short; and no late report moves what is lost.
    """
    for a in list(plan.assignments.values()):
        if not owes_confirmation(a) or a.reason.startswith(NOT_BACK):
            continue
        if (until := confirmation(plan.snapshot, a).until) is not None and plan.now >= until:
            reason = f"{NOT_BACK}: {a.reason}" if a.reason else NOT_BACK
            plan.update_assignment(a.but(reason=reason, deadline=None))

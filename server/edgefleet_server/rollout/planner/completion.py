"""When a rollout begins and ends, and when it is looked at next. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import Blocked, Offer, StepReport
from edgefleet_server.rollout.model import RolloutState, StageState
from edgefleet_server.rollout.planner import document_state, intake, recall
from edgefleet_server.rollout.planner.builder import PlanBuilder, StratumTrack
from edgefleet_server.rollout.planner.rollback import NOT_BACK, confirmation, is_rolled_back, owes_confirmation
from edgefleet_server.rollout.state_machines import IN_FLIGHT, ROLLOUT_ACTIVE, RolloutEvent

LOOK_AGAIN: Final = timedelta(seconds=2)
LOOK_FOR_LATE: Final = timedelta(minutes=1)
_FINISH: Final = "completion.finish"
_ENDS: Final = frozenset({RolloutState.RUNNING, RolloutState.ROLLING_BACK})
_S: Final = AssignmentState


def leave_queue(plan: PlanBuilder) -> StepReport | None:
    """Begin when no older rollout is before this one any more."""
    is_first = not plan.snapshot.behind
    if is_first:
        plan.move_rollout(RolloutEvent.START, "started", "no older rollout is before it any more")
    plan.is_cut_short = bool(plan.effects)  # which devices belong to it is looked up once it runs
    return StepReport("completion.leave_queue", "started") if is_first else None


@dataclass(frozen=True, slots=True)
class _Ends:
    """How the strata of a rollout ended. stuck: devices that are not confirmed to be back."""

    failed: Sequence[StratumTrack]
    passed: Sequence[StratumTrack]
    stuck: Sequence[DeviceId]


def finish(plan: PlanBuilder) -> StepReport | None:
    """End the rollout when every stratum has ended and what was taken back is settled."""
    tracks = plan.tracks()
    if plan.state not in _ENDS or plan.is_cut_short:
        return None
    if not all(track.has_ended or is_rolled_back(plan, track) for track in tracks):
        return None
    if any(isinstance(effect, Offer) for effect in plan.effects) or _are_waiting(plan):
        return None  # a person let the last stage pass before its devices had their offers: these go out while it runs
    reverted = {track.stratum for track in tracks if is_rolled_back(plan, track)}
    owed = [a for a in plan.assignments.values() if a.stratum in reverted]
    if any(document_state.needs_rollback(a) for a in owed):
        return None
    failed = [track for track in tracks if track.has_failed]
    passed = [track for track in tracks if not track.has_failed and _has_passed(track)]
    if failed and not passed and plan.state is RolloutState.RUNNING:
        plan.move_rollout(RolloutEvent.ROLL_BACK, *_why(failed))
    waiting = [a for a in owed if owes_confirmation(a)]
    unconfirmed = [a for a in waiting if not a.reason.startswith(NOT_BACK)]
    if unconfirmed:
        wait = confirmation(plan.snapshot, unconfirmed[0])
        return StepReport(_FINISH, blocked=(Blocked(wait, count=len(unconfirmed)),))
    _end(plan, _Ends(failed, passed, [a.device for a in waiting]))
    return StepReport(_FINISH, f"ended: {plan.state}")


def _has_passed(track: StratumTrack) -> bool:
    return any(run.state is StageState.PASSED for run in track.runs)


def _are_waiting(plan: PlanBuilder) -> bool:
    """Whether devices still wait for their turn in a stage that a person let pass, or are on their way on a second try."""
    if plan.state is not RolloutState.RUNNING:
        return False
    going = [run for track in plan.tracks() if (run := track.offering) is not None and not track.has_failed]
    waiting = (a for run in going for a in intake.devices_of(plan, run))
    return any(a.state is _S.ELIGIBLE or (a.failed_before and a.state in IN_FLIGHT) for a in waiting)


def _end(plan: PlanBuilder, ends: _Ends) -> None:
    for a in plan.assignments.values():
        if a.state not in (_S.OFFERED, _S.UNREACHABLE):
            recall.end_candidate(plan, a)
    code, reason = _why(ends.failed)
    tail = f"; not confirmed to be back: {', '.join(sorted(ends.stuck)[:20])}" if ends.stuck else ""
    failed, passed = len(ends.failed), len(ends.passed)
    if plan.state is RolloutState.ROLLING_BACK:
        event = RolloutEvent.ROLLBACK_STUCK if ends.stuck else RolloutEvent.ROLLED_BACK
        if not failed:  # a person took back what had no open stage: theirs are the words
            code, reason = plan.cause
        plan.move_rollout(event, code, reason + tail)
    elif not passed:
        plan.move_rollout(RolloutEvent.CANCEL, "empty", "no device of the rollout was left to judge")
    elif failed:
        message = f"finished in {passed} of {passed + failed} strata; {reason}{tail}"
        plan.move_rollout(RolloutEvent.FINISH, "partial", message)
    else:
        plan.move_rollout(RolloutEvent.FINISH, "finished", "every stage passed in every stratum")


def _why(failed: Sequence[StratumTrack]) -> tuple[str, str]:
    """Return the code and the message for what ended these strata."""
    runs = [next(run for run in track.runs if run.state is StageState.FAILED) for track in failed]
    reasons = "; ".join(f"{run.stratum}: {run.reason}" for run in runs)
    return (runs[0].code if runs else ""), reasons


def next_pass(plan: PlanBuilder) -> datetime | None:
    """Return when to look again at the latest; None when nothing can happen any more."""
    if plan.state in ROLLOUT_ACTIVE:
        return plan.now if plan.is_cut_short else plan.now + LOOK_AGAIN
    # those who were away may still come back and take up their document: that is worth a line in the log
    late = any(a.state is _S.UNREACHABLE or a.state in IN_FLIGHT for a in plan.assignments.values())
    return plan.now + LOOK_FOR_LATE if late and plan.state is RolloutState.FINISHED else None

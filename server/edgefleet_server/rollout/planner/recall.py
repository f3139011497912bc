"""Offers that are taken back before their device switched, and devices that are away. Pure.

1. Where an offer may not be carried out at any time (`limits` or `windows`), one that was not taken up goes back to waiting when
   the window closes, or with limits after TAKE_UP. The time that it was out counts against `ack_deadline`, all offers together.
2. A device that is due but not there for `offline.after` is `unreachable`, offered or not; with `count: failed` it is a failure.
   When it comes back it joins: it takes up its document, or where that was recalled waits for its offer like the others.
3. Where there are limits, a device that failed, fell silent or stayed away is asked to stop: its document is taken back.

Source: ADR 0036.
"""

from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.messages import TRANSIENT, AssignmentState
from edgefleet_server.rollout.effects import Revert, StepReport
from edgefleet_server.rollout.model import OFFLINE, WAITING, Assignment, RolloutState
from edgefleet_server.rollout.planner import document_state
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.observe import DEAF
from edgefleet_server.rollout.spec.model import CountAs
from edgefleet_server.rollout.state_machines import UNSWITCHED, AssignmentEvent, moved
from edgefleet_server.rollout.throttle import leases

_S: Final = AssignmentState
_E: Final = AssignmentEvent
_OUT: Final = frozenset({_S.FAILED, _S.LOST, _S.UNREACHABLE})
_MAY_BE_ABSENT: Final = _OUT | {_S.OFFERED}
"""Where nothing is recalled, of all others nobody asks whether they are there."""
_TRANSIENT: Final = frozenset(one.value for one in TRANSIENT)


def waiting_again(a: Assignment, now: datetime, reason: str) -> Assignment:
    """Return an assignment whose offer was taken back before its device switched: it can be offered again."""
    return moved(a, _E.WITHDRAW, now, reason=reason, deadline=None, error_class="")


def stop_offer(plan: PlanBuilder, a: Assignment) -> None:
    """Take an offer's document back, so that the device does not go on by itself."""
    if document_state.asks_for_release(plan.snapshot, a, plan.withdrawn):
        is_candidate = document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn)
        plan.emit(Revert(a.device, is_rollback=False, is_beside=is_candidate))


def end_candidate(plan: PlanBuilder, a: Assignment) -> None:
    """End the candidate of a device that the rollout leaves without having made the release the active version."""
    if document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn):
        plan.emit(Revert(a.device, is_rollback=False, is_beside=True))


def withdraw(plan: PlanBuilder, reason: str) -> int:
    """Take back the offers of devices that are not at their switch yet; return how many."""
    before = len(plan.withdrawn)
    for a in list(plan.assignments.values()):
        if a.state not in UNSWITCHED or a.back_gen:
            continue
        if document_state.asks_for_release(plan.snapshot, a, plan.withdrawn):
            plan.move_assignment(a, waiting_again(a, plan.now, reason))
            is_candidate = document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn)
            plan.emit(Revert(a.device, is_rollback=False, is_beside=is_candidate))
            plan.withdrawn.add(a.device)
    return len(plan.withdrawn) - before


# ---- steps


def withdraw_while_paused(plan: PlanBuilder) -> StepReport | None:
    """Withdraw offers of a paused rollout, also of a device that was out of reach and takes its document up just now."""
    if plan.state is not RolloutState.PAUSED:
        return None
    devices = withdraw(plan, "paused before its switch")
    return StepReport("recall.withdraw_while_paused", f"{devices} offers withdrawn") if devices else None


def extend_due_times(plan: PlanBuilder) -> None:
    """Count the time in which the server was away as none in which a device was due."""
    if plan.snapshot.missed <= DEAF:
        return
    for a in list(plan.assignments.values()):
        if a.state in WAITING and a.due_at is not None:
            plan.update_assignment(a.but(due_at=min(plan.now, a.due_at + plan.snapshot.missed)))


def may_be_absent(a: Assignment) -> bool:
    """Return whether it matters, also where nothing is recalled, that a device is not there."""
    return a.state in _MAY_BE_ABSENT


def miss_if_absent(plan: PlanBuilder, a: Assignment) -> None:
    """Count a device as away when it is due and not there for too long; take its document back where there are limits."""
    spec, report = plan.snapshot.spec, plan.snapshot.reports.get(a.device)
    is_there = report is not None and report.is_online
    counts = OFFLINE if spec.offline.count is CountAs.FAILED else ""
    is_due = a.state is _S.OFFERED or (a.state is _S.ELIGIBLE and spec.recalls)
    if is_due and not is_there:
        seen = report.last_seen if report is not None else None
        begins = [moment for moment in (a.due_at or a.offered_at or a.entered_at, seen) if moment]
        if begins and plan.now >= max(begins) + spec.offline.after:
            reason = f"due, and not heard of since {max(begins):%Y-%m-%d %H:%MZ}"
            away = moved(a, _E.MISS, plan.now, reason=reason, ended_at=plan.now, deadline=None, error_class=counts)
            plan.move_assignment(a, away)
    elif a.state is _S.UNREACHABLE and a.entered_at == plan.now and not a.error_class:  # by its deadline, just now
        all_of_it = spec.device.ack.total_seconds() if is_there else a.unanswered_s
        plan.update_assignment(a.but(error_class="" if is_there else counts, unanswered_s=all_of_it))
    if spec.limits.are_set:
        _stop_if_out(plan, plan.assignments[a.device])


def _stop_if_out(plan: PlanBuilder, a: Assignment) -> None:
    """Take the document of a device back that failed, fell silent or stayed away in this pass."""
    is_out = a.state in _OUT and a.entered_at == plan.now and a.switched_at is None
    is_lasting = a.state is _S.FAILED and a.error_class not in _TRANSIENT
    if is_out and a.gen and not a.back_gen and not is_lasting:
        # after a lasting failure the device does not try again by itself, and its document tells what it failed at
        stop_offer(plan, a)


def offers(plan: PlanBuilder) -> StepReport | None:
    """Take back offers that were not taken up in time, and let devices that came back wait for an offer."""
    if not plan.snapshot.spec.recalls:
        return None
    before = len(plan.effects)
    failed = {track.stratum for track in plan.tracks() if track.has_failed}
    for a in list(plan.assignments.values()):
        if a.state is _S.OFFERED and not a.back_gen:
            if document_state.asks_for_release(plan.snapshot, a, plan.withdrawn):
                _recall(plan, a)
        elif a.state is _S.UNREACHABLE and a.stratum not in failed and _is_back(plan, a):
            reason = "was away and is back: waits for its offer"
            fresh = moved(a, _E.RETURN, plan.now, reason=reason, error_class="", ended_at=None, due_at=plan.now)
            plan.move_assignment(a, fresh)
    changes = len(plan.effects) - before
    return StepReport("recall.offers", f"{changes} changes to offers that were out") if changes else None


def _recall(plan: PlanBuilder, a: Assignment) -> None:
    out_for = plan.now - (a.offered_at or plan.now)
    is_late = plan.snapshot.spec.limits.are_set and out_for >= leases.TAKE_UP
    if plan.admission.is_in_window(a) and not is_late:
        return
    unanswered_s = a.unanswered_s + out_for.total_seconds()
    if unanswered_s >= plan.snapshot.spec.device.ack.total_seconds():
        reason = "took none of its offers up within ack_deadline, all together"
        plan.move_assignment(a, moved(a, _E.MISS, plan.now, reason=reason, ended_at=plan.now, deadline=None))
        plan.update_assignment(plan.assignments[a.device].but(unanswered_s=unanswered_s))
        stop_offer(plan, a)
        return
    reason = "did not take its offer up in time" if is_late else "its window closed before it took its offer up"
    again = waiting_again(a, plan.now, reason).but(
        unanswered_s=unanswered_s,
        retry_at=plan.now + leases.NEXT_OFFER if is_late else None,
    )
    plan.move_assignment(a, again)
    stop_offer(plan, a)


def _is_back(plan: PlanBuilder, a: Assignment) -> bool:
    report = plan.snapshot.reports.get(a.device)
    is_there = report is not None and report.is_online and not report.is_revoked
    if not is_there or a.back_gen or document_state.asks_as_its_stage_does(plan.snapshot, a, plan.withdrawn):
        return False
    return document_state.time_to_answer(plan.snapshot, a) > timedelta()

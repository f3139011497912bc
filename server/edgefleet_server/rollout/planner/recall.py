"""Offers that are taken back before their device switched, and devices that are away. Pure.

1. Where an offer may not be carried out at any time (`limits` or `windows`), one that was not taken up goes back to waiting when
   the window closes, or with limits after TAKE_UP. The time that it was out counts against `ack_deadline`, all offers together.
2. A device that is due but not there for `offline.after` is `unreachable`, offered or not; with `count: failed` it is a failure.
   When it comes back it joins: it takes up its document, or where that was recalled waits for its offer like the others.
3. Where there are limits, a device that failed, fell silent or stayed away is asked to stop: its document is taken back.

Source: ADR 0036.

When a device that failed is offered the release again by itself:
1. Only with `device.retries`. Without it the server leaves it to the device, which tries again by itself until its deadline.
2. A failure that says something about the moment (`network disk memory deadline`) and whose class is in `on` is tried again up to
   `max` times: the offer is taken back, so the device stops and its download is free for others; after the wait it is offered
   the release again with the next attempt. The counter is in the assignment's row.
3. Any other failure ends the assignment at once: a class that is not in `on`, the last try, and permanent classes always. These
   say something about the bundle, or about the device with it; the device has put the digest into quarantine.
4. The device's quarantine is respected also where the class alone would allow it: more memory than the bundle declares
   (`trial.over_declared`) is a property of the bundle, and what the device rolled back itself is not offered to it again, unless a
   person says so (`commands/retry`).
5. Before retry n (from 0) it waits for at least half of min(most, least x 2^n) and at most all of it. Where in between is a hash of
   salt, device and attempt: spread over devices, the same each time it is asked.

The half of a wait that is not random keeps it from being next to nothing.
"""

from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import HELD_CODE, QUARANTINED_CODES, TRANSIENT, AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout import admission
from edgefleet_server.rollout.effects import Revert, StepReport
from edgefleet_server.rollout.model import OFFLINE, WAITING, Assignment, Report, RolloutState
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner import document_state
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.observe import DEAF
from edgefleet_server.rollout.spec.model import CountAs, Mode, Retries
from edgefleet_server.rollout.state_machines import UNSWITCHED, AssignmentEvent, moved

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
        plan.emit(Revert(a.device, is_rollback=False, is_candidate=is_candidate))


def end_candidate(plan: PlanBuilder, a: Assignment) -> None:
    """End the candidate of a device that the rollout leaves without having made the release the active version."""
    if document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn):
        plan.emit(Revert(a.device, is_rollback=False, is_candidate=True))


def withdraw(
    plan: PlanBuilder, reason: str, stratum: str | None = None, but: AbstractSet[DeviceId] = frozenset()
) -> int:
    """Take back the offers of devices (of one stratum, or of all, but not these) that are not at their switch yet; return how many."""
    before = len(plan.withdrawn)
    for a in list(plan.assignments.values()):
        if a.state not in UNSWITCHED or a.back_gen or stratum not in (None, a.stratum) or a.device in but:
            continue
        if document_state.asks_for_release(plan.snapshot, a, plan.withdrawn):
            plan.move_assignment(a, waiting_again(a, plan.now, reason))
            is_candidate = document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn)
            plan.emit(Revert(a.device, is_rollback=False, is_candidate=is_candidate))
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
    is_late = plan.snapshot.spec.limits.are_set and out_for >= admission.TAKE_UP
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
        retry_at=plan.now + admission.NEXT_OFFER if is_late else None,
    )
    plan.move_assignment(a, again)
    stop_offer(plan, a)


def _is_back(plan: PlanBuilder, a: Assignment) -> bool:
    report = plan.snapshot.reports.get(a.device)
    is_there = report is not None and report.is_online and not report.is_revoked
    if not is_there or a.back_gen or document_state.asks_as_its_stage_does(plan.snapshot, a, plan.withdrawn):
        return False
    return document_state.time_to_answer(plan.snapshot, a) > timedelta()


# ---- the next try


_RANKS: Final = 2**64


class RetryOutcome(StrEnum):
    """What follows a failure of the moment."""

    AGAIN = "again"
    FAIL = "fail"


def sequel(a: Assignment, report: Report | None, digest: str, retries: Retries | None) -> RetryOutcome | None:
    """Return what follows what a device reports; None: nothing, it has not failed or is left to itself."""
    if retries is None or report is None or a.state not in UNSWITCHED or a.back_gen:
        return None
    is_this_try = report.wanted_sha256 == digest and report.attempt == a.attempt and report.reported_gen >= a.gen
    has_failed = report.phase is Phase.FAILED and report.error_code != HELD_CODE
    if not is_this_try or not has_failed or report.error_class not in TRANSIENT:
        return None
    return (
        RetryOutcome.AGAIN
        if may_retry(a.retries, report.error_class, report.error_code, retries)
        else RetryOutcome.FAIL
    )


def may_retry(done: int, error_class: ErrorClass, error_code: str, retries: Retries) -> bool:
    """Return whether a failure is tried again after `done` retries."""
    if error_class not in TRANSIENT or error_code in QUARANTINED_CODES:
        return False
    return error_class in retries.on and done < retries.max


def backoff(retries: Retries, done: int, salt: str, device: str) -> timedelta:
    """Return how long to wait before the next try, after `done` retries."""
    factor: int = 2 ** min(done, 32)
    least, most = retries.backoff
    whole = min(most, min(least, most) * factor)
    share = rank(f"{salt} retry {done}", device) / _RANKS
    return whole / 2 + whole / 2 * share


def follow_up(plan: PlanBuilder) -> StepReport | None:
    """Say of each device what follows when its try failed or when it is not there: its next try, or its end."""
    retries, recalls = plan.snapshot.spec.device.retries, plan.snapshot.spec.recalls
    before = len(plan.effects)
    for a in list(plan.assignments.values()):
        if retries is not None:
            _follow_up(plan, a, retries)
        now = plan.assignments[a.device]
        if recalls or may_be_absent(now):
            miss_if_absent(plan, now)
    changes = len(plan.effects) - before
    return StepReport("recall.follow_up", f"{changes} changes after failures and absence") if changes else None


def _follow_up(plan: PlanBuilder, a: Assignment, retries: Retries) -> None:
    report = plan.snapshot.reports.get(a.device)
    if document_state.mode_of(plan.snapshot, a.stage) is not Mode.ACTIVE:
        return  # a candidate that waits or is suspended has not failed: the device tries by itself
    outcome = sequel(a, report, document_state.digest_of(plan.snapshot, a.stratum), retries)
    if outcome is None:
        return
    assert report is not None
    assert report.error_class is not None
    message = report.reason or report.error_code or "the device gives no reason"
    if outcome is RetryOutcome.AGAIN:
        until = plan.now + backoff(retries, a.retries, plan.snapshot.salt, a.device)
        again = waiting_again(a, plan.now, "").but(retries=a.retries + 1, retry_at=until)
        plan.move_assignment(a, again.but(reason=_message(again, retries, until, message, report.error_class.value)))
        stop_offer(plan, a)
        return
    tail = f" (retried {a.retries} times)" if a.retries else ""
    failed = moved(
        a,
        AssignmentEvent.FAIL,
        plan.now,
        error_class=report.error_class.value,
        reason=message + tail,
        exposed_at=a.exposed_at or plan.now,
        ended_at=plan.now,
        deadline=None,
    )
    plan.move_assignment(a, failed)


def _message(a: Assignment, retries: Retries, until: datetime, reason: str, error_class: str) -> str:
    """Return why a device waits for its next try."""
    return f"{error_class}: {reason}; retry {a.retries} of {retries.max} not before {until:%Y-%m-%d %H:%M:%SZ}"

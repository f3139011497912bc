"""When a device that failed is offered the release again by itself: by error class, with a wait that doubles. Pure.

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

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from edgefleet_protocol.messages import HELD_CODE, QUARANTINED_CODES, TRANSIENT, ErrorClass, Phase
from edgefleet_server.rollout.bucketing import rank
from edgefleet_server.rollout.effects import StepReport
from edgefleet_server.rollout.model import Assignment, Report
from edgefleet_server.rollout.planner import document_state, recall
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.spec.model import Mode, Retries
from edgefleet_server.rollout.state_machines import UNSWITCHED, AssignmentEvent, moved

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
        if recalls or recall.may_be_absent(now):
            recall.miss_if_absent(plan, now)
    changes = len(plan.effects) - before
    return StepReport("auto_retry.follow_up", f"{changes} changes after failures and absence") if changes else None


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
        again = recall.waiting_again(a, plan.now, "").but(retries=a.retries + 1, retry_at=until)
        plan.move_assignment(a, again.but(reason=_message(again, retries, until, message, report.error_class.value)))
        recall.stop_offer(plan, a)
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

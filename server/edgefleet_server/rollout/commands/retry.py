"""A person's retry: which devices that failed may have another try, and what that does. Pure.

When the server tries again by itself is the business of `planner/recall`. Rules:
1. Only while the rollout runs, is paused or has finished: its release is still the one that is wanted. A finished one runs again until
   the devices that are tried again have an outcome; it takes in nobody new meanwhile.
2. Only on devices whose stratum was not stopped, that were not taken back, and whose document still names the release (or what they
   ran before, where limits asked them to stop): what somebody else deployed since is never written over.
3. Without `is_every` only failures that say something about the moment: `network disk memory deadline lost`. Of the others the device
   holds the digest in quarantine; it takes the same bytes again because the next offer has another attempt and a newer document.
4. A retry is no eraser. The failure stays evidence as long as the rollout lasts (`Assignment.failed_before`), the device counts once,
   and a second failure of it adds nothing unless its class weighs more. Only `promote` accepts failures, with a reason.
5. The device's document is taken back first, as before each automatic try, and the planner offers it again when its turn comes.

The device's side of rule 3 is `edgefleet_agent.install.desired_diff.quarantined`.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import TRANSIENT, AssignmentState
from edgefleet_server.rollout.effects import Plan, Revert
from edgefleet_server.rollout.model import LOST, Assignment, RolloutState, Snapshot
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.document_state import asks_for_release, mode_of
from edgefleet_server.rollout.planner.observe import OVERWRITTEN, REVOKED
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.state_machines import (
    AssignmentEvent,
    IllegalTransitionError,
    RolloutEvent,
    class_of,
    moved,
    standing_class,
    stands_failed,
)

RETRIED: Final = "retried"
"""Code of a rollout that runs again until the devices that are tried again have an outcome."""
OF_THE_MOMENT: Final = frozenset({one.value for one in TRANSIENT} | {LOST})
"""Classes of failures that a retry takes up without `is_every`."""
_STATES: Final = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FINISHED})
_S: Final = AssignmentState
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom a person means. is_every: also whose failure says something about the release; devices: only these, whatever failed there."""

    is_every: bool = False
    devices: tuple[DeviceId, ...] = ()


def plan_retry(snapshot: Snapshot, now: datetime, reason: str, choice: Choice) -> Plan:
    """Return what a person's retry does. Raises IllegalTransitionError when the rollout, or a device that is named, cannot."""
    if snapshot.state not in _STATES:
        raise IllegalTransitionError("devices are tried again in a rollout that runs, is paused or has finished")
    plan = PlanBuilder(snapshot, now)
    try_again(plan, reason, choice)
    return plan.build(now)


def try_again(plan: PlanBuilder, reason: str, choice: Choice) -> None:
    """Let the chosen devices wait for an offer again."""
    chosen = _chosen(plan, choice)
    if plan.state is RolloutState.FINISHED:
        more = "device is" if len(chosen) == 1 else "devices are"
        plan.move_rollout(RolloutEvent.REOPEN, RETRIED, f"{len(chosen)} {more} tried again: {reason}")
    for a in chosen:
        if asks_for_release(plan.snapshot, a, plan.withdrawn):
            plan.emit(Revert(a.device, is_rollback=False))
        plan.move_assignment(a, _waiting(a, plan.now, reason))


def _chosen(plan: PlanBuilder, choice: Choice) -> list[Assignment]:
    if choice.devices:
        return _named(plan, choice.devices)
    failed = [a for a in plan.assignments.values() if stands_failed(a)]
    able = [a for a in failed if not _why_not(plan, a)]
    chosen = [a for a in able if choice.is_every or standing_class(a) in OF_THE_MOMENT]
    if chosen:
        return chosen
    if able:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(standing_class(a) for a in able).most_common())
        raise IllegalTransitionError(f"no failure is one of the moment ({kinds}): `--failed` tries all of them again")
    if failed:
        raise IllegalTransitionError(f"{failed[0].device} {_why_not(plan, failed[0])}")
    raise IllegalTransitionError("no device of it has failed")


def _named(plan: PlanBuilder, devices: tuple[DeviceId, ...]) -> list[Assignment]:
    found = [(device, plan.assignments.get(device)) for device in sorted(set(devices))]
    wrong = [
        f"{device} {why}" for device, a in found if (why := "has no part in it" if a is None else _why_not(plan, a))
    ]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise IllegalTransitionError("; ".join(wrong[:_NAMED]) + more)
    return [a for _, a in found if a is not None]


def _why_not(plan: PlanBuilder, a: Assignment) -> str:
    """Return why a device cannot be tried again, "" when it can."""
    report, track = plan.snapshot.reports.get(a.device), plan.track(a.stratum)
    if not stands_failed(a) or a.state is _S.UNREACHABLE:
        return f"has not failed: it is {a.state}"
    if a.back_gen or track.has_failed:
        return "goes back: its stratum was stopped"
    if mode_of(plan.snapshot, a.stage) is not Mode.ACTIVE:
        return "ran the release beside its active version only"
    if track.has_ended and track.offering is None:
        return "is in no stage that can offer it again"
    if report is not None and report.is_revoked:
        return f"is out of reach: {REVOKED}"
    if not asks_for_release(plan.snapshot, a, plan.withdrawn) and not _was_asked_to_stop(plan, a):
        return f"is no longer this rollout's: {OVERWRITTEN}"
    return _why_no_member(plan, a)


def _was_asked_to_stop(plan: PlanBuilder, a: Assignment) -> bool:
    """Whether limits took the device's document back when it failed: it names what it ran before."""
    report = plan.snapshot.reports.get(a.device)
    before = "" if a.previous is None else a.previous.sha256
    return plan.snapshot.spec.limits.are_set and report is not None and report.wanted_by_server == before


def _why_no_member(plan: PlanBuilder, a: Assignment) -> str:
    """Return why the next pass would drop the device; said only while it is known which devices belong to the rollout."""
    if plan.state is not RolloutState.RUNNING:
        return ""
    if a.device in plan.members.pinned:
        return f"is pinned: {plan.members.pinned[a.device]}"
    is_member = any(m.device == a.device and m.stratum == a.stratum for m in plan.snapshot.members)
    return "" if is_member else "no longer matches the selector, or has another profile"


def _waiting(a: Assignment, now: datetime, reason: str) -> Assignment:
    """Return a device's assignment as it waits for its next offer. `exposed_at` stays: it did take the release up."""
    return moved(
        a,
        AssignmentEvent.TRY_AGAIN,
        now,
        reason=reason,
        error_class="",
        failed_before=class_of(a),
        switched_at=None,
        ended_at=None,
        deadline=None,
        retries=0,
        retry_at=None,
        due_at=now,
        unanswered_s=0.0,
    )

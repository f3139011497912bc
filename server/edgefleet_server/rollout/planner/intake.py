"""Which devices belong to a rollout and to which of its stages: excluded, enrolled, promoted from candidate, dropped. Pure.

- A device that takes part stays one of its stratum, also when the selector (`model.x=1.0.0`) no longer matches: else stages would be
  percentages of what is left.
- One that was excluded or dropped, or has another stratum now, stays as it is.
- Once all devices of a stage have answered, those that come to it are joiners, a few at a time.
Source: ADR 0034, ADR 0035.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import StepReport
from edgefleet_server.rollout.model import Assignment, Member, StageRun, StageState
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner import recall
from edgefleet_server.rollout.planner.builder import PlanBuilder, StratumTrack
from edgefleet_server.rollout.planner.document_state import mode_of
from edgefleet_server.rollout.spec.model import profile_of
from edgefleet_server.rollout.state_machines import (
    EXPOSED_STATES,
    IN_FLIGHT,
    OUTSIDE,
    UNSWITCHED,
    AssignmentEvent,
    moved,
)

JOINER_SHARE: Final = 0.1
_S: Final = AssignmentState
_E: Final = AssignmentEvent
_NOBODY: Final[frozenset[DeviceId]] = frozenset()

# ---- which devices


def devices_of(plan: PlanBuilder, run: StageRun) -> Iterator[Assignment]:
    """Return the devices of a stage run: those of its stratum, of all stages up to it that have its mode."""
    mode = mode_of(plan.snapshot, run.stage)
    stages = {stage for stage in range(run.stage + 1) if mode_of(plan.snapshot, stage) is mode}
    stratum = run.stratum
    return (a for a in plan.assignments.values() if a.stratum == stratum and a.stage in stages)


def count_open(plan: PlanBuilder, run: StageRun) -> int:
    """Return how many devices of a stage run have no outcome yet."""
    return sum(a.state in IN_FLIGHT or a.state is _S.ELIGIBLE for a in devices_of(plan, run))


def count_enrolled(plan: PlanBuilder, stratum: ProfileName) -> int:
    """Return how many devices of a stratum stages have taken in that opened for them."""
    return sum(a.stratum == stratum and not a.is_joiner for a in plan.assignments.values())


def fresh_members(plan: PlanBuilder) -> Iterator[Member]:
    """Yield the members that nothing was decided of yet."""
    return (m for m in plan.snapshot.members if m.device not in plan.assignments)


def buckets_of(plan: PlanBuilder, stratum: ProfileName) -> dict[DeviceId, int]:
    """Return the buckets of a stratum's devices, those that take part and those that may."""
    known = plan.buckets.get(stratum)
    if known is None:
        devices = {m.device for m in fresh_members(plan) if m.stratum == stratum}
        devices |= {a.device for a in plan.assignments.values() if a.stratum == stratum and a.state not in OUTSIDE}
        known = plan.buckets[stratum] = {device: rank(plan.snapshot.salt, device) for device in devices}
    return known


def reach_of(plan: PlanBuilder, run: StageRun) -> dict[DeviceId, int]:
    """Return the buckets of devices that may be in a stage run, or belong to the rollout already."""
    buckets, barred = buckets_of(plan, run.stratum), plan.members.barred.get(run.stage, _NOBODY)
    if not barred:
        return buckets
    return {device: bucket for device, bucket in buckets.items() if device not in barred or device in plan.assignments}


def cutoff_before(plan: PlanBuilder, track: StratumTrack, stage: int) -> int:
    """Return the highest cutoff of the stages that take from the same devices: sizes only grow among those."""
    stages = plan.snapshot.spec.stages
    match = stages[stage].match
    return max((run.cut for run in track.runs if stages[run.stage].match == match), default=0)


# ---- steps


def exclude_pinned(plan: PlanBuilder) -> StepReport | None:
    """Say of each device that is pinned why it takes no part."""
    if runs_for_retries(plan):
        return None
    pinned = [m for m in plan.snapshot.members if m.pinned and m.device not in plan.assignments]
    for member in pinned:
        _exclude(plan, member, _E.CANCEL, f"pinned: {member.pinned}")
    return StepReport("intake.exclude_pinned", f"{len(pinned)} devices excluded") if pinned else None


def exclude_unfit(plan: PlanBuilder) -> StepReport | None:
    """Say of each device for whose profile there is no bundle that it cannot take part."""
    if runs_for_retries(plan):
        return None
    bundles = plan.snapshot.bundles
    unfit = [m for m in plan.snapshot.members if m.stratum not in bundles and m.device not in plan.assignments]
    for member in unfit:
        reason = f"the release has no bundle for profile {profile_of(member.stratum)}"
        _exclude(plan, member, _E.UNFIT, reason)
    return StepReport("intake.exclude_unfit", f"{len(unfit)} devices excluded") if unfit else None


def runs_for_retries(plan: PlanBuilder) -> bool:
    """Return whether all stages are over and it runs only for devices that are tried again: it enrolls nobody then."""
    is_over = bool(plan.stage_runs) and all(track.has_ended for track in plan.tracks())
    return is_over and any(a.failed_before for a in plan.assignments.values())


def _exclude(plan: PlanBuilder, member: Member, event: AssignmentEvent, reason: str) -> None:
    """Make an assignment that takes no part, with its reason."""
    fresh = Assignment(member.device, 0, member.stratum, _S.ELIGIBLE, entered_at=plan.now)
    plan.create_assignment(fresh)
    plan.move_assignment(fresh, moved(fresh, event, plan.now, reason=reason, ended_at=plan.now))


# ---- what a stage does with devices


def enroll(plan: PlanBuilder, track: StratumTrack, run: StageRun) -> None:
    """Assign the members below the cutoff, and promote candidates that the stage reaches; drop those that no longer belong."""
    buckets = reach_of(plan, run)
    new = sorted(
        (d for d, bucket in buckets.items() if bucket < run.cut and d not in plan.assignments), key=buckets.__getitem__
    )
    _promote_candidates(plan, run, buckets)
    left = _left_from_opening(plan, run) if new else 0
    for place, device in enumerate(new[: _room_for_joiners(plan, run)]):
        fresh = Assignment(
            device=device,
            stage=_stage_for(plan, track, run, device, buckets[device]),
            stratum=run.stratum,
            state=_S.ELIGIBLE,
            is_joiner=place >= left,
            entered_at=plan.now,
            due_at=plan.now,
        )
        plan.create_assignment(fresh)
    drop(plan, devices_of(plan, run))


def drop(plan: PlanBuilder, devices: Iterable[Assignment]) -> None:
    """Take out devices that wait for an offer and no longer belong: no longer matched, pinned, or of another stratum."""
    pinned = plan.members.pinned
    for a in [a for a in devices if a.state is _S.ELIGIBLE]:
        stratum = plan.members.strata.get(a.device)
        if stratum == a.stratum and a.device not in pinned:
            continue
        what = "stratum" if "/" in a.stratum else "profile"
        reason = "no longer matches the selector" if stratum is None else f"its {what} is {stratum} now"
        if a.device in pinned:
            reason = f"pinned: {pinned[a.device]}"
        recall.end_candidate(plan, a)
        plan.move_assignment(a, moved(a, _E.CANCEL, plan.now, reason=reason, ended_at=plan.now))


def _promote_candidates(plan: PlanBuilder, run: StageRun, buckets: dict[DeviceId, int]) -> None:
    """Take devices that run the release as a candidate into a stage of another mode that reaches them."""
    mode, barred = mode_of(plan.snapshot, run.stage), plan.members.barred.get(run.stage, _NOBODY)
    for a in [a for a in plan.assignments.values() if a.stratum == run.stratum and a.stage < run.stage]:
        is_due = mode_of(plan.snapshot, a.stage) is not mode and buckets.get(a.device, run.cut) < run.cut
        if not is_due or a.back_gen or a.device in barred:
            continue
        fresh: dict[str, Any] = {
            "stage": run.stage,
            "exposed_at": None,
            "switched_at": None,
            "ended_at": None,
            "is_joiner": False,
            "due_at": plan.now,
            "retries": 0,
            "retry_at": None,
            "unanswered_s": 0.0,
        }
        if a.state in (_S.HEALTHY, _S.UNREACHABLE):
            plan.move_assignment(a, moved(a, _E.GO_ON, plan.now, reason="", error_class="", **fresh))
        elif a.state in UNSWITCHED:
            plan.move_assignment(a, recall.waiting_again(a, plan.now, "").but(**fresh))
        elif a.state is _S.ELIGIBLE:
            plan.update_assignment(a.but(**fresh))


def _stage_for(plan: PlanBuilder, track: StratumTrack, run: StageRun, device: DeviceId, bucket: int) -> int:
    """Return the stage to which a device below the cutoff of `run` belongs: the first one of its mode that takes it."""
    mode = mode_of(plan.snapshot, run.stage)
    barred = plan.members.barred
    return next(
        one.stage
        for one in track.runs
        if one.stage == run.stage
        or (
            bucket < one.cut
            and mode_of(plan.snapshot, one.stage) is mode
            and device not in barred.get(one.stage, _NOBODY)
        )
    )


def _left_from_opening(plan: PlanBuilder, run: StageRun) -> int:
    """Return how many of those that the stage opened for are not enrolled: all of them when it opens, some after an interruption."""
    if run.state is not StageState.EXPOSING:
        return 0
    return max(0, run.intake - count_enrolled(plan, run.stratum))


def _room_for_joiners(plan: PlanBuilder, run: StageRun) -> int | None:
    if run.state is StageState.EXPOSING:
        return None
    devices = list(devices_of(plan, run))
    exposed = sum(a.state in EXPOSED_STATES for a in devices)
    flying = sum(a.is_joiner and (a.state in IN_FLIGHT or a.state is _S.ELIGIBLE) for a in devices)
    return max(0, max(1, int(exposed * JOINER_SHARE)) - flying)

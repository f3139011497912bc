"""What a person may ask of a rollout: pause, resume, abort, promote, skip, approve, deny. Pure: a snapshot and the time in, a plan out.

The reason is the person's; the service writes who they are.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import Plan
from edgefleet_server.rollout.model import RolloutState, Snapshot, StageState, Strength, VerdictKind
from edgefleet_server.rollout.planner import completion, intake, recall, stages
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.document_state import needs_rollback
from edgefleet_server.rollout.planner.stages import (
    DENIED,
    awaiting_approval,
    with_approval,
    without_question,
)
from edgefleet_server.rollout.planner.stops import resume
from edgefleet_server.rollout.spec.model import OnFail
from edgefleet_server.rollout.state_machines import (
    CELL_OPEN,
    IN_FLIGHT,
    ROLLOUT_WALKS,
    AssignmentEvent,
    IllegalTransitionError,
    RolloutEvent,
    StageEvent,
    is_failure,
    moved,
)

ABORTED: Final = "aborted"
WITHDRAWN: Final = "withdrawn"
_S: Final = AssignmentState
_E: Final = AssignmentEvent
_STARTED: Final = CELL_OPEN | {StageState.HELD}
_WALKS_ON: Final = ROLLOUT_WALKS | {RolloutState.PAUSED}


def plan_pause(snapshot: Snapshot, now: datetime, reason: str) -> Plan:
    """Return what a person's pause does. Raises IllegalTransitionError unless the rollout runs."""
    plan = PlanBuilder(snapshot, now)
    stages.pause(plan, "paused", reason)
    return plan.build(completion.next_pass(plan))


def plan_resume(snapshot: Snapshot, now: datetime, reason: str) -> Plan:
    """Return what a person's resume does: held stages are judged again. Raises IllegalTransitionError unless it is paused."""
    plan = PlanBuilder(snapshot, now)
    resume(plan, reason)
    return plan.build(now)


def plan_abort(snapshot: Snapshot, now: datetime, reason: str, *, rollback: bool) -> Plan:
    """Return what a person's abort does. Raises IllegalTransitionError when the rollout has ended.

    rollback: what every device ran before is given back; else what has switched stays, and the rest is withdrawn.
    """
    plan = PlanBuilder(snapshot, now)
    abort(plan, reason, rollback=rollback)
    return plan.build(now)


def plan_promotion(snapshot: Snapshot, now: datetime, reason: str, stratum: str | None) -> Plan:
    """Return what a person's promotion does: the open stage of one stratum (None: of all) passes on their word.

    Failures so far are accepted: they are no evidence any more. A rollout that was paused goes on. Raises
    IllegalTransitionError when it has ended. Without an open stage the plan is empty.
    """
    plan = PlanBuilder(snapshot, now)
    promote(plan, reason, stratum)
    return plan.build(now)


def plan_skip(snapshot: Snapshot, now: datetime, reason: str, stage: int, stratum: str | None) -> Plan:
    """Return what leaves a stage out that has not opened, in one stratum (None: in all): its devices belong to the next one.

    Raises IllegalTransitionError for the last stage, and when the rollout does not run. Where it has opened the plan is empty.
    """
    plan = PlanBuilder(snapshot, now)
    skip(plan, reason, stage, stratum)
    return plan.build(now)


def plan_supersede(snapshot: Snapshot, now: datetime, reason: str) -> Plan:
    """Return what a newer rollout does to this one: what has switched stays, and the rest is withdrawn.

    Raises IllegalTransitionError when it has ended.
    """
    plan = PlanBuilder(snapshot, now)
    leave(plan, "superseded", reason, RolloutEvent.SUPERSEDE, _E.SUPERSEDE)
    return plan.build(now)


def plan_withdrawal(snapshot: Snapshot, now: datetime, reason: str) -> Plan:
    """Return what becomes of an open rollout whose release is withdrawn: what has switched stays, and the rest is taken back.

    Raises IllegalTransitionError when it has ended, or is rolling back already.
    """
    plan = PlanBuilder(snapshot, now)
    leave(plan, WITHDRAWN, reason, RolloutEvent.CANCEL, _E.CANCEL)
    return plan.build(now)


def plan_approval(snapshot: Snapshot, now: datetime, by: str, reason: str, stratum: str | None) -> Plan:
    """Return what an approval does: the stages that wait for it (of one stratum, or of all) may open. Empty when none waits."""
    plan = PlanBuilder(snapshot, now)
    for run in awaiting_approval(plan.stage_runs.values(), stratum):
        plan.update_stage_run(with_approval(run, by, reason))
    return plan.build(now)


def plan_denial(snapshot: Snapshot, now: datetime, reason: str, stratum: str | None) -> Plan:
    """Return what a denial does: the stages that wait fail, or with `on_fail: pause` the rollout is paused. Empty when none waits.

    Where nothing was offered yet there is nothing to take back: the rollout is cancelled.
    """
    plan = PlanBuilder(snapshot, now)
    deny(plan, reason, stratum)
    return plan.build(now)


def deny(plan: PlanBuilder, reason: str, stratum: str | None) -> None:
    """Act on a refusal."""
    runs = awaiting_approval(plan.stage_runs.values(), stratum)
    if runs and not any(a.gen for a in plan.assignments.values()) and len(runs) == len(plan.tracks()):
        leave(plan, DENIED, reason, RolloutEvent.CANCEL, _E.CANCEL)
        return
    for run in runs:
        if plan.snapshot.spec.on_fail is OnFail.PAUSE:
            plan.update_stage_run(without_question(run, DENIED, reason))
        else:
            stages.fail_unopened(plan, run, DENIED, reason)
    if runs and plan.snapshot.spec.on_fail is OnFail.PAUSE:
        stages.pause(plan, DENIED, reason)


def abort(plan: PlanBuilder, reason: str, *, rollback: bool) -> None:
    """End the rollout at a person's word."""
    if not rollback:
        leave(plan, ABORTED, reason, RolloutEvent.CANCEL, _E.CANCEL)
        return
    for run in list(plan.stage_runs.values()):
        if run.state in _STARTED:
            stages.fail(plan, run, ABORTED, reason)
    plan.move_rollout(RolloutEvent.ROLL_BACK, ABORTED, reason)


def leave(plan: PlanBuilder, word: str, reason: str, event: RolloutEvent, outcome: AssignmentEvent) -> None:
    """End the rollout where it stands: what serves the release keeps it, everything else is withdrawn."""
    for run in list(plan.stage_runs.values()):
        if run.state in _STARTED and run.state is not StageState.HELD:
            stages.move_stage_run(plan, replace(run, code=word, reason=reason), StageEvent.HOLD)
    plan.move_rollout(event, word, reason)
    recall.withdraw(plan, reason=f"{word} before its switch")
    _withdraw_from_absent(plan, word, outcome)
    for a in list(plan.assignments.values()):
        if a.state not in IN_FLIGHT:
            recall.end_candidate(plan, a)
        if a.state is _S.ELIGIBLE or a.state in IN_FLIGHT:
            message = f"{word}; the device keeps the release" if a.state in IN_FLIGHT else f"{word} before its switch"
            if a.back_gen:
                message = f"{word} while it was being taken back"
            plan.move_assignment(a, moved(a, outcome, plan.now, reason=message, ended_at=plan.now, deadline=None))


def _withdraw_from_absent(plan: PlanBuilder, word: str, outcome: AssignmentEvent) -> None:
    """Take back the offers of devices out of reach: else one that returns after the hold has ended would still follow them."""
    for a in list(plan.assignments.values()):
        if a.state is _S.UNREACHABLE and needs_rollback(a):
            recall.stop_offer(plan, a)
            message = f"{word} before it took up its document"
            plan.move_assignment(a, moved(a, outcome, plan.now, reason=message, ended_at=plan.now, deadline=None))


def skip(plan: PlanBuilder, reason: str, stage: int, stratum: str | None) -> None:
    """Leave out a stage that has not opened."""
    if plan.state not in _WALKS_ON:
        raise IllegalTransitionError(f"no stage is left out of a rollout that is {plan.state}")
    if stage == len(plan.snapshot.spec.stages) - 1:
        raise IllegalTransitionError("the last stage is the one that all others lead to")
    for run in list(plan.stage_runs.values()):
        if run.stage == stage and run.state is StageState.PENDING and stratum in (None, run.stratum):
            left_out = replace(run, code="skipped", reason=reason, strength=Strength.OVERRIDE, ended_at=plan.now)
            stages.move_stage_run(plan, left_out, StageEvent.SKIP)
    has_asked = bool(awaiting_approval(plan.stage_runs.values()))
    if plan.state is RolloutState.AWAITING_APPROVAL and not has_asked:
        plan.move_rollout(RolloutEvent.START, "skipped", reason)


def promote(plan: PlanBuilder, reason: str, stratum: str | None) -> None:
    """Let open stages pass at a person's word."""
    if plan.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise IllegalTransitionError(f"no stage passes in a rollout that is {plan.state}")
    chosen = [run for run in plan.stage_runs.values() if (run.state in _STARTED) and stratum in (None, run.stratum)]
    if chosen and plan.state is RolloutState.PAUSED:
        resume(plan, reason)
    for run in [plan.stage_runs[run.stratum, run.stage] for run in chosen]:
        for a in [a for a in intake.devices_of(plan, run) if is_failure(a) and not a.is_accepted]:
            plan.update_assignment(a.but(is_accepted=True))
        passed = replace(
            run,
            verdict=VerdictKind.ADVANCE,
            code="promoted",
            reason=reason,
            strength=Strength.OVERRIDE,
            bound="",
            ended_at=plan.now,
        )
        stages.move_stage_run(plan, passed, StageEvent.PASS)

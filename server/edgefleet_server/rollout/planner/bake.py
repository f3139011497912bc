"""A finished rollout that turns out bad: finished, regressed, rolled back. Pure.

For a day after its end, or the `watch` of its quality gate, a rollout is
looked at once a minute, a huge one every ten: devices that fall back by themselves, and values that came late, are evidence as before.
The same rules decide; what a person let pass is not turned against them (`facts`), and a wait that led nowhere is none of a finished
rollout's business. Source: ADR 0058.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.rollout.analysis import decide
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import Pause, RollBack
from edgefleet_server.rollout.effects import DecisionMade, Plan, StepReport
from edgefleet_server.rollout.model import RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.completion import LOOK_FOR_LATE
from edgefleet_server.rollout.planner.document_state import HUGE
from edgefleet_server.rollout.spec.model import WATCH, OnFail
from edgefleet_server.rollout.state_machines import RolloutEvent

LOOK_AT_HUGE: Final = timedelta(minutes=10)
"""A look at more than HUGE devices takes seconds of a processor."""
_LATE: Final = frozenset({RolloutState.FINISHED, RolloutState.REGRESSED})


def plan_regression(snapshot: Snapshot, now: datetime, code: str, reason: str) -> Plan:
    """Return what makes a finished rollout a regressed one, for a person to decide. Raises IllegalTransitionError in any other state."""
    plan = PlanBuilder(snapshot, now)
    plan.move_rollout(RolloutEvent.REGRESS, code, reason)
    return plan.build(now)


def is_watched(snapshot: Snapshot, now: datetime) -> bool:
    """Return whether a rollout is still looked at after its end."""
    gate = snapshot.spec.gates.quality
    ended = max((run.ended_at for run in snapshot.cells if run.ended_at is not None), default=None)
    return ended is not None and now < ended + (WATCH if gate is None else gate.watch)


def reopen_if_bad(plan: PlanBuilder) -> StepReport | None:
    """Reopen a finished rollout whose evidence has turned against its release; with `on_fail: rollback` take it back at once."""
    if not is_watched(plan.snapshot, plan.now):
        return None
    for run in _last_passed(plan):
        if _reopens(plan, run):
            return StepReport("bake.reopen_if_bad", plan.cause[1])
    return None


def _last_passed(plan: PlanBuilder) -> list[StageRun]:
    """Return the last stage that passed of each stratum that has not failed."""
    tracks = [track for track in plan.tracks() if not track.has_failed]
    passed = [[run for run in track.runs if run.state is StageState.PASSED] for track in tracks]
    return [runs[-1] for runs in passed if runs]


def _reopens(plan: PlanBuilder, run: StageRun) -> bool:
    facts = facts_of(plan.snapshot, run, plan.assignments.values(), plan.now)
    decision = decide.decide(facts)
    if not isinstance(decision, RollBack | Pause) or decision.code == decide.INCONCLUSIVE:
        return False
    plan.emit(DecisionMade(facts, decision))
    reason = f"after it had finished, {run.stratum}: {decision.reason}"
    plan.move_rollout(RolloutEvent.REGRESS, decision.code, reason)
    if plan.snapshot.spec.on_fail is OnFail.ROLLBACK:
        plan.move_rollout(RolloutEvent.ROLL_BACK, decision.code, reason)
    plan.cause = decision.code, reason
    return True


def update_reasons(plan: PlanBuilder) -> StepReport | None:
    """Say of each stratum of a reopened rollout what its evidence is by now; a new verdict is stored with it."""
    if not is_watched(plan.snapshot, plan.now):
        return None
    changed = []
    for run in _last_passed(plan):
        facts = facts_of(plan.snapshot, run, plan.assignments.values(), plan.now)
        decision = decide.decide(facts)
        if decision.code == decide.INCONCLUSIVE or (decision.code, decision.reason) == (run.code, run.reason):
            continue
        if decision.code != run.code:
            plan.emit(DecisionMade(facts, decision))
        plan.update_stage_run(replace(run, code=decision.code, reason=decision.reason))
        changed.append(run.stratum)
    return StepReport("bake.update_reasons", f"new evidence in {', '.join(changed)}") if changed else None


def next_pass(plan: PlanBuilder) -> datetime | None:
    """Return when a rollout is to be looked at again after its end, None when it is not."""
    if plan.state not in _LATE or not is_watched(plan.snapshot, plan.now):
        return None
    return plan.now + (LOOK_FOR_LATE if len(plan.assignments) <= HUGE else LOOK_AT_HUGE)

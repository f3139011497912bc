"""Changes of a rollout and its stage runs that several steps and commands make. Pure.

A rollout that waits for an approval runs again as soon as anything of it moves.
"""

from dataclasses import replace

from edgefleet_server.rollout.model import RolloutState, StageRun, VerdictKind
from edgefleet_server.rollout.planner import document_state, intake, recall
from edgefleet_server.rollout.planner.approvals import APPROVED
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.state_machines import RolloutEvent, StageEvent


def run_again(plan: PlanBuilder) -> None:
    """Run again where the rollout waits for an approval."""
    if plan.state is RolloutState.AWAITING_APPROVAL:
        plan.move_rollout(RolloutEvent.START, APPROVED, "a stage may open, or has ended")


def move_stage_run(plan: PlanBuilder, run: StageRun, event: StageEvent) -> StageRun:
    """Move a stage run of a rollout that runs, or runs again by it. Raises IllegalTransitionError."""
    run_again(plan)
    return plan.move_stage_run(run, event)


def failed(plan: PlanBuilder, run: StageRun, code: str, message: str) -> StageRun:
    """Return a stage run with the verdict that it failed, before it moves."""
    return replace(run, verdict=VerdictKind.ROLL_BACK, code=code, reason=message, ended_at=plan.now)


def fail(plan: PlanBuilder, run: StageRun, code: str, message: str) -> None:
    """Fail a stage run: what was offered in its stratum is taken back."""
    move_stage_run(plan, failed(plan, run, code, message), StageEvent.FAIL)


def fail_unopened(plan: PlanBuilder, run: StageRun, code: str, message: str) -> None:
    """Fail a stage that waits: nothing was offered in it, and what the stages before it offered is taken back."""
    cutoff = intake.cutoff_before(plan, plan.track(run.stratum), run.stage)  # it reaches nobody new
    digest = document_state.digest_of(plan.snapshot, run.stratum)
    opened = replace(run, cut=cutoff, code=code, reason=message, opened_at=plan.now, digest=digest)
    fail(plan, move_stage_run(plan, opened, StageEvent.OPEN), code, message)


def pause(plan: PlanBuilder, code: str, message: str) -> None:
    """Stop offering: what is not at its switch yet goes back to waiting."""
    plan.move_rollout(RolloutEvent.PAUSE, code, message)
    recall.withdraw(plan, "paused before its switch")

"""Strata that stopped for a person: the rollout pauses around them, and takes them back once failures exceed what liars explain. Pure.

1. Evidence of failures that liars may have invented stops a stratum: it is held, and its offers are withdrawn. The other strata go on.
   Evidence of all strata together stops the whole rollout.
2. When nothing else of the rollout moves, it is paused. A person resumes, promotes, or takes the release back.
3. Devices that have the release go on reporting. Once the evidence takes the release back, that happens without a person, paused or not.
   A rollout that had paused for that stratum alone then goes on with the others.

Source: ADR 0082.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from edgefleet_server.rollout.analysis import decide
from edgefleet_server.rollout.analysis.budget_facts import BUDGET_LOW
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import RollBack
from edgefleet_server.rollout.analysis.stage_gates import GATE_OPENING
from edgefleet_server.rollout.effects import DecisionMade, StepReport
from edgefleet_server.rollout.model import RolloutState, StageRun, StageState
from edgefleet_server.rollout.planner import stages
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.stages import awaits_approval, move_stage_run, without_question
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS, RolloutEvent, StageEvent

# ---- steps


OPENS_BY_ITSELF: Final = frozenset({GATE_OPENING, BUDGET_LOW})
"""Codes of stages that have not opened and wait for no person."""


def take_back(plan: PlanBuilder) -> StepReport | None:
    """Fail each stopped stratum whose evidence takes the release back by now."""
    taken = [run.stratum for run, judged in list(_stopped(plan)) if _is_taken_back(plan, run, judged)]
    if not taken:
        return None
    is_settled = plan.state is RolloutState.PAUSED and plan.cause[0] in decide.STOPS and not any(_stopped(plan))
    if is_settled:
        resume(plan, f"what had stopped is taken back: {', '.join(taken)}")
    return StepReport("stops.take_back", f"{', '.join(taken)} taken back")


def pause(plan: PlanBuilder) -> StepReport | None:
    """Pause the rollout when a stratum has stopped and no other one moves."""
    runs = [track.current for track in plan.tracks() if not track.has_ended]
    stopped = [run for run, _ in _stopped(plan)]
    if not stopped or plan.state not in ROLLOUT_WALKS or any(run is not None and _moves(run) for run in runs):
        return None
    stages.pause(plan, stopped[0].code, "; ".join(f"{run.stratum}: {run.reason}" for run in stopped))
    return StepReport("stops.pause", f"paused for {', '.join(run.stratum for run in stopped)}")


def _moves(run: StageRun) -> bool:
    """Return whether a stage goes on by itself: one that has not opened waits for a person or for other strata, unless a gate is asked."""
    waits = run.state is StageState.HELD or (run.state is StageState.PENDING and run.code not in OPENS_BY_ITSELF)
    return not waits


def _stopped(plan: PlanBuilder) -> Iterator[tuple[StageRun, StageRun]]:
    """Yield the stages that stopped, each with the one whose devices are its evidence: the one before, if it had not opened."""
    for track in plan.tracks():
        run = track.current
        if run is None or track.has_failed or run.code not in decide.STOPS:
            continue
        if run.state is StageState.HELD:
            yield run, run
        elif run.state is StageState.PENDING and run.stage:
            yield run, track.runs[run.stage - 1]


def _is_taken_back(plan: PlanBuilder, run: StageRun, judged: StageRun) -> bool:
    if plan.track(run.stratum).has_failed:
        return False  # with another stratum, on the evidence of all together
    facts = facts_of(plan.snapshot, judged, plan.assignments.values(), plan.now)
    decision = decide.decide(facts)
    # time alone takes nothing back here: a person was asked
    if not isinstance(decision, RollBack) or decision.code == decide.INCONCLUSIVE:
        return False
    plan.emit(DecisionMade(facts, decision))
    fail = stages.fail if run.state is StageState.HELD else stages.fail_unopened
    fail(plan, run, decision.code, decision.reason)
    if decision.pooled:
        stages.fail_the_others(plan, run, decision)
    return True


# ---- going on after a pause


def resume(plan: PlanBuilder, reason: str) -> None:
    """Go on: held stages are open again, and withdrawn devices will be offered the release again."""
    plan.move_rollout(RolloutEvent.RESUME, "resumed", reason)
    for run in list(plan.stage_runs.values()):
        if run.state is StageState.HELD:
            released = replace(run, resumed_at=plan.now, verdict=None, code="resumed", reason=reason)
            move_stage_run(plan, released, StageEvent.RELEASE)
        elif run.state in (StageState.SOAKING, StageState.JUDGING):
            move_stage_run(plan, replace(run, resumed_at=plan.now, code="resumed", reason=reason), StageEvent.UNSETTLED)
        elif run.state is StageState.EXPOSING:
            plan.update_stage_run(replace(run, resumed_at=plan.now))  # the pause is no time without a verdict
        elif awaits_approval(run):
            plan.update_stage_run(without_question(run, "resumed", reason))  # nobody was to answer meanwhile

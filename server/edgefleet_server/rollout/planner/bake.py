"""A finished rollout that turns out bad: finished, regressed, rolled back. Pure.

Its own module because it is about what comes after the end. For a day after its end, or the `watch` of its quality gate, a rollout is
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
from edgefleet_server.rollout.effects import DecisionMade, Plan
from edgefleet_server.rollout.model import RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner.builder import HUGE, LOOK_FOR_LATE, Draft
from edgefleet_server.rollout.spec.model import WATCH, OnFail
from edgefleet_server.rollout.state_machines import RolloutEvent

LOOK_AT_HUGE: Final = timedelta(minutes=10)
"""A look at more than HUGE devices takes seconds of a processor."""
_LATE: Final = frozenset({RolloutState.FINISHED, RolloutState.REGRESSED})


def plan_regression(snapshot: Snapshot, now: datetime, code: str, reason: str) -> Plan:
    """Return what makes a finished rollout a regressed one, for a person to decide. Raises IllegalTransitionError in any other state."""
    work = Draft(snapshot, now)
    work.move_rollout(RolloutEvent.REGRESS, code, reason)
    return Plan(tuple(work.effects), now)


def is_watched(snapshot: Snapshot, now: datetime) -> bool:
    """Return whether a rollout is still looked at after its end."""
    gate = snapshot.spec.quality
    ended = max((cell.ended_at for cell in snapshot.cells if cell.ended_at is not None), default=None)
    return ended is not None and now < ended + (WATCH if gate is None else gate.watch)


def reopen_if_bad(work: Draft) -> None:
    """Reopen a finished rollout whose evidence has turned against its release; with `on_fail: rollback` take it back at once."""
    if not is_watched(work.snapshot, work.now):
        return
    for lane in work.lanes():
        passed = [cell for cell in lane.cells if cell.state is StageState.PASSED]
        if passed and not lane.has_failed and _reopens(work, passed[-1]):
            return


def _reopens(work: Draft, cell: StageRun) -> bool:
    facts = facts_of(work.snapshot, cell, work.assignments.values(), work.now)
    decision = decide.decide(facts)
    if not isinstance(decision, RollBack | Pause) or decision.code == decide.INCONCLUSIVE:
        return False
    work.effects.append(DecisionMade(facts, decision))
    reason = f"after it had finished, {cell.stratum}: {decision.reason}"
    work.move_rollout(RolloutEvent.REGRESS, decision.code, reason)
    if work.snapshot.spec.on_fail is OnFail.ROLLBACK:
        work.move_rollout(RolloutEvent.ROLL_BACK, decision.code, reason)
    work.told = decision.code, reason
    return True


def tell_anew(work: Draft) -> None:
    """Say of each stratum of a reopened rollout what its evidence is by now; a new verdict is stored with it."""
    if not is_watched(work.snapshot, work.now):
        return
    for lane in work.lanes():
        passed = [cell for cell in lane.cells if cell.state is StageState.PASSED]
        if not passed or lane.has_failed:
            continue
        cell = passed[-1]
        facts = facts_of(work.snapshot, cell, work.assignments.values(), work.now)
        decision = decide.decide(facts)
        if decision.code == decide.INCONCLUSIVE or (decision.code, decision.reason) == (cell.code, cell.reason):
            continue
        if decision.code != cell.code:
            work.effects.append(DecisionMade(facts, decision))
        work.note_cell(replace(cell, code=decision.code, reason=decision.reason))


def next_late_look(work: Draft) -> datetime | None:
    """Return when a rollout is to be looked at again after its end, None when it is not."""
    if work.state not in _LATE or not is_watched(work.snapshot, work.now):
        return None
    return work.now + (LOOK_FOR_LATE if len(work.assignments) <= HUGE else LOOK_AT_HUGE)

"""How a rollout begins and ends: finished, rolled back, or reopened because it turned out bad; and when it is looked at next. Pure.

A rollback writes into every document what the device ran before, newest exposed first:
- A device that never took up the offer is simply withdrawn.
- One that does not confirm in time that it went back is named, and stays in the state in which it was last heard.
- What another release's document replaced meanwhile is never written over.

For a day after its end, or the `watch` of its quality gate, a rollout is looked at once a minute, a huge one every ten: devices that fall
back by themselves, and values that came late, are evidence as before. The same rules decide; what a person let pass is not turned against
them (`facts`), and a wait that led nowhere is none of a finished rollout's business. Only the strata whose evidence turned go back, and a
device counts only while its document is the rollout's own. Source: ADR 0058, ADR 0083.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import decide
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.metrics import QUALITY_BREACH
from edgefleet_server.rollout.analysis.model import Decision, Facts, Pause, RollBack
from edgefleet_server.rollout.analysis.stage_gates import GATE_ROLLBACK, STOP_QUALITY
from edgefleet_server.rollout.effects import Blocked, DecisionMade, Offer, Plan, Revert, StepReport
from edgefleet_server.rollout.model import (
    Assignment,
    Bundle,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    VerdictKind,
    Wait,
)
from edgefleet_server.rollout.planner import document_state, intake, recall
from edgefleet_server.rollout.planner.builder import PlanBuilder, StratumTrack
from edgefleet_server.rollout.planner.document_state import HUGE
from edgefleet_server.rollout.planner.observe import OVERWRITTEN, REVOKED
from edgefleet_server.rollout.spec.fields import NO_ROLLBACK
from edgefleet_server.rollout.spec.model import WATCH
from edgefleet_server.rollout.state_machines import (
    IN_FLIGHT,
    ROLLOUT_ACTIVE,
    UNSWITCHED,
    AssignmentEvent,
    RolloutEvent,
    StageEvent,
    moved,
    stands_failed,
)

# ---- rollback


BACK_FACTOR: Final = 10
"""A pass takes back so many times as it offers, unless it plans the whole rollout."""
NOT_BACK: Final = "not confirmed to be back"
CONFIRM: Final = "confirm"
_SAME: Final = "it ran this very release before, and nothing older is known"
_KEPT: Final = "it keeps the release (rollback_to: none)"
_REVERTS: Final = frozenset(
    {RolloutState.RUNNING, RolloutState.ROLLING_BACK, RolloutState.PAUSED, RolloutState.AWAITING_APPROVAL}
)
"""Waiting stops offers, not the rollback of a stratum that failed."""
_S: Final = AssignmentState
_E: Final = AssignmentEvent


def is_rolled_back(plan: PlanBuilder, track: StratumTrack) -> bool:
    """Return whether the release is taken back in a stratum."""
    return track.has_failed or (plan.state is RolloutState.ROLLING_BACK and not _is_partial(plan))


def _is_partial(plan: PlanBuilder) -> bool:
    """Return whether it goes back after its end by its evidence, and only in some strata."""
    spares_any = any(not track.has_failed and _has_passed(track) for track in plan.tracks())
    return spares_any and plan.cause[0] in _turned(plan)


def _turned(plan: PlanBuilder) -> set[str]:
    """Return the codes of stages that failed after they had passed: only these have failed and rest on something."""
    runs = plan.stage_runs.values()
    return {run.code for run in runs if run.state is StageState.FAILED and run.strength is not None}


def owes_confirmation(a: Assignment) -> bool:
    """Return whether a device whose document was taken back has not said yet that it went back."""
    return a.back_at is not None and a.back_done_at is None


def confirmation(snapshot: Snapshot, a: Assignment) -> Wait:
    """Return that the rollback of such a device waits for it, and until when."""
    until = None if a.back_at is None else a.back_at + snapshot.spec.device.ack
    return Wait(CONFIRM, "was sent back, not confirmed yet", "its confirmation, or it is listed as not back", until)


def batch_of(plan: PlanBuilder) -> int:
    """Return how many documents this pass may sign."""
    return document_state.batch_for(max(len(plan.snapshot.members), len(plan.assignments)))


def revert(plan: PlanBuilder) -> StepReport | None:
    """Write the former release back where a stratum failed (or everywhere, when the rollout is rolled back)."""
    if plan.state not in _REVERTS:
        return None
    failed = {track.stratum for track in plan.tracks() if is_rolled_back(plan, track)}
    for a in list(plan.assignments.values()):
        if a.stratum in failed and a.state is _S.ELIGIBLE:
            _end_waiting(plan, a)
    todo = [a for a in plan.assignments.values() if a.stratum in failed and document_state.needs_rollback(a)]
    todo.sort(key=lambda a: (a.exposed_at or a.offered_at or plan.now, a.device), reverse=True)
    most = BACK_FACTOR * batch_of(plan)
    plan.is_cut_short |= len(todo) > most
    for a in todo[:most]:
        _revert(plan, a)
    for a in [a for a in plan.assignments.values() if a.state is _S.UNREACHABLE and a.back_done_at is not None]:
        if a.back_gen and document_state.is_still_on_it(plan.snapshot, a, plan.withdrawn):
            # it took the release up all the same: it must be heard to be back
            plan.update_assignment(a.but(back_done_at=None))
    _name_overdue(plan)
    return StepReport("completion.revert", f"{len(todo[:most])} of {len(todo)} devices reverted") if todo else None


def _end_waiting(plan: PlanBuilder, a: Assignment) -> None:
    """End a device's wait for an offer in a stratum that failed; one that may run the release goes back like any other."""
    exposed_at = a.exposed_at or plan.now
    if a.gen and document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn):
        # it went on to a stage of another mode, or waits for its next try: its candidate ends below
        plan.move_assignment(a, moved(a, _E.ACK, plan.now, exposed_at=exposed_at))
    elif document_state.may_have_switched(plan.snapshot, a, plan.withdrawn):
        # what it goes back to stands in its document since the offer was withdrawn
        late = moved(a, _E.ACK, plan.now, exposed_at=exposed_at, back_gen=a.gen + 1, back_at=plan.now)
        plan.move_assignment(a, late)
    else:
        recall.end_candidate(plan, a)
        reason = "its stratum was stopped"
        plan.move_assignment(a, moved(a, _E.CANCEL, plan.now, reason=reason, ended_at=plan.now))


def _revert(plan: PlanBuilder, a: Assignment) -> None:
    if not document_state.asks_for_release(plan.snapshot, a, plan.withdrawn):
        if a.state not in IN_FLIGHT:  # those are superseded when their pass observes it
            _note_overwritten(plan, a)
        return
    is_candidate = document_state.asks_for_candidate(plan.snapshot, a, plan.withdrawn)
    to = None if is_candidate or a.state in UNSWITCHED else plan.snapshot.rollback_bundles.get(a.stratum)
    if reason := "" if is_candidate else _why_kept(plan, a, to):
        if reason is _SAME or a.state not in IN_FLIGHT:  # what is on its way may end first, since it stays
            kept = a.but(back_gen=max(1, a.gen), back_at=plan.now, reason=f"{NOT_BACK}: {reason}")
            plan.update_assignment(kept)
        return
    plan.emit(Revert(a.device, is_rollback=True, is_candidate=is_candidate, to=to))
    is_unmoved = a.state in (_S.OFFERED, _S.UNREACHABLE) and not document_state.may_be_on_it(plan.snapshot, a)
    after = a.but(back_at=plan.now)
    if is_unmoved and a.state is _S.OFFERED:
        reason = "its stratum was stopped before it took up its document"
        after = moved(
            after, _E.CANCEL, plan.now, reason=reason, ended_at=plan.now, back_done_at=plan.now, deadline=None
        )
        plan.move_assignment(a, after)
        return
    plan.update_assignment(after.but(back_done_at=plan.now) if is_unmoved else after)


def _note_overwritten(plan: PlanBuilder, a: Assignment) -> None:
    """Note that a device's document names another release; one that runs ours still must be heard to be back like any other."""
    is_on_it = document_state.is_still_on_it(plan.snapshot, a, plan.withdrawn)
    done = a.but(back_gen=a.gen + 1, back_at=plan.now, back_done_at=None if is_on_it else plan.now)
    report = plan.snapshot.reports.get(a.device)
    is_gone = report is not None and report.is_revoked
    reason = REVOKED if is_gone else "" if is_on_it else OVERWRITTEN
    plan.update_assignment(done.but(reason=a.reason or reason))


def _why_kept(plan: PlanBuilder, a: Assignment, to: Bundle | None) -> str:
    """Return why a device keeps the release although it is taken back, "" when it goes back. to: what it gets, None = what it ran."""
    target = to or a.previous
    if target is not None and target.sha256 in plan.snapshot.withdrawn and a.state not in UNSWITCHED:
        model, version, _ = target.target.split("/")
        return f"{model}@{version}, to which it would go back, was withdrawn"
    if to is not None:
        return ""
    if a.previous is not None and a.previous.sha256 == document_state.digest_of(plan.snapshot, a.stratum):
        return _SAME
    runs_it = a.state in (_S.APPLYING, _S.VERIFYING, _S.HEALTHY, _S.LOST)
    return _KEPT if runs_it and plan.snapshot.spec.rollback_to == NO_ROLLBACK else ""


def _name_overdue(plan: PlanBuilder) -> None:
    """Note which devices did not confirm in time that they went back.

    Each stays in the state that it was last heard in. `lost` would be a failure of the release, and count against it in other
    strata, although the server cut its way short; and no late report moves what is lost.
    """
    for a in list(plan.assignments.values()):
        if not owes_confirmation(a) or a.reason.startswith(NOT_BACK):
            continue
        if (until := confirmation(plan.snapshot, a).until) is not None and plan.now >= until:
            reason = f"{NOT_BACK}: {a.reason}" if a.reason else NOT_BACK
            plan.update_assignment(a.but(reason=reason, deadline=None))


LOOK_AGAIN: Final = timedelta(seconds=2)
LOOK_FOR_LATE: Final = timedelta(minutes=1)
_FINISH: Final = "completion.finish"
_ENDS: Final = frozenset({RolloutState.RUNNING, RolloutState.ROLLING_BACK})


def leave_queue(plan: PlanBuilder) -> StepReport | None:
    """Begin when no older rollout is before this one any more."""
    is_first = not plan.snapshot.behind
    if is_first:
        plan.move_rollout(RolloutEvent.START, "started", "no older rollout is before it any more")
    plan.is_cut_short = bool(plan.effects)  # which devices belong to it is looked up once it runs
    return StepReport("completion.leave_queue", "started") if is_first else None


@dataclass(frozen=True, slots=True)
class _Ends:
    """How the strata of a rollout ended. stuck: devices that are not confirmed to be back."""

    failed: Sequence[StratumTrack]
    passed: Sequence[StratumTrack]
    stuck: Sequence[DeviceId]


def finish(plan: PlanBuilder) -> StepReport | None:
    """End the rollout when every stratum has ended and what was taken back is settled."""
    tracks = plan.tracks()
    if plan.state not in _ENDS or plan.is_cut_short:
        return None
    if not all(track.has_ended or is_rolled_back(plan, track) for track in tracks):
        return None
    if any(isinstance(effect, Offer) for effect in plan.effects) or _are_waiting(plan):
        return None  # a person let the last stage pass before its devices had their offers: these go out while it runs
    reverted = {track.stratum for track in tracks if is_rolled_back(plan, track)}
    owed = [a for a in plan.assignments.values() if a.stratum in reverted]
    if any(document_state.needs_rollback(a) for a in owed):
        return None
    failed = [track for track in tracks if track.has_failed]
    passed = [track for track in tracks if not track.has_failed and _has_passed(track)]
    if failed and not passed and plan.state is RolloutState.RUNNING:
        plan.move_rollout(RolloutEvent.ROLL_BACK, *_why(failed))
    waiting = [a for a in owed if owes_confirmation(a)]
    unconfirmed = [a for a in waiting if not a.reason.startswith(NOT_BACK)]
    if unconfirmed:
        wait = confirmation(plan.snapshot, unconfirmed[0])
        return StepReport(_FINISH, blocked=(Blocked(wait, count=len(unconfirmed)),))
    _end(plan, _Ends(failed, passed, [a.device for a in waiting]))
    return StepReport(_FINISH, f"ended: {plan.state}")


def _has_passed(track: StratumTrack) -> bool:
    return any(run.state is StageState.PASSED for run in track.runs)


def _are_waiting(plan: PlanBuilder) -> bool:
    """Whether devices still wait for their turn in a stage that a person let pass, or are on their way on a second try."""
    if plan.state is not RolloutState.RUNNING:
        return False
    going = [run for track in plan.tracks() if (run := track.offering) is not None and not track.has_failed]
    waiting = (a for run in going for a in intake.devices_of(plan, run))
    return any(a.state is _S.ELIGIBLE or (a.failed_before and a.state in IN_FLIGHT) for a in waiting)


def _end(plan: PlanBuilder, ends: _Ends) -> None:
    for a in plan.assignments.values():
        if a.state not in (_S.OFFERED, _S.UNREACHABLE):
            recall.end_candidate(plan, a)
    code, reason = _why(ends.failed)
    tail = f"; not confirmed to be back: {', '.join(sorted(ends.stuck)[:20])}" if ends.stuck else ""
    failed, passed = len(ends.failed), len(ends.passed)
    if plan.state is RolloutState.ROLLING_BACK and not _is_partial(plan):
        event = RolloutEvent.ROLLBACK_STUCK if ends.stuck else RolloutEvent.ROLLED_BACK
        # taken back after its end, by its evidence or a person: theirs are the words
        if not failed or _turned(plan):
            code, reason = plan.cause
        plan.move_rollout(event, code, reason + tail)
    elif not passed:
        plan.move_rollout(RolloutEvent.CANCEL, "empty", "no device of the rollout was left to judge")
    elif failed:
        message = f"finished in {passed} of {passed + failed} strata; {reason}{tail}"
        plan.move_rollout(RolloutEvent.FINISH, "partial", message)
    else:
        plan.move_rollout(RolloutEvent.FINISH, "finished", "every stage passed in every stratum")


def _why(failed: Sequence[StratumTrack]) -> tuple[str, str]:
    """Return the code and the message for what ended these strata."""
    runs = [next(run for run in track.runs if run.state is StageState.FAILED) for track in failed]
    reasons = "; ".join(f"{run.stratum}: {run.reason}" for run in runs)
    return (runs[0].code if runs else ""), reasons


def next_pass(plan: PlanBuilder) -> datetime | None:
    """Return when to look again at the latest; None when nothing can happen any more."""
    if plan.state in ROLLOUT_ACTIVE:
        return plan.now if plan.is_cut_short else plan.now + LOOK_AGAIN
    # those who were away may still come back and take up their document: that is worth a line in the log
    late = any(a.state is _S.UNREACHABLE or a.state in IN_FLIGHT for a in plan.assignments.values())
    return plan.now + LOOK_FOR_LATE if late and plan.state is RolloutState.FINISHED else None


# ---- after the end


LOOK_AT_HUGE: Final = timedelta(minutes=10)
"""A look at more than HUGE devices takes seconds of a processor."""
_LATE: Final = frozenset({RolloutState.FINISHED, RolloutState.REGRESSED})
_NOT_BY_FAILURES: Final = frozenset({QUALITY_BREACH, STOP_QUALITY, GATE_ROLLBACK})


def plan_regression(snapshot: Snapshot, now: datetime, code: str, reason: str) -> Plan:
    """Return what makes a finished rollout a regressed one, for a person to decide. Raises IllegalTransitionError in any other state."""
    plan = PlanBuilder(snapshot, now)
    plan.move_rollout(RolloutEvent.REGRESS, code, reason)
    return plan.build(now)


def is_watched(plan: PlanBuilder) -> bool:
    """Return whether a rollout is still looked at after its end, also when it ends in this pass."""
    gate = plan.snapshot.spec.gates.quality
    ended = max((run.ended_at for run in plan.stage_runs.values() if run.ended_at is not None), default=None)
    return ended is not None and plan.now < ended + (WATCH if gate is None else gate.watch)


def reopen_if_bad(plan: PlanBuilder) -> StepReport | None:
    """Reopen a finished rollout where the evidence has turned against its release; with `on_fail: rollback` take it back there at once."""
    if not is_watched(plan):
        return None
    ours = _ours(plan)
    found = [(run, *_judged(plan, run, ours)) for run in _last_passed(plan)]
    turned = [(run, facts, decision) for run, facts, decision in found if _has_turned(run, decision, ours)]
    if not turned:
        return None
    plan.emit(*(DecisionMade(facts, decision) for _, facts, decision in turned))
    reasons = "; ".join(f"{run.stratum}: {decision.reason}" for run, _, decision in turned)
    code, reason = turned[0][2].code, f"after it had finished, {reasons}"
    plan.cause = code, reason
    plan.move_rollout(RolloutEvent.REGRESS, code, reason)
    _take_back(plan, [(run, decision) for run, _, decision in turned])
    return StepReport("completion.reopen_if_bad", reason)


def _take_back(plan: PlanBuilder, turned: Sequence[tuple[StageRun, Decision]]) -> None:
    """Take back the strata of a regressed rollout whose verdict says so; a Pause leaves its stratum to a person."""
    taken = [(run, decision) for run, decision in turned if isinstance(decision, RollBack)]
    for run, decision in taken:
        _fail_late(plan, run, decision)
    if taken:
        reasons = "; ".join(f"{run.stratum}: {decision.reason}" for run, decision in taken)
        plan.cause = taken[0][1].code, f"after it had finished, {reasons}"
        plan.move_rollout(RolloutEvent.ROLL_BACK, *plan.cause)


def _fail_late(plan: PlanBuilder, run: StageRun, decision: Decision) -> None:
    """Fail a stage that had passed. It keeps its end, from which the other strata are watched, and what its pass rested on."""
    message = f"after it had finished: {decision.reason}"
    failed = replace(run, verdict=VerdictKind.ROLL_BACK, code=decision.code, reason=message)
    plan.move_stage_run(failed, StageEvent.REGRESS)


def _last_passed(plan: PlanBuilder) -> list[StageRun]:
    """Return the last stage that passed of each stratum that has not failed."""
    tracks = [track for track in plan.tracks() if not track.has_failed]
    passed = [[run for run in track.runs if run.state is StageState.PASSED] for track in tracks]
    return [runs[-1] for runs in passed if runs]


def _ours(plan: PlanBuilder) -> dict[DeviceId, Assignment]:
    """Return the devices whose documents are still the rollout's: after the end no others count."""
    return {device: a for device, a in plan.assignments.items() if not document_state.is_overwritten(plan.snapshot, a)}


def _judged(plan: PlanBuilder, run: StageRun, ours: Mapping[DeviceId, Assignment]) -> tuple[Facts, Decision]:
    """Return what the evidence of a stratum is after the end, and the verdict."""
    measured = tuple(one for one in plan.snapshot.measured if one.device in ours)
    facts = facts_of(replace(plan.snapshot, measured=measured), run, ours.values(), plan.now)
    return facts, decide.decide(facts)


def _has_turned(run: StageRun, decision: Decision, ours: Mapping[DeviceId, Assignment]) -> bool:
    """Return whether a verdict takes a stratum back after its end: by values or a gate, or by failures of which one came since.

    So evidence of all strata together takes back those in which a device failed, and healthy devices that something newer was set
    on do not make the failures of before weigh more.
    """
    if not isinstance(decision, RollBack | Pause) or decision.code == decide.INCONCLUSIVE:
        return False
    return decision.code in _NOT_BY_FAILURES or any(
        a.stratum == run.stratum
        and stands_failed(a)
        and a.ended_at is not None
        and run.ended_at is not None
        and a.ended_at >= run.ended_at
        for a in ours.values()
    )


def update_reasons(plan: PlanBuilder) -> StepReport | None:
    """Say of each stratum of a reopened rollout what its evidence is by now; a new verdict is stored with it."""
    if not is_watched(plan):
        return None
    changed, turned, ours = list[str](), list[tuple[StageRun, Decision]](), _ours(plan)
    for run in _last_passed(plan):
        facts, decision = _judged(plan, run, ours)
        is_known = (decision.code, decision.reason) == (run.code, run.reason)
        if is_known or decision.code in (decide.INCONCLUSIVE, decide.NOTHING_EXPOSED):
            continue
        if decision.code != run.code:
            plan.emit(DecisionMade(facts, decision))
        plan.update_stage_run(replace(run, code=decision.code, reason=decision.reason))
        changed.append(run.stratum)
        if plan.cause[0] in decide.STOPS and _has_turned(run, decision, ours):
            turned.append((run, decision))
    _take_back(plan, turned)
    return StepReport("completion.update_reasons", f"new evidence in {', '.join(changed)}") if changed else None


def next_late_pass(plan: PlanBuilder) -> datetime | None:
    """Return when a rollout is to be looked at again after its end, None when it is not."""
    if plan.state not in _LATE or not is_watched(plan):
        return None
    return plan.now + (LOOK_FOR_LATE if len(plan.assignments) <= HUGE else LOOK_AT_HUGE)

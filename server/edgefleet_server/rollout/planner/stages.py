"""How a stratum goes through its stages: which stage opens and when, what it waits for, what is decided about it. Pure.

- A stage opens when the one before it has passed, its webhook gates and its approval allow it, and it has devices.
- An open stage enrolls its devices, settles once all have an outcome, soaks, and is then judged; `analysis/decide` decides.
- A stage without devices follows the other strata: a stratum without a canary must not run ahead of the canary.
- A failed stage stops its stratum; a verdict on all strata together stops all of them.
- A rollout that waits for an approval runs again as soon as anything of it moves.
- An approval belongs to a stage of a stratum: the person who gives it has seen how that stratum fared. While a stage waits for it, what the
  devices of the stage before report still stops the release.
- Silence is no approval: after its timeout the rollout does what `on_inconclusive.do` says.
Source: ADR 0034.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

import msgspec

from edgefleet_protocol.ids import RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import decide
from edgefleet_server.rollout.analysis.budget_facts import BUDGET_LOW, lack_of
from edgefleet_server.rollout.analysis.doubt import doubt
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import Advance, Facts, KeepWaiting, Pause, RollBack
from edgefleet_server.rollout.analysis.stage_gates import GATE_OPENING, facts_of_gates, waits_to_open
from edgefleet_server.rollout.effects import DecisionMade, Offer, StageRunTransitioned, StepReport
from edgefleet_server.rollout.model import RolloutState, StageRun, StageState, VerdictKind
from edgefleet_server.rollout.placement import cut_of, shares
from edgefleet_server.rollout.planner import confirmations, document_state, intake, recall
from edgefleet_server.rollout.planner.builder import PlanBuilder, StratumTrack
from edgefleet_server.rollout.spec.model import Approval, OnFail, Spec
from edgefleet_server.rollout.spec.parts import duration_text
from edgefleet_server.rollout.state_machines import (
    CELL_OPEN,
    OUTSIDE,
    ROLLOUT_WALKS,
    RolloutEvent,
    StageEvent,
    soak_end,
)

# ---- approvals


AWAITING: Final = "awaiting_approval"
APPROVED: Final = "approved"
DENIED: Final = "denied"
UNANSWERED: Final = "approval_timeout"


def awaits_approval(run: StageRun) -> bool:
    """Return whether a stage of a stratum waits for an approval."""
    return run.state is StageState.PENDING and run.asked_at is not None and not run.approved_by


def awaiting_approval(runs: Iterable[StageRun], stratum: str | None = None) -> list[StageRun]:
    """Return the stage runs that wait, of one stratum or of all."""
    return [run for run in runs if awaits_approval(run) and stratum in (None, run.stratum)]


def with_question(run: StageRun, wanted: Approval, now: datetime) -> StageRun:
    """Return the stage run with the question asked."""
    until = (now + wanted.timeout).strftime("%Y-%m-%d %H:%M UTC")
    reason = f"waits for approval by someone with the role {wanted.role.value}, until {until}"
    return replace(run, asked_at=now, code=AWAITING, reason=reason)


def with_approval(run: StageRun, by: str, reason: str) -> StageRun:
    """Return the stage run with the answer yes."""
    return replace(run, approved_by=by, code=APPROVED, reason=reason)


def without_question(run: StageRun, code: str, reason: str) -> StageRun:
    """Return the stage run as one that will be asked about again."""
    return replace(run, asked_at=None, code=code, reason=reason)


def answer_due_at(run: StageRun, wanted: Approval) -> datetime | None:
    """Return when silence is the answer; None: nobody was asked yet."""
    return None if run.asked_at is None else run.asked_at + wanted.timeout


def is_unanswered(run: StageRun, wanted: Approval, now: datetime) -> bool:
    """Return whether nobody answered in time."""
    end = answer_due_at(run, wanted)
    return end is not None and now >= end


def unanswered_reason(spec: Spec, run: StageRun) -> str:
    """Return what is said when nobody answered."""
    stage = spec.stages[run.stage]
    wanted = stage.approval or Approval()
    return (
        f"nobody with the role {wanted.role.value} answered about {stage.name} within {duration_text(wanted.timeout)}"
    )


def how_to_answer(rollout: RolloutId) -> str:
    """Return the commands of an answer."""
    return f"`edgectl rollout approve {rollout}` goes on, `deny` refuses"


def wait_if_idle(plan: PlanBuilder) -> StepReport | None:
    """Say that the rollout waits for an approval when nothing else of it moves."""
    tracks = [track for track in plan.tracks() if not track.has_ended]
    runs = [track.current for track in tracks if track.current is not None]
    asked_for = awaiting_approval(runs)
    is_idle = all(run.state is StageState.PENDING for run in runs)
    if not asked_for or not is_idle or plan.state is not RolloutState.RUNNING:
        return None
    if any(isinstance(effect, Offer) for effect in plan.effects):
        return None
    names = {plan.snapshot.spec.stages[run.stage].name: run.reason for run in asked_for}
    message = "; ".join(f"{name} {reason}" for name, reason in names.items())
    plan.move_rollout(RolloutEvent.ASK_APPROVAL, AWAITING, message)
    return StepReport("stages.wait_if_idle", message)


# ---- changes that several steps and commands make


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


OPENED: Final = "opened"
"""The code of a stage that opens. One that is opened only to fail, because it can no longer open, has the code of why it fails."""
NO_CANARY: Final = "no_canary"
_S: Final = AssignmentState

# ---- steps


def create(plan: PlanBuilder) -> StepReport | None:
    """Make the stage runs of strata that are new: at the start all of them, later those of joiners."""
    if intake.runs_for_retries(plan):
        return None
    strata = {m.stratum for m in intake.fresh_members(plan) if m.stratum in plan.snapshot.bundles}
    new = sorted(strata - {stratum for stratum, _ in plan.stage_runs})
    for stratum in new:
        for stage in range(len(plan.snapshot.spec.stages)):
            plan.create_stage_run(StageRun(stage, stratum, StageState.PENDING))
    return StepReport("stages.create", f"new strata: {', '.join(new)}") if new else None


def advance(plan: PlanBuilder) -> StepReport | None:
    """Take every stratum as far through its stages as it goes now."""
    before = len(plan.effects)
    for stratum in [track.stratum for track in plan.tracks()]:
        while plan.state in ROLLOUT_WALKS and _advance(plan, plan.track(stratum)):
            pass
    moves = sum(isinstance(effect, StageRunTransitioned) for effect in plan.effects[before:])
    return StepReport("stages.advance", f"{moves} stages moved") if moves else None


def _advance(plan: PlanBuilder, track: StratumTrack) -> bool:
    """Do what the track's current stage needs; return whether the stratum may go on to its next stage at once."""
    run = track.current
    if run is None or track.has_failed or run.state is StageState.HELD:
        return False
    if run.state is StageState.PENDING:
        if run.asked_at is None and _waits_for_gate(plan, run):  # one that was asked about waits for the answer only
            return False
        run = _open(plan, track, run)
        if run.state not in CELL_OPEN:
            return run.state is StageState.SKIPPED
    intake.enroll(plan, track, run)
    return _judge(plan, _settle(plan, run))


# ---- opening


def _waits_for_gate(plan: PlanBuilder, run: StageRun) -> bool:
    """Whether its budget or a webhook gate does not let the stage open yet; its code says so, and that is when a webhook is asked."""
    lack = lack_of(plan.snapshot, run)
    if lack:
        if (run.code, run.reason) != (BUDGET_LOW, lack):
            plan.update_stage_run(replace(run, code=BUDGET_LOW, reason=lack))
        return True
    gates = plan.snapshot.spec.stages[run.stage].gates
    answers = plan.snapshot.answers.get((run.stage, run.stratum), {})
    waits = waits_to_open(facts_of_gates(gates, answers, plan.now))
    if waits and (run.code, run.reason) != (GATE_OPENING, waits):
        plan.update_stage_run(replace(run, code=GATE_OPENING, reason=waits))
    return bool(waits)


def _open(plan: PlanBuilder, track: StratumTrack, run: StageRun) -> StageRun:
    """Fix the stage's cutoff and open it; one without any device to look at follows the other strata."""
    cutoff = _cutoff(plan, track, run)
    digest, reach = plan.snapshot.bundles[run.stratum].sha256, intake.reach_of(plan, run)
    opened = replace(run, cut=cutoff, population=len(reach), digest=digest, opened_at=plan.now)
    if _is_empty(plan, run, cutoff):
        return _follow_the_others(plan, opened, run)
    if not _may_open(plan, track, run):
        return plan.stage_runs[run.stratum, run.stage]
    reason = f"opened for {opened.population} devices"
    new = sum(bucket < cutoff and device not in plan.assignments for device, bucket in reach.items())
    expected = intake.count_enrolled(plan, run.stratum) + new
    opened = replace(opened, code=OPENED, reason=reason, intake=expected)
    return move_stage_run(plan, opened, StageEvent.OPEN)


def _cutoff(plan: PlanBuilder, track: StratumTrack, run: StageRun) -> int:
    previous = intake.cutoff_before(plan, track, run.stage)
    size = plan.snapshot.spec.stages[run.stage].size
    share = _share(plan, run) if size.count_total else None
    return cut_of(size, sorted(intake.reach_of(plan, run).values()), previous, share)


def _share(plan: PlanBuilder, run: StageRun) -> int:
    populations = {track.stratum: len(intake.reach_of(plan, track.runs[run.stage])) for track in plan.tracks()}
    count = plan.snapshot.spec.stages[run.stage].size.count
    assert count is not None, "the spec allows count_total with a count only"
    return shares(count, populations).get(run.stratum, 0)


def _is_empty(plan: PlanBuilder, run: StageRun, cutoff: int) -> bool:
    """Whether the stage would look at no device of its stratum, neither at new ones nor at those of earlier stages."""
    mode = document_state.mode_of(plan.snapshot, run.stage)
    has_some = any(
        a.stratum == run.stratum and a.state not in OUTSIDE and document_state.mode_of(plan.snapshot, a.stage) is mode
        for a in plan.assignments.values()
    )
    return not has_some and not any(bucket < cutoff for bucket in intake.reach_of(plan, run).values())


def _follow_the_others(plan: PlanBuilder, opened: StageRun, run: StageRun) -> StageRun:
    """Skip an empty stage once it passed elsewhere: a stratum without a canary must not run ahead of the canary."""
    stage = plan.snapshot.spec.stages[run.stage].name
    others = [track for track in plan.tracks() if track.stratum != run.stratum]
    same = [(track, track.runs[run.stage]) for track in others]
    if any(there.state is StageState.PASSED for _, there in same):
        reason = f"no device of this stratum belongs to {stage}; it passed in another stratum"
        return _skip(plan, opened, reason)
    if any(_may_still_pass(plan, track, there) for track, there in same):
        waits = f"no device of this stratum belongs to {stage}; waits for it to pass in another stratum"
        if run.reason != waits:
            plan.update_stage_run(replace(run, code="waits_for_others", reason=waits))
        return plan.stage_runs[run.stratum, run.stage]
    if any(track.has_failed for track in others):
        reason = f"{stage} passed in no stratum, and this one has no device in it"
        failing = move_stage_run(plan, replace(opened, code=NO_CANARY, reason=reason), StageEvent.OPEN)
        fail(plan, failing, NO_CANARY, reason)
        return plan.stage_runs[run.stratum, run.stage]
    return _skip(plan, opened, f"no device of any stratum belongs to {stage}")


def _skip(plan: PlanBuilder, opened: StageRun, reason: str) -> StageRun:
    skipped = replace(opened, code="empty", reason=reason, ended_at=plan.now)
    return move_stage_run(plan, skipped, StageEvent.SKIP)


def _may_still_pass(plan: PlanBuilder, track: StratumTrack, run: StageRun) -> bool:
    if track.has_failed or run.state is StageState.SKIPPED:
        return False
    return run.state is not StageState.PENDING or not _is_empty(plan, run, _cutoff(plan, track, run))


def _may_open(plan: PlanBuilder, track: StratumTrack, run: StageRun) -> bool:
    """Return whether a stage may open; where it needs an approval, ask for it, and act on silence and on bad news."""
    wanted = plan.snapshot.spec.stages[run.stage].approval
    if wanted is None or run.approved_by:
        return True
    if run.asked_at is None:
        plan.update_stage_run(with_question(run, wanted, plan.now))
    elif _is_stopped(plan, track, run):
        return False
    elif is_unanswered(run, wanted, plan.now):
        reason = unanswered_reason(plan.snapshot.spec, run)
        if plan.snapshot.spec.on_inconclusive.do is OnFail.PAUSE:
            plan.update_stage_run(without_question(run, UNANSWERED, reason))
            pause(plan, UNANSWERED, f"{run.stratum}: {reason}")
        else:
            fail_unopened(plan, run, UNANSWERED, reason)
    return False


def _is_stopped(plan: PlanBuilder, track: StratumTrack, run: StageRun) -> bool:
    """Act on what devices of the stage before report meanwhile; return whether it spoke against the release."""
    before = next((one for one in track.runs if one.stage == run.stage - 1), None)
    if before is None or before.state is not StageState.PASSED:
        return False
    facts = facts_of(plan.snapshot, before, plan.assignments.values(), plan.now)
    facts = msgspec.structs.replace(facts, open_for_s=0.0)  # only the silence of a person lasts too long
    decision = decide.decide(facts)
    match decision:
        case Pause(code=decide.UNCONFIRMED):
            return False  # the person who is asked decides about it, too
        case Pause():
            plan.update_stage_run(without_question(run, decision.code, decision.reason))
            pause(plan, decision.code, f"{run.stratum}: {decision.reason}")
        case RollBack():
            fail_unopened(plan, run, decision.code, decision.reason)
        case _:
            return False
    plan.emit(DecisionMade(facts, decision))
    return True


# ---- judging


def _settle(plan: PlanBuilder, run: StageRun) -> StageRun:
    """Tell exposing, soaking and judging apart: what the stage waits for."""
    if run.state is StageState.EXPOSING:
        if intake.count_open(plan, run):
            return run
        devices = intake.devices_of(plan, run)
        ends = [soak_end(plan.snapshot, a, plan.now) for a in devices if a.state is _S.HEALTHY]
        soak_until = max(ends, default=plan.now)
        settled = replace(run, soak_until=soak_until, code="soaking", reason="every device has answered")
        run = move_stage_run(plan, settled, StageEvent.SETTLED)
    if run.state is StageState.SOAKING and run.soak_until is not None and plan.now >= run.soak_until:
        soaked = replace(run, code="judging", reason="the soak is over")
        run = move_stage_run(plan, soaked, StageEvent.SOAKED)
    return run


def _judge(plan: PlanBuilder, run: StageRun) -> bool:
    """Decide about an open stage; return whether the stratum may go on."""
    facts = facts_of(plan.snapshot, run, plan.assignments.values(), plan.now)
    plan.failing_early[run.stratum] = doubt(facts)
    decision = decide.decide(facts)
    match decision:
        case Advance() if _is_last(plan, run) and intake.count_open(plan, run):
            _finish_last(plan, run)
        case Advance():
            plan.emit(DecisionMade(facts, decision))
            _pass(plan, run, decision)
            return True
        case KeepWaiting():
            _keep_waiting(plan, run, facts, decision)
            if decision.code == decide.WORD_OPEN and decide.stops(facts):
                drawn = confirmations.drawn_new(plan, run.stratum)
                recall.withdraw(plan, "its stratum waits for others before its switch", run.stratum, drawn)
        case Pause():
            plan.emit(DecisionMade(facts, decision))
            held = replace(run, verdict=VerdictKind.PAUSE, code=decision.code, reason=decision.reason)
            move_stage_run(plan, held, StageEvent.HOLD)
            if decision.code in decide.STOPS and not decision.pooled:  # the other strata go on; see `stops`
                recall.withdraw(plan, "its stratum stopped before its switch", run.stratum)
            else:
                pause(plan, decision.code, f"{run.stratum}: {decision.reason}")
        case RollBack():
            plan.emit(DecisionMade(facts, decision))
            fail(plan, run, decision.code, decision.reason)
            if decision.pooled:
                fail_the_others(plan, run, decision)
    return False


def _finish_last(plan: PlanBuilder, run: StageRun) -> None:
    """Keep the last stage open though it may pass: it opens nothing, so nothing is lost by watching the rest of the devices arrive."""
    waits = f"enough is known to pass; {intake.count_open(plan, run)} devices are still on their way"
    if (run.code, run.reason) != ("finishing", waits):
        plan.update_stage_run(replace(run, verdict=VerdictKind.HOLD, code="finishing", reason=waits))


def _pass(plan: PlanBuilder, run: StageRun, decision: Advance) -> None:
    passed = replace(
        run,
        verdict=VerdictKind.ADVANCE,
        code=decision.code,
        reason=decision.reason,
        strength=decision.strength,
        bound=decision.bound,
        ended_at=plan.now,
    )
    move_stage_run(plan, passed, StageEvent.PASS)


def _keep_waiting(plan: PlanBuilder, run: StageRun, facts: Facts, decision: KeepWaiting) -> None:
    if (decision.code, decision.reason) == (run.code, run.reason):
        return
    if run.code != decision.code or run.verdict is None:
        plan.emit(DecisionMade(facts, decision))
    plan.update_stage_run(replace(run, verdict=VerdictKind.HOLD, code=decision.code, reason=decision.reason))


def fail_the_others(plan: PlanBuilder, cause: StageRun, decision: RollBack) -> None:
    """Fail the open stages of the other strata: the evidence of all together speaks against the release."""
    for track in plan.tracks():
        current = next((run for run in track.runs if run.state in CELL_OPEN or run.state is StageState.HELD), None)
        if track.stratum != cause.stratum and current is not None:
            fail(plan, current, decision.code, f"all strata stop: {decision.reason}")


def _is_last(plan: PlanBuilder, run: StageRun) -> bool:
    return run.stage == len(plan.snapshot.spec.stages) - 1

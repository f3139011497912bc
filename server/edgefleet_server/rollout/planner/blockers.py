"""Why a device, a stage and a rollout stand where they stand, and what would move them. Pure; decides nothing.

- A pass that changes nothing reports what holds the rollout and its stages (`report`). People read the same report, of a plan that
  is made of the stored rollout and never carried out (`tick.explain`); it also names what holds each device.
- A device that waits for an offer is held by what `offers` asks. One that was offered the release waits for itself until a
  deadline; one that is healthy, for the end of its soak; one whose stratum goes back, for the next pass.
Codes are stable. Nothing is ever silently "pending".
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.admission import spans_of
from edgefleet_server.rollout.analysis.budget_facts import BUDGET_LOW
from edgefleet_server.rollout.effects import Blocked, StepReport
from edgefleet_server.rollout.model import Assignment, Lot, RolloutState, Snapshot, StageRun, StageState, Wait
from edgefleet_server.rollout.planner import completion
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.document_state import needs_rollback
from edgefleet_server.rollout.planner.stages import answer_due_at, awaiting_approval, how_to_answer
from edgefleet_server.rollout.spec.parts import duration_text
from edgefleet_server.rollout.state_machines import IN_FLIGHT, soak_end

ACK: Final = "ack"
DEVICE: Final = "device"
EARLIER_STAGE: Final = "earlier_stage"
PERSON: Final = "person"
PROBATION: Final = "probation"
QUEUE: Final = "queue"
RETURN: Final = "return"
SOAK: Final = "soak"
SPREAD: Final = "spread"
TURN: Final = "turn"

_S: Final = AssignmentState
_DOING: Final = {
    _S.ACKED: "about to download",
    _S.DOWNLOADING: "downloading the bundle",
    _S.STAGED: "checking the bundle",
    _S.PARITY_OK: "warming up the new version",
    _S.APPLYING: "switching to the new version",
}
_SENT_BACK: Final = Wait(TURN, "is about to be sent back", "time: the engine checks every 2 s")
_REPORT: Final = "blockers.report"
_UNJUDGED: Final = (StageState.SOAKING, StageState.JUDGING)
_STAGES_MOVE: Final = frozenset({RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL, RolloutState.PAUSED})


def report(plan: PlanBuilder) -> StepReport | None:
    """Say what holds a rollout of which a pass changes nothing, and its stages; None: something moves, or it is over for good."""
    if plan.effects:
        return None
    blocked = (*of_rollout(plan, [(a, 1) for a in plan.assignments.values()]), *of_stages(plan))
    return StepReport(_REPORT, blocked=blocked) if blocked else None


# ---- a rollout


def of_rollout(plan: PlanBuilder, lots: Iterable[Lot]) -> list[Blocked]:
    """Return what holds a rollout as a whole; one that runs is held by this only where its devices wait for nothing."""
    snapshot = plan.snapshot
    match snapshot.state:
        case RolloutState.DRAFT | RolloutState.VALIDATING:
            moves = f"the rollouts before it end; or `edgectl rollout abort {snapshot.id}`"
            return [Blocked(Wait(QUEUE, snapshot.reason or "it is about to begin", moves))]
        case RolloutState.PAUSED:
            moves = f"`edgectl rollout resume {snapshot.id}` goes on, `abort --rollback` rolls it back"
            return [Blocked(Wait(PERSON, snapshot.reason, moves))]
        case RolloutState.AWAITING_APPROVAL:
            return [_asked_for(snapshot, awaiting_approval(snapshot.cells), snapshot.reason)]
        case RolloutState.REGRESSED:
            moves = f"`edgectl rollout abort {snapshot.id} --rollback` rolls it back; without that it stays"
            return [Blocked(Wait(PERSON, snapshot.reason, moves))]
        case RolloutState.ROLLBACK_INCOMPLETE:
            missing = sum(n for a, n in lots if completion.owes_confirmation(a))
            moves = "each goes back as soon as it is online; else a person looks at it"
            return [Blocked(Wait(completion.CONFIRM, snapshot.reason, moves), count=max(1, missing))]
        case RolloutState.RUNNING | RolloutState.ROLLING_BACK:
            verdicts = [_verdict_of(snapshot, run) for run in snapshot.cells if run.state in _UNJUDGED]
            return verdicts or [Blocked(_next_pass(snapshot))]
        case _:
            return []


def _next_pass(snapshot: Snapshot) -> Wait:
    """Return what a rollout waits for in which nothing waits: the engine opens, judges or ends it when it looks."""
    reason = snapshot.reason or "the engine is about to look at it"
    return Wait(TURN, reason, "time: the engine checks every 2 s, and when matching devices appear")


def _asked_for(snapshot: Snapshot, asked: Sequence[StageRun], reason: str, stage: int | None = None) -> Blocked:
    """Return that stages wait for an approval."""
    stages = snapshot.spec.stages
    ends = [
        end
        for run in asked
        if (wanted := stages[run.stage].approval) and (end := answer_due_at(run, wanted)) is not None
    ]
    wait = Wait(PERSON, reason, how_to_answer(snapshot.id), min(ends, default=None))
    return Blocked(wait, stage=stage, count=len(asked), state=StageState.PENDING)


# ---- a stage


def of_stages(plan: PlanBuilder) -> list[Blocked]:
    """Return what holds stages apart from their devices: a person, an approval, the stage before it, its verdict."""
    snapshot = plan.snapshot
    if snapshot.state not in _STAGES_MOVE:
        return []
    return [blocked for stage in range(len(snapshot.spec.stages)) for blocked in _of_stage(snapshot, stage)]


def _of_stage(snapshot: Snapshot, stage: int) -> list[Blocked]:
    found = []
    runs = [run for run in snapshot.cells if run.stage == stage]
    held = [run for run in runs if run.state is StageState.HELD]
    if held:
        moves = f"`edgectl rollout resume {snapshot.id}` or `promote`, or `abort --rollback`"
        wait = Wait(PERSON, held[0].reason, moves)
        found.append(Blocked(wait, stage=stage, count=len(held), state=StageState.HELD))
    asked = awaiting_approval(runs)
    if asked:
        found.append(_asked_for(snapshot, asked, asked[0].reason, stage))
    pending = [run for run in runs if run.state is StageState.PENDING and run not in asked]
    low = [run for run in pending if run.code == BUDGET_LOW]
    if low:
        moves = "bad events leave the window of the objective; `edgectl slo list` shows its budget"
        wait = Wait(BUDGET_LOW, low[0].reason, moves)
        found.append(Blocked(wait, stage=stage, count=len(low), state=StageState.PENDING))
    elif stage and (pending or not runs):
        before = snapshot.spec.stages[stage - 1].name
        reason = next((run.reason for run in pending if run.reason), "") or f"opens when {before} has passed"
        wait = Wait(EARLIER_STAGE, reason, f"{before} passes")
        found.append(Blocked(wait, stage=stage, count=max(1, len(pending)), state=StageState.PENDING))
    return found + [_verdict_of(snapshot, run, stage) for run in runs if run.state in _UNJUDGED]


def _verdict_of(snapshot: Snapshot, run: StageRun, stage: int | None = None) -> Blocked:
    """Return what a stage waits for whose devices wait for nothing: its verdict."""
    policy = snapshot.spec.on_inconclusive
    until = None if run.counts_from is None else run.counts_from + policy.after
    moves = f"more devices, or `edgectl rollout promote {snapshot.id} --reason R`; otherwise {policy.do}"
    wait = Wait(run.code or run.state.value, f"{run.stratum}: {run.reason}", moves, until)
    return Blocked(wait, run.stratum, stage, state=run.state)


# ---- a device


def of_devices_under_way(plan: PlanBuilder, lots: Iterable[Lot]) -> dict[DeviceId, Wait]:
    """Return what holds each device that has its offer. lots: all devices of the rollout, counted."""
    spans = spans_of(plan.snapshot.spec, lots)
    back = {track.stratum for track in plan.tracks() if completion.is_rolled_back(plan, track)}
    waits = (
        (a, _SENT_BACK if a.stratum in back and needs_rollback(a) else _under_way(plan.snapshot, a, plan.now, spans))
        for a in plan.assignments.values()
    )
    return {a.device: wait for a, wait in waits if wait is not None}


def _under_way(snapshot: Snapshot, a: Assignment, now: datetime, spans: Mapping[int, int]) -> Wait | None:
    if completion.owes_confirmation(a):
        return completion.confirmation(snapshot, a)
    if a.state is _S.OFFERED:
        return Wait(ACK, "has not accepted its offer yet", "its report, or it counts as unreachable", a.deadline)
    if a.state is _S.VERIFYING:
        return _probation(a, now)
    if a.state is _S.ACKED and not a.error_class and (wait := _spread(a, spans.get(a.stage, 0), now)):
        return wait
    if a.state in IN_FLIGHT:
        trouble = f", {a.error_class}: {a.reason}" if a.error_class else ""
        ends = "failed" if a.error_class else "lost"
        return Wait(DEVICE, f"is {_DOING[a.state]}{trouble}", f"its report, or it counts as {ends}", a.deadline)
    if a.state is _S.HEALTHY and (end := soak_end(snapshot, a, now)) > now:
        return Wait(SOAK, "is healthy and soaking", "time", end)
    if a.state is _S.UNREACHABLE:
        return Wait(RETURN, a.reason or "is out of reach", "its return: then it joins")
    return None


def _probation(a: Assignment, now: datetime) -> Wait:
    """Return what a device on trial waits for. How much is enough is set on the device (`probation_inferences`, `probation_s`)."""
    since = "" if a.switched_at is None else f" for {_rough(now - a.switched_at)}"
    reason = f"is on probation{since}: passes after 500 answers or 30 min, unless set otherwise there"
    return Wait(PROBATION, reason, "its report, or it counts as lost if it goes silent", a.deadline)


def _rough(length: timedelta) -> str:
    """Return a length in its largest whole unit."""
    seconds = max(0, int(length.total_seconds()))
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _spread(a: Assignment, within_s: int, now: datetime) -> Wait | None:
    """Return that a device waits for its part of the time over which devices begin, None when that must be over."""
    until = (a.entered_at or now) + timedelta(seconds=within_s)
    if a.retries or now >= until:
        return None
    reason = f"has its document; devices of its stage begin over {duration_text(timedelta(seconds=within_s))}, each at its own part"
    return Wait(SPREAD, reason, "time: then it asks for the bundle", until)

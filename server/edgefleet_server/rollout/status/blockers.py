"""Why a device, a stage and a rollout stand where they stand, and what would move them. Pure; for people, nothing is decided here.

- What holds a device that waits for its offer is read from the report of the planner's own step, of which nothing is carried out.
- One that was offered the release waits for itself until a deadline; one that is healthy, for the end of its soak.
- A stage and a rollout wait for what their devices wait for: the same codes with counts, the soonest moment first.
Codes are stable. Nothing is ever silently "pending".
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.assignments import soak_end
from edgefleet_server.rollout.model import Assignment, Lot, RolloutState, Snapshot, StageRun, StageState, Wait
from edgefleet_server.rollout.planner import approvals, offers
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.completion import CONFIRM, QUEUE
from edgefleet_server.rollout.planner.offers import PERSON, TURN
from edgefleet_server.rollout.spec.parts import duration_text
from edgefleet_server.rollout.state_machines import IN_FLIGHT
from edgefleet_server.rollout.throttle import ramp
from edgefleet_server.rollout.throttle.jitter import spans_of

ACK: Final = "ack"
DEVICE: Final = "device"
PROBATION: Final = "probation"
SPREAD: Final = "spread"
SOAK: Final = "soak"
RETURN: Final = "return"
EARLIER_STAGE: Final = "earlier_stage"

_S: Final = AssignmentState
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class WaitView:
    """What some devices wait for. count: how many; reason: of the one that moves first; until: when, where it is known."""

    code: str
    count: int
    reason: str
    moves: str
    until: datetime | None


@dataclass(frozen=True)
class RateView:
    """The ramp of a stage. per_min: of this minute; offered: in it so far; until: when the next one begins at the soonest."""

    per_min: int
    offered: int
    failed: int
    next_per_min: int
    until: datetime | None


def device_waits(
    snapshot: Snapshot, now: datetime, lots: Sequence[Lot] | None = None, shown: Iterable[Assignment] = ()
) -> dict[DeviceId, Wait]:
    """Return what each device waits for; those that wait for nothing are left out.

    lots: of all devices, when the snapshot has none; the one that stands for a lot is asked then. shown: others besides.
    """
    if lots is None:
        lots = [(a, 1) for a in snapshot.assignments]
    asked = {a.device: a for a in (*(a for a, _ in lots), *shown)}
    plan = PlanBuilder(replace(snapshot, assignments=tuple(asked.values())), now)
    found = dict(offers.explain(plan, lots).waits)
    spans = spans_of(snapshot.spec, lots)
    for a in asked.values():
        own = None if a.device in found else _own_wait(snapshot, a, now, spans)
        if own is not None:
            found[a.device] = own
    return found


def together(waits: Iterable[tuple[Wait, int]]) -> list[WaitView]:
    """Return waits, each with how many devices have it, by code, the most frequent first."""
    groups: dict[str, list[Wait]] = {}
    devices: Counter[str] = Counter()
    for wait, n in waits:
        groups.setdefault(wait.code, []).append(wait)
        devices[wait.code] += n
    views = []
    for code, some in groups.items():
        first = min((wait for wait in some if wait.until), key=lambda wait: wait.until or _NEVER, default=some[0])
        views.append(WaitView(code, devices[code], first.reason, first.moves, first.until))
    return sorted(views, key=lambda view: (-view.count, view.code))


def stage_waits(snapshot: Snapshot, index: int, waits: Mapping[DeviceId, Wait], lots: Iterable[Lot]) -> list[WaitView]:
    """Return what a stage waits for: its devices (lots: of it); before it opens, the stage before it."""
    runs = [run for run in snapshot.cells if run.stage == index]
    waiting = together((waits[a.device], n) for a, n in lots if a.device in waits)
    if snapshot.state not in (RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL, RolloutState.PAUSED):
        return waiting if snapshot.state is RolloutState.ROLLING_BACK else []
    held = [run for run in runs if run.state is StageState.HELD]
    if held:
        moves = f"`edgectl rollout resume {snapshot.id}` or `promote`, or `abort --rollback`"
        waiting.insert(0, WaitView(PERSON, len(held), held[0].reason, moves, None))
    asked = approvals.waiting(runs)
    if asked:
        waiting.append(_asked_for(snapshot, asked, asked[0].reason))
    pending = [run for run in runs if run.state is StageState.PENDING and run not in asked]
    if index and (pending or not runs):
        before = snapshot.spec.stages[index - 1].name
        reason = next((run.reason for run in pending if run.reason), "") or f"opens when {before} has passed"
        waiting.append(WaitView(EARLIER_STAGE, max(1, len(pending)), reason, f"{before} passes", None))
    return waiting or [_judged(snapshot, run) for run in runs if run.state in (StageState.SOAKING, StageState.JUDGING)]


def rollout_waits(snapshot: Snapshot, waits: Mapping[DeviceId, Wait], lots: Iterable[Lot]) -> list[WaitView]:
    """Return what a rollout waits for: others, a person, or what its devices wait for; nothing only once it is over for good."""
    devices = {a.device: (a, n) for a, n in lots}
    asked = approvals.waiting(snapshot.cells)
    match snapshot.state:
        case RolloutState.DRAFT | RolloutState.VALIDATING:
            moves = f"the rollouts before it end; or `edgectl rollout abort {snapshot.id}`"
            return [WaitView(QUEUE, 1, snapshot.reason or "it is about to begin", moves, None)]
        case RolloutState.PAUSED:
            moves = f"`edgectl rollout resume {snapshot.id}` goes on, `abort --rollback` takes the release back"
            return [WaitView(PERSON, 1, snapshot.reason, moves, None)]
        case RolloutState.AWAITING_APPROVAL:
            return [_asked_for(snapshot, asked, snapshot.reason)]
        case RolloutState.REGRESSED:
            moves = f"`edgectl rollout abort {snapshot.id} --rollback` takes the release back; without a word it stays"
            return [WaitView(PERSON, 1, snapshot.reason, moves, None)]
        case RolloutState.ROLLBACK_INCOMPLETE:
            missing = sum(n for a, n in devices.values() if a.back_at is not None and a.back_done_at is None)
            moves = "each is told as soon as it is there; else a person looks at it"
            return [WaitView(CONFIRM, max(1, missing), snapshot.reason, moves, None)]
        case RolloutState.RUNNING | RolloutState.ROLLING_BACK:
            open_ = [run for run in snapshot.cells if run.state in (StageState.SOAKING, StageState.JUDGING)]
            waiting = together((wait, devices[device][1]) for device, wait in waits.items())
            return waiting or [_judged(snapshot, run) for run in open_] or [_next_look(snapshot)]
        case _:
            return []


def _next_look(snapshot: Snapshot) -> WaitView:
    """Return what a rollout waits for in which nothing waits: the engine opens, judges or ends it when it looks."""
    reason = snapshot.reason or "the engine is about to look at it"
    return WaitView(TURN, 1, reason, "time: the engine looks every 2 s, and when devices that match appear", None)


def _asked_for(snapshot: Snapshot, asked: Sequence[StageRun], reason: str) -> WaitView:
    """Return that stages wait for an approval."""
    return WaitView(PERSON, len(asked), reason, approvals.how_to_answer(snapshot.id), _silent_at(snapshot, asked))


def _silent_at(snapshot: Snapshot, asked: Sequence[StageRun]) -> datetime | None:
    """Return when the first of these stages has waited too long for its approval."""
    ends = [
        run.asked_at + wanted.timeout
        for run in asked
        if run.asked_at is not None and (wanted := snapshot.spec.stages[run.stage].approval) is not None
    ]
    return min(ends, default=None)


def rate_view(snapshot: Snapshot, index: int, now: datetime) -> RateView | None:
    """Return how fast a stage goes, None when it has no rate."""
    rate = snapshot.spec.stages[index].rate
    if rate is None:
        return None
    known = next((one for one in snapshot.pace.minutes if one.stage == index), None)
    if known is None:
        return RateView(rate.start, 0, 0, rate.start, None)
    minute = ramp.minute_at(rate, index, known, now)
    until = minute.began_at + ramp.MINUTE
    return RateView(minute.per_min, minute.offered, minute.failed, ramp.next_rate(rate, minute), until)


def _own_wait(snapshot: Snapshot, a: Assignment, now: datetime, spans: Mapping[int, int]) -> Wait | None:
    if a.back_at is not None and a.back_done_at is None:
        until = a.back_at + snapshot.spec.device.ack
        return Wait(CONFIRM, "was told to go back and has not confirmed it", "its report; else it is named", until)
    if a.state is _S.OFFERED:
        return Wait(ACK, "has not taken its offer up", "its report; else it is unreachable then", a.deadline)
    if a.state is _S.VERIFYING:
        return Wait(PROBATION, "is on probation", "its report; when it falls silent it is lost", a.deadline)
    if a.state is _S.ACKED and not a.error_class and (wait := _spread(a, spans.get(a.stage, 0), now)):
        return wait
    if a.state in IN_FLIGHT:
        trouble = f", {a.error_class}: {a.reason}" if a.error_class else ""
        ends = "failed" if a.error_class else "lost"
        return Wait(DEVICE, f"is at {a.state}{trouble}", f"its report; else it is {ends} then", a.deadline)
    if a.state is _S.HEALTHY and (end := soak_end(snapshot, a, now)) > now:
        return Wait(SOAK, "is healthy and in its soak", "time", end)
    if a.state is _S.UNREACHABLE:
        return Wait(RETURN, a.reason or "is out of reach", "it comes back: then it joins")
    return None


def _spread(a: Assignment, within_s: int, now: datetime) -> Wait | None:
    """Return that a device waits for its part of the time over which devices begin, None when that must be over."""
    until = (a.entered_at or now) + timedelta(seconds=within_s)
    if a.retries or now >= until:
        return None
    reason = f"has its document; devices of its stage begin over {duration_text(timedelta(seconds=within_s))}, each at its own part"
    return Wait(SPREAD, reason, "time: then it asks for the bundle", until)


def _judged(snapshot: Snapshot, run: StageRun) -> WaitView:
    """Return what a stage waits for whose devices wait for nothing: its verdict."""
    since = run.resumed_at or run.opened_at
    policy = snapshot.spec.on_inconclusive
    until = None if since is None else since + policy.after
    moves = f"more devices, or `edgectl rollout promote {snapshot.id} --reason R`; else {policy.do} then"
    return WaitView(run.code or run.state.value, 1, f"{run.stratum}: {run.reason}", moves, until)

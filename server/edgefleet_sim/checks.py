"""What must hold at every commit and at the end, checked against what devices really did, not against what the server believes.

At every commit: transitions start from what is stored and are in their tables; an offer is made only while the rollout runs, to a
device below the cut of an open stage; a stage passes on devices that really ran the release for its soak, in the mode of the stage;
a shadow answers nothing and a split its share at most; what is taken back is taken back newest exposed first. At the end: the log of
each rollout, stage and device is one chain without a gap or a doubled step; stages opened in order; the rollout and each device have
an outcome and a reason; who can be reached runs what its document names, and nothing next to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_protocol.rollout_states import ROLLOUT_FINAL
from edgefleet_server.rollout.analysis.model import Advance
from edgefleet_server.rollout.effects import (
    AssignmentTransitioned,
    DecisionMade,
    LeaseEnded,
    LeaseTaken,
    Offer,
    Plan,
    RampWindowUpdated,
    Revert,
    RolloutTransitioned,
    StageRunTransitioned,
)
from edgefleet_server.rollout.model import Assignment, RolloutState, StageRun, StageState, Strength
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.state_machines import (
    ASSIGNMENT_FINAL,
    ASSIGNMENT_TRANSITIONS,
    CELL_OPEN,
    ROLLOUT_TRANSITIONS,
    ROLLOUT_WALKS,
    STAGE_TRANSITIONS,
)
from edgefleet_sim.database import SimDatabase
from edgefleet_sim.device import SimDevice

INITIAL: Final = {"rollout": "running", "stage": "pending", "assignment": "eligible"}
EDGES: Final[Mapping[str, frozenset[tuple[str, str]]]] = {
    "rollout": frozenset((a.value, b.value) for (a, _), b in ROLLOUT_TRANSITIONS.items()),
    "stage": frozenset((a.value, b.value) for (a, _), b in STAGE_TRANSITIONS.items()),
    "assignment": frozenset((a.value, b.value) for (a, _), b in ASSIGNMENT_TRANSITIONS.items()),
}
PASSED: Final = frozenset({StageState.PASSED.value, StageState.SKIPPED.value})
_S: Final = AssignmentState


class BrokenPromiseError(AssertionError):
    """The server did what it must never do."""


def check_plan(rows: SimDatabase, plan: Plan, devices: Mapping[DeviceId, SimDevice], now: datetime) -> None:
    """Check a plan before it is carried out. Raises BrokenPromiseError."""
    for problem in _about_plan(rows, plan, devices, now):
        raise BrokenPromiseError(problem)


def _about_plan(rows: SimDatabase, plan: Plan, devices: Mapping[DeviceId, SimDevice], now: datetime) -> Iterator[str]:
    state = rows.state
    cells = {key: cell.state for key, cell in rows.cells.items()}
    ones = {device: one.state for device, one in rows.assignments.items()}
    newest = dict(rows.assignments)
    backs: list[datetime] = []
    for effect in plan.effects:
        match effect:
            case RolloutTransitioned():
                if effect.before is not state or (effect.before.value, effect.after.value) not in EDGES["rollout"]:
                    yield f"the rollout is {state} and moves from {effect.before} to {effect.after}"
                state = effect.after
            case StageRunTransitioned():
                key = (effect.cell.stage, effect.cell.stratum)
                if effect.before is not cells.get(key, StageState.PENDING):
                    yield f"stage {key} is {cells.get(key)} and moves from {effect.before}"
                cells[key] = effect.cell.state
            case AssignmentTransitioned():
                one = effect.assignment
                if effect.before is not ones.get(one.device, _S.ELIGIBLE):
                    yield f"{one.device} is {ones.get(one.device)} and moves from {effect.before}"
                ones[one.device] = one.state
                newest[one.device] = one  # a device that is heard now counts as exposed now
            case Revert() if effect.is_rollback:
                known = newest[effect.device]
                backs.append(known.exposed_at or known.offered_at or now)
            case DecisionMade() if isinstance(effect.decision, Advance):
                yield from _about_promotion(rows, effect, devices, now)
            case _:
                pass
    if backs != sorted(backs, reverse=True):
        yield "devices were not taken back newest exposed first"
    yield from _about_offers(rows, plan, state)
    yield from about_shares(rows, devices)
    yield from _about_pace(rows, plan)


def _about_offers(rows: SimDatabase, plan: Plan, state: RolloutState) -> Iterator[str]:
    offers = [effect.device for effect in plan.effects if isinstance(effect, Offer)]
    if not offers:
        return
    if rows.state not in ROLLOUT_WALKS or state is not RolloutState.RUNNING:
        yield f"offered while the rollout is {rows.state}, then {state}"
    cells = dict(rows.cells)
    moved = {e.assignment.device: e.assignment for e in plan.effects if isinstance(e, AssignmentTransitioned)}
    for effect in plan.effects:
        if isinstance(effect, StageRunTransitioned):
            cells[effect.cell.stage, effect.cell.stratum] = effect.cell
    stages = rows.spec.stages
    for device in offers:
        one = moved[device]
        newest = max(stage for stage, stratum in cells if stratum == one.stratum and _is_begun(cells[stage, stratum]))
        if stages[one.stage].mode is not stages[newest].mode:
            yield f"{device} was offered the release in stage {one.stage}, though stage {newest} has another mode"
        cell = cells[one.stage, one.stratum]
        is_let_through = cell.state is StageState.PASSED
        if cell.state not in CELL_OPEN and not is_let_through:
            yield f"{device} was offered the release in stage {one.stage}, which is {cell.state}"
        if rank(rows.salt, device) >= cell.cut:
            yield f"{device} was offered the release beyond the cut of stage {one.stage}"


def _about_pace(rows: SimDatabase, plan: Plan) -> Iterator[str]:
    """A minute never offers more than its rate, and no more downloads are begun than may be under way."""
    held = set(rows.pace.leases)
    for effect in plan.effects:
        if isinstance(effect, RampWindowUpdated) and effect.minute.offered > effect.minute.per_min:
            yield f"stage {effect.minute.stage} offered {effect.minute.offered} in a minute of {effect.minute.per_min}"
        held |= {effect.lease.device} if isinstance(effect, LeaseTaken) else set()
        held -= {effect.device} if isinstance(effect, LeaseEnded) else set()
    most = rows.spec.limits.concurrent_downloads
    if most is not None and len(held) > max(most, len(rows.pace.leases)):
        yield f"{len(held)} downloads may be under way, at most {most} are allowed"


def _is_begun(cell: StageRun) -> bool:
    return cell.state is not StageState.PENDING


def _about_promotion(
    rows: SimDatabase, judged: DecisionMade, devices: Mapping[DeviceId, SimDevice], now: datetime
) -> Iterator[str]:
    """A stage passes on devices of its own mode that really ran the release for their soak."""
    facts, stages = judged.facts, rows.spec.stages
    stratum, mode = ProfileName(facts.stratum), stages[facts.stage].mode
    alike = [one for one in rows.assignments.values() if one.stratum == stratum and stages[one.stage].mode is mode]
    ran = sum(_ran_past_soak(rows, one, devices[one.device], now) for one in alike)
    if not 0 < facts.counts.healthy <= ran:
        yield f"stage {facts.stage} of {stratum} passed on {facts.counts.healthy} healthy devices, {ran} really were"


def _ran_past_soak(rows: SimDatabase, one: Assignment, device: SimDevice, now: datetime) -> bool:
    digest, stage = rows.bundles[one.stratum].sha256, rows.spec.stages[one.stage]
    if stage.mode is Mode.ACTIVE:
        since = device.switched_at.get(digest)
        return digest in device.committed and since is not None and since + stage.soak <= now
    # what a device has not reported yet cannot be known: it may have ended between its last report and the verdict, and of a power
    # cut nothing is heard when the next report to arrive says again that it runs
    candidate = device.candidate_process
    heard = rows.reports.get(device.id)
    is_unreported = heard is None or heard.candidate != candidate.reported or device.crashes > 0
    return candidate.ran(now) >= stage.soak or (
        is_unreported and candidate.first is not None and candidate.first + stage.soak <= now
    )


def about_shares(rows: SimDatabase, devices: Mapping[DeviceId, SimDevice]) -> Iterator[str]:
    """Nowhere does the release answer more than its device was ever to let it: nothing in a shadow, in a split its share."""
    stages = rows.spec.stages
    if all(stage.mode is Mode.ACTIVE for stage in stages):
        return
    for one in rows.assignments.values():
        device, value = devices[one.device], rank(rows.salt, one.device)
        cells = (cell for cell in rows.cells.values() if cell.stratum == one.stratum and value < cell.cut)
        reached = [stages[cell.stage] for cell in cells if _is_begun(cell)]
        most = max((100 if stage.mode is Mode.ACTIVE else stage.share_pct for stage in reached), default=0)
        answers = 100 if device.active == rows.bundles[one.stratum].sha256 else device.candidate_process.share_pct()
        if answers > most:
            yield f"the release answers {answers} % of the requests of {one.device}, at most {most} % may be"


def problems(rows: SimDatabase, devices: Mapping[DeviceId, SimDevice], now: datetime) -> list[str]:
    """Return what is wrong with a rollout that has ended and settled."""
    return [*_about_chains(rows), *_about_order(rows), *_about_outcomes(rows), *_about_devices(rows, devices, now)]


def _about_chains(rows: SimDatabase) -> Iterator[str]:
    """No transition is lost or doubled: the log is one chain from the first state to the stored one."""
    names = {stage: spec.name for stage, spec in enumerate(rows.spec.stages)}
    ends = {("rollout", ""): rows.state.value}
    ends |= {("stage", f"{names[cell.stage]}/{cell.stratum}"): cell.state.value for cell in rows.cells.values()}
    ends |= {("assignment", device): one.state.value for device, one in rows.assignments.items()}
    chains = dict(rows.chains())
    for (kind, key), end in ends.items():
        at = INITIAL[kind]
        for event in chains.get((kind, key), []):
            if event.before != at:
                yield f"{kind} {key}: goes from {event.before} to {event.after}, but it was {at}"
            if (event.before, event.after) not in EDGES[kind]:
                yield f"{kind} {key}: goes from {event.before} to {event.after}, which no table has"
            at = event.after
        if at != end:
            yield f"{kind} {key}: the log ends at {at}, the rows say {end}"


def _about_order(rows: SimDatabase) -> Iterator[str]:
    """No stage is skipped or doubled: each opens after the one before it passed, and passes once."""
    chains = dict(rows.chains())
    order = {id(event): place for place, event in enumerate(rows.events)}
    for stage, stratum in rows.cells:
        events = chains.get(("stage", f"{rows.spec.stages[stage].name}/{stratum}"), [])
        opened = [order[id(e)] for e in events if e.before == "pending" and e.after == "exposing"]
        passed = [e for e in events if e.after in PASSED]
        if len(opened) > 1 or len(passed) > 1:
            yield f"stage {stage} of {stratum} opened {len(opened)} times and passed {len(passed)} times"
        if stage and opened:
            former = chains.get(("stage", f"{rows.spec.stages[stage - 1].name}/{stratum}"), [])
            if not any(e.after in PASSED and order[id(e)] < opened[0] for e in former):
                yield f"stage {stage} of {stratum} opened before stage {stage - 1} had passed"
    for device, one in rows.assignments.items():
        offers = [e for e in chains.get(("assignment", device), []) if e.after == "offered"]
        if len(offers) != one.attempt:
            yield f"{device} was offered the release {len(offers)} times, the rows say {one.attempt}"


def _about_outcomes(rows: SimDatabase) -> Iterator[str]:
    if rows.state not in ROLLOUT_FINAL:
        yield f"the rollout has not ended: {rows.state} ({rows.reason})"
    elif not rows.reason:
        yield f"the rollout ended {rows.state} without a reason"
    for device, one in rows.assignments.items():
        if one.state not in ASSIGNMENT_FINAL and one.state is not _S.UNREACHABLE:
            is_let_be = rows.cells and any(
                cell.strength is Strength.OVERRIDE for cell in rows.cells.values() if cell.stratum == one.stratum
            )
            # a stratum may go back while others finish: who was not heard to be back is named then, too
            is_named = one.reason.startswith(NOT_BACK) and device in rows.reason
            is_on_its_way = rows.state is RolloutState.ROLLBACK_INCOMPLETE or is_let_be or is_named
            if not is_on_its_way:
                yield f"{device} ended {one.state}: no outcome"
        if one.state is not _S.HEALTHY and not one.reason and one.state in ASSIGNMENT_FINAL:
            yield f"{device} ended {one.state} without a reason"


def _about_devices(rows: SimDatabase, devices: Mapping[DeviceId, SimDevice], now: datetime) -> Iterator[str]:
    """Who can be reached runs what its document names, or is on its way to it, or says why not."""
    for device in devices.values():
        if device.is_dead or not device.is_up:
            continue
        wanted = rows.documents[device.id].active
        if rows.documents[device.id].candidate is not None:
            yield f"{device.id} is still told to run the release beside what serves"
        elif device.document.candidate is None and not device.candidate_process.is_idle:
            yield f"{device.id} runs beside what serves what no document names"
        if device.document.gen != rows.documents[device.id].gen:
            yield f"{device.id} has document {device.document.gen}, the newest is {rows.documents[device.id].gen}"
        elif wanted is not None and device.active != wanted.sha256 and not device.record.reason:
            is_held = wanted.sha256 in device.hold.digests or device.document.rollout in device.hold.rollouts
            if not is_held and not device.is_on_its_way(now):  # one that gave up may try again for ever
                yield f"{device.id} runs {device.active[:12]}, is told to run {wanted.sha256[:12]}, and gives no reason"

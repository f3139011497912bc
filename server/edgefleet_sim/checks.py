"""What must hold at every commit and at the end, checked against what devices really did, not against what the server believes.

At every commit: transitions start from what is stored and are in their tables; a stage opens once those before it have passed, at
somebody's word where it asks for one; an offer is made only while the rollout runs, to a device below the cut of an open stage that
does not bar it; while a question about failures is open in a stratum, only the one device that was drawn for it is offered the
release there; failures of one device alone take no stratum of several devices back, unless the server's own check proved them; a
stage passes on devices that really ran the release for its soak, in the mode of the stage; a shadow answers nothing and a split its
share at most; who joins late does so a few at a time; what is taken back is taken back newest exposed first.
At the end: the log of each rollout, stage and device is one chain without a gap or a doubled step; stages opened in order; the
rollout and each device have an outcome and a reason; who can be reached runs what its document names, and nothing next to it, and
where the release was taken back that is something else; where it stays, every question about failures was answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import decide, metrics, plain_rules, stage_gates
from edgefleet_server.rollout.analysis.model import Advance, Rule
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    ConfirmationUpdated,
    DecisionMade,
    LeaseEnded,
    LeaseTaken,
    Offer,
    Plan,
    RampWindowUpdated,
    Revert,
    RolloutTransitioned,
    StageRunCreated,
    StageRunTransitioned,
    StageRunUpdated,
)
from edgefleet_server.rollout.model import (
    Assignment,
    Confirmation,
    RolloutState,
    StageRun,
    StageState,
    Strength,
    Verdict,
)
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.planner.intake import JOINER_SHARE
from edgefleet_server.rollout.planner.observe import OVERWRITTEN
from edgefleet_server.rollout.planner.stages import DENIED, NO_CANARY, OPENED, UNANSWERED
from edgefleet_server.rollout.spec.fields import NO_ROLLBACK
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.state_machines import (
    ASSIGNMENT_FINAL,
    ASSIGNMENT_TRANSITIONS,
    CELL_OPEN,
    IN_FLIGHT,
    ROLLOUT_TRANSITIONS,
    ROLLOUT_WALKS,
    STAGE_TRANSITIONS,
)
from edgefleet_sim.confirmers import about_words
from edgefleet_sim.device import SimDevice
from edgefleet_sim.memory_database import SimDatabase
from edgefleet_terms.rollout_states import ROLLOUT_FINAL

INITIAL: Final = {"rollout": "running", "stage": "pending", "assignment": "eligible"}
EDGES: Final[Mapping[str, frozenset[tuple[str, str]]]] = {
    "rollout": frozenset((a.value, b.value) for (a, _), b in ROLLOUT_TRANSITIONS.items()),
    "stage": frozenset((a.value, b.value) for (a, _), b in STAGE_TRANSITIONS.items()),
    "assignment": frozenset((a.value, b.value) for (a, _), b in ASSIGNMENT_TRANSITIONS.items()),
}
PASSED: Final = frozenset({StageState.PASSED.value, StageState.SKIPPED.value})
FAILS_UNOPENED: Final = frozenset(
    {
        UNANSWERED,
        DENIED,
        NO_CANARY,
        plain_rules.GUARD_CLASS,
        plain_rules.GUARD_LOST,
        plain_rules.SMALL_CLASS,
        plain_rules.SMALL_TWO,
        decide.ABORT_EVIDENCE,
        decide.ABORT_POOLED,
        metrics.QUALITY_BREACH,
        stage_gates.GATE_ROLLBACK,
    }
)
"""The codes with which a stage is opened only to fail in the same plan, offered to nobody: a person said no or nothing, no other
stratum had a canary, or the devices of the stage before spoke against the release while it waited (no `inconclusive` among these:
they are asked as if no time had passed)."""
_S: Final = AssignmentState
_SETTLED: Final = frozenset({StageState.SOAKING, StageState.JUDGING})
_Runs = dict[tuple[int, ProfileName], StageRun]


class BrokenPromiseError(AssertionError):
    """The server did what it must never do."""


def check_plan(rows: SimDatabase, plan: Plan, devices: Mapping[DeviceId, SimDevice], now: datetime) -> None:
    """Check a plan before it is carried out. Raises BrokenPromiseError."""
    for problem in _about_plan(rows, plan, devices, now):
        raise BrokenPromiseError(problem)


def _about_plan(rows: SimDatabase, plan: Plan, devices: Mapping[DeviceId, SimDevice], now: datetime) -> Iterator[str]:
    state = rows.state
    runs, newest = dict(rows.cells), dict(rows.assignments)
    backs: list[datetime] = []
    drawn = {draw.device for one in questions_after(rows.confirmations, plan) for draw in one.draws if draw.is_new}
    for effect in plan.effects:
        match effect:
            case RolloutTransitioned():
                if effect.before is not state or (effect.before.value, effect.after.value) not in EDGES["rollout"]:
                    yield f"the rollout is {state} and moves from {effect.before} to {effect.after}"
                state = effect.after
            case StageRunCreated() | StageRunUpdated() | StageRunTransitioned():
                yield from _about_stage(rows, effect, runs, newest)
                runs[effect.cell.stage, effect.cell.stratum] = effect.cell
            case AssignmentCreated() | AssignmentUpdated() | AssignmentTransitioned():
                yield from _about_assignment(effect, newest)
                newest[effect.assignment.device] = effect.assignment  # a device that is heard now counts as exposed now
                if isinstance(effect, AssignmentCreated):
                    yield from _about_joiner(effect.assignment, runs, newest, drawn)
            case Revert() if effect.is_rollback:
                known = newest[effect.device]
                backs.append(known.exposed_at or known.offered_at or now)
            case DecisionMade() if isinstance(effect.decision, Advance):
                yield from _about_promotion(rows, effect, devices, now)
            case _:
                pass
    if backs != sorted(backs, reverse=True):
        yield "devices were not taken back newest exposed first"
    for key, run in runs.items():
        before = rows.cells.get(key)
        if (
            run.code in FAILS_UNOPENED
            and run.state in CELL_OPEN
            and (before is None or before.state is StageState.PENDING)
        ):
            yield f"stage {key} was to fail unopened and is open"
    yield from _about_offers(rows, plan, state)
    yield from about_words(plan, rows.spec, rows.state, newest, questions_after(rows.confirmations, plan))
    yield from about_shares(rows, devices)
    yield from _about_pace(rows, plan, devices)


def _about_stage(
    rows: SimDatabase,
    effect: StageRunCreated | StageRunUpdated | StageRunTransitioned,
    runs: _Runs,
    ones: Mapping[DeviceId, Assignment],
) -> Iterator[str]:
    """A stage opens once those before it have passed, by its code and its approval; its cut never changes while it is open."""
    run, key = effect.cell, (effect.cell.stage, effect.cell.stratum)
    if isinstance(effect, StageRunCreated):
        if key in runs:
            yield f"stage {key} was created twice"
        return
    stored = runs[key]
    before = effect.before if isinstance(effect, StageRunTransitioned) else run.state
    if before is not stored.state:
        yield f"stage {key} is {stored.state} and moves from {before}"
    if isinstance(effect, StageRunUpdated):
        return
    shapes = list(rows.spec.stages)
    earlier = [other for (stage, stratum), other in runs.items() if stratum == run.stratum and stage < run.stage]
    if stored.state is not StageState.PENDING:
        if stored.cut != run.cut:
            yield f"the cut of stage {key} changed while it was open"
    elif run.state is StageState.SKIPPED:
        if all(shape.mode is Mode.ACTIVE and not shape.match for shape in shapes) and any(
            one.gen and one.state in IN_FLIGHT for one in ones.values() if one.stratum == run.stratum
        ):
            yield f"stage {key} was skipped with devices in it"
    else:
        yield from about_opening(rows, run, earlier)


def about_opening(rows: SimDatabase, run: StageRun, earlier: list[StageRun]) -> Iterator[str]:
    """What is wrong with a stage that leaves pending. earlier: the stages before it, of its stratum."""
    shapes, key = list(rows.spec.stages), (run.stage, run.stratum)
    if not all(other.state in PASSED for other in earlier):
        yield f"stage {key} left pending before the one before it passed"
    if run.cut < max((o.cut for o in earlier if shapes[o.stage].match == shapes[run.stage].match), default=0):
        yield f"the cut of stage {key} fell"
    if run.code in FAILS_UNOPENED:
        return
    if run.code != OPENED:
        yield f"stage {key} opened with the code {run.code!r}"
    if shapes[run.stage].approval is not None and not run.approved_by:
        yield f"stage {key} opened without its approval"


def _about_assignment(
    effect: AssignmentCreated | AssignmentUpdated | AssignmentTransitioned, ones: Mapping[DeviceId, Assignment]
) -> Iterator[str]:
    one, stored = effect.assignment, ones.get(effect.assignment.device)
    if isinstance(effect, AssignmentCreated):
        if stored is not None:
            yield f"{one.device} was assigned twice"
        return
    before = effect.before if isinstance(effect, AssignmentTransitioned) else one.state
    if stored is None or before is not stored.state:
        yield f"{one.device} is {stored and stored.state} and moves from {before}"


def _about_joiner(
    new: Assignment, runs: _Runs, ones: Mapping[DeviceId, Assignment], drawn: AbstractSet[DeviceId]
) -> Iterator[str]:
    """Who joins a stage that soaks or is judged does so a few at a time. drawn: one more for each question."""
    if new.device in drawn or not any(run.state in _SETTLED for run in runs.values() if run.stratum == new.stratum):
        return
    track = [one for one in ones.values() if one.stratum == new.stratum and one.device not in drawn]
    flying = sum(one.is_joiner and (one.state in IN_FLIGHT or one.state is _S.ELIGIBLE) for one in track)
    exposed = sum(one.exposed_at is not None for one in track)
    if flying > max(1, exposed * JOINER_SHARE):
        yield f"{flying} joiners at once in a stage of {exposed}"


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
    stages, members = rows.spec.stages, {one.device: one for one in rows.members_now()}
    drawn = {draw.device for one in questions_after(rows.confirmations, plan) for draw in one.draws if draw.is_new}
    for device in offers:
        one = moved[device]
        newest = max(stage for stage, stratum in cells if stratum == one.stratum and _is_begun(cells[stage, stratum]))
        if stages[one.stage].mode is not stages[newest].mode:
            yield f"{device} was offered the release in stage {one.stage}, though stage {newest} has another mode"
        cell = cells[one.stage, one.stratum]
        track = sorted((c for c in cells.values() if c.stratum == one.stratum), key=lambda c: c.stage)
        # Also of a device that came back late: its first offer was out when the last stage passed, and a pause took it back.
        is_hurried = track[-1].strength is Strength.OVERRIDE or rows.spec.recalls or one.attempt > 1
        is_last_passed = track[-1].state is StageState.PASSED and is_hurried
        if sum(c.state in CELL_OPEN for c in track) != 1 and not is_last_passed:
            yield f"{device} was offered the release while not exactly one stage of {one.stratum} was open"
        if device in members and one.stage in members[device].barred:
            yield f"{device} was offered the release in stage {one.stage}, which bars it"
        is_let_through = cell.state is StageState.PASSED
        if cell.state not in CELL_OPEN and not is_let_through:
            yield f"{device} was offered the release in stage {one.stage}, which is {cell.state}"
        if rank(rows.salt, device) >= cell.cut and device not in drawn:
            yield f"{device} was offered the release beyond the cut of stage {one.stage}"


def _about_pace(rows: SimDatabase, plan: Plan, devices: Mapping[DeviceId, SimDevice]) -> Iterator[str]:
    """A minute never offers more than its rate, no more downloads are begun than may be under way, and none without a lease."""
    limits, held, sites = rows.spec.limits, set(rows.pace.leases), Counter[str]()
    for effect in plan.effects:
        if isinstance(effect, RampWindowUpdated) and effect.minute.offered > effect.minute.per_min:
            yield f"stage {effect.minute.stage} offered {effect.minute.offered} in a minute of {effect.minute.per_min}"
        held |= {effect.lease.device} if isinstance(effect, LeaseTaken) else set()
        held -= {effect.device} if isinstance(effect, LeaseEnded) else set()
    if not limits.are_set:
        return
    most = limits.concurrent_downloads
    if most is not None and len(held) > max(most, len(rows.pace.leases)):
        yield f"{len(held)} downloads may be under way, at most {most} are allowed"
    sites.update(site for device in held if (site := rows.where[device].site))
    if limits.per_site is not None and max(sites.values(), default=0) > limits.per_site:
        yield f"downloads by site: {dict(sites)}, at most {limits.per_site} are allowed"
    busy = {device for device in rows.assignments if devices[device].is_downloading}
    if rows.state not in ROLLOUT_FINAL and busy - held:  # after the end those who were away come back when they like
        yield f"{sorted(busy - held)} download without a lease"


def questions_after(asked: Mapping[tuple[ProfileName, int], Confirmation], plan: Plan) -> list[Confirmation]:
    """Return the questions as they are once a plan is carried out."""
    new = (effect.confirmation for effect in plan.effects if isinstance(effect, ConfirmationUpdated))
    return list({**asked, **{(one.stratum, one.number): one for one in new}}.values())


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
    if facts.rule is Rule.ALL_HEALTHY:
        if facts.counts.failed or facts.counts.pending:
            yield f"stage {facts.stage} of {stratum} passed with devices that are not healthy"
        if facts.counts.healthy < min(2, facts.population):
            yield f"stage {facts.stage} of {stratum} passed on fewer devices than its rule asks for"


def _ran_past_soak(rows: SimDatabase, one: Assignment, device: SimDevice, now: datetime) -> bool:
    digest, stage = rows.bundles[one.stratum].sha256, rows.spec.stages[one.stage]
    if device.nature.lie is not None and device.nature.lie.hides:
        return True  # nobody can know
    if stage.mode is Mode.ACTIVE:
        since = device.switched_at.get(digest)
        return digest in device.committed and since is not None and since + stage.soak <= now
    # what a device has not reported yet cannot be known: it may have ended between its last report and the verdict, and of a power
    # cut nothing is heard when the next report to arrive says again that it runs
    candidate = device.candidate_process
    heard = rows.reports.get(device.id)
    is_unheard = device.crashes + candidate.rests > 0
    is_unreported = heard is None or heard.candidate != candidate.reported or is_unheard
    return candidate.ran(now) >= stage.soak or (
        is_unreported and candidate.first is not None and candidate.first + stage.soak <= now
    )


def about_shares(rows: SimDatabase, devices: Mapping[DeviceId, SimDevice]) -> Iterator[str]:
    """Nowhere does the release answer more than its device was ever to let it: nothing in a shadow, in a split its share."""
    stages = rows.spec.stages
    if all(stage.mode is Mode.ACTIVE for stage in stages):
        return
    drawn = {draw.device for asked in rows.asked() for draw in asked.draws if draw.is_new}
    begun: dict[ProfileName, list[StageRun]] = {}
    for cell in rows.cells.values():
        if _is_begun(cell):
            begun.setdefault(cell.stratum, []).append(cell)
    for one in rows.assignments.values():
        device, value = devices[one.device], rank(rows.salt, one.device)
        drawn_in = one.stage if one.device in drawn else -1
        ours = begun.get(one.stratum, ())
        reached = [stages[cell.stage] for cell in ours if value < cell.cut or cell.stage == drawn_in]
        most = max((100 if shape.mode is Mode.ACTIVE else shape.share_pct for shape in reached), default=0)
        mine = rows.bundles.get(one.stratum)
        answers = 100 if mine is not None and device.active == mine.sha256 else device.candidate_process.share_pct()
        if answers > most:
            yield f"the release answers {answers} % of the requests of {one.device}, at most {most} % may be"


def problems(rows: SimDatabase, devices: Mapping[DeviceId, SimDevice], now: datetime) -> list[str]:
    """Return what is wrong with a rollout that has ended and settled."""
    found = [*_about_chains(rows), *_about_order(rows), *_about_outcomes(rows), *_about_devices(rows, devices, now)]
    return [*found, *_about_answers(rows, now), *_about_rollback(rows, devices)]


def _about_answers(rows: SimDatabase, now: datetime) -> Iterator[str]:
    failed = {cell.stratum for cell in rows.cells.values() if cell.state is StageState.FAILED}
    for one in rows.asked():
        is_due = one.verdict is Verdict.OPEN and one.deadline <= now and one.stratum not in failed
        if rows.state is RolloutState.FINISHED and is_due:
            yield f"question {one.number} of {one.stratum} is still open"


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


def _about_rollback(rows: SimDatabase, devices: Mapping[DeviceId, SimDevice]) -> Iterator[str]:
    """Where the release was taken back no document names it and nobody who can be reached runs it, but for those that are named."""
    failed = {cell.stratum for cell in rows.cells.values() if cell.state is StageState.FAILED}
    if rows.state is RolloutState.FINISHED:
        ours = [
            one.device for one in rows.members.values() if one.stratum in rows.bundles and one.stratum not in failed
        ]
        left = [device for device in ours if device not in rows.assignments]
        if len(left) > rows.joiners:
            yield f"{left} were never asked"
    if rows.state in (RolloutState.CANCELLED, RolloutState.SUPERSEDED):
        return
    if rows.state in (RolloutState.ROLLED_BACK, RolloutState.ROLLBACK_INCOMPLETE):
        failed |= {one.stratum for one in rows.assignments.values()}
    for one in rows.assignments.values():
        if one.stratum not in failed or one.stratum not in rows.bundles or one.device in rows.revoked:
            continue
        device, document, mine = devices[one.device], rows.documents[one.device], rows.bundles[one.stratum]
        is_named = one.reason.startswith(NOT_BACK)
        if document.rollout and not (is_named and rows.spec.rollback_to == NO_ROLLBACK):
            yield f"{one.device} ({one.state}) is still told to run the release that was taken back"
        is_named |= one.reason == OVERWRITTEN and document.active not in (None, mine)
        if device.is_up and not device.is_dead and device.active == mine.sha256 and not is_named:
            yield f"{one.device} ({one.state}) still runs the release that was taken back"


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
        if max(device.document.gen, device.refused_gen) != rows.documents[device.id].gen:
            yield f"{device.id} has document {device.document.gen}, the newest is {rows.documents[device.id].gen}"
        elif (
            not device.refused_gen
            and wanted is not None
            and device.active != wanted.sha256
            and not device.record.reason
        ):
            is_held = wanted.sha256 in device.hold.digests or device.document.rollout in device.hold.rollouts
            if not is_held and not device.is_on_its_way(now):  # one that gave up may try again for ever
                yield f"{device.id} runs {device.active[:12]}, is told to run {wanted.sha256[:12]}, and gives no reason"

"""The checker of rollouts: compares the event log with the tables. One text for each contradiction; none means all is well.

It trusts neither: the chain of `from → to` events of every rollout, cell and assignment must begin at the initial state, have no
gap, no doubled and no illegal transition, and end where the table says. It draws ranks and cuts anew, and asks every decision again.
No decision may take a release back from others because of what one device reports.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlmodel import Session, col

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.db.database import Database
from edgefleet_server.events.tables import FleetEvent
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice
from edgefleet_server.rollout.analysis import decide, plain_rules, replay
from edgefleet_server.rollout.analysis.confirmation import ALIVE
from edgefleet_server.rollout.model import (
    Answer,
    Assignment,
    Confirmation,
    RolloutState,
    StageRun,
    StageState,
    Strength,
    Verdict,
)
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.state_machines import (
    ASSIGNMENT_FINAL,
)
from edgefleet_server.rollout.store import assignments as store_assignments
from edgefleet_server.rollout.store import confirmation_rows, rollouts
from edgefleet_server.rollout.store.tables import Rollout
from edgefleet_sim.checks import EDGES
from edgefleet_terms.rollout_states import ROLLOUT_FINAL

INITIAL: Final = {"rollout": "draft", "stage": "pending", "assignment": "eligible"}
BY_FAILURES: Final = frozenset(
    {
        plain_rules.GUARD_CLASS,
        plain_rules.GUARD_LOST,
        plain_rules.SMALL_CLASS,
        plain_rules.SMALL_TWO,
        decide.ABORT_EVIDENCE,
        decide.ABORT_POOLED,
    }
)
"""Codes of decisions that rest on what devices report."""
OUTCOME: Final = ASSIGNMENT_FINAL | {AssignmentState.UNREACHABLE}

Chains = dict[tuple[str, Any], list[FleetEvent]]


def stage_of(device_rank: int, cuts: Sequence[int]) -> int | None:
    """Return the index of the stage that a rank belongs to, None when no open stage reaches it. cuts: in order of stage."""
    return next((index for index, cut in enumerate(cuts) if device_rank < cut), None)


def audit(db: Database, rollout_id: str) -> list[str]:
    """Return every contradiction of one rollout."""
    with db.read() as session:
        row = rollouts.rollout(session, rollout_id)
        cells = rollouts.cells(session, rollout_id)
        assignments = store_assignments.assignments(session, rollout_id)
        chains = _chains(session, rollout_id)
        asked = confirmation_rows.of_rollout(session, rollout_id)
        return [
            *_about_chains(row, cells, assignments, chains),
            *_about_questions(asked, assignments, chains),
            *_about_order([stage.name for stage in parse_spec(row.spec).stages], cells, assignments, chains),
            *_about_members(session, row, cells, assignments, asked),
            *_about_gens(session, assignments),
            *_about_decisions(session, row, cells),
        ]


def _chains(session: Session, rollout_id: str) -> Chains:
    found: Chains = defaultdict(list)
    rows = session.execute(
        select(FleetEvent).where(col(FleetEvent.rollout_id) == rollout_id).order_by(col(FleetEvent.id))
    )
    for event in rows.scalars():
        match event.kind:
            case "stage":
                key: Any = (event.detail["stratum"], event.detail["stage_idx"])
            case "assignment":
                key = event.device_id
            case "confirmation":
                key = event.detail["stratum"]
            case _:
                key = ""
        found[event.kind, key].append(event)
    return found


def _about_chains(row: Rollout, cells: list[StageRun], assignments: list[Assignment], chains: Chains) -> Iterator[str]:
    ends: dict[tuple[str, Any], str] = {("rollout", ""): row.state}
    ends |= {("stage", (cell.stratum, cell.stage)): cell.state.value for cell in cells}
    ends |= {("assignment", one.device): one.state.value for one in assignments}
    for key in (one for one in chains.keys() - ends.keys() if one[0] != "confirmation"):
        yield f"events of {key}, which is in no table"
    for (kind, key), end in ends.items():
        at = INITIAL[kind]
        for event in chains.get((kind, key), []):
            before, after = event.detail["from"], event.detail["to"]
            if before != at:
                yield f"{kind} {key}: event {event.id} goes from {before} to {after}, but it was {at}"
            if (before, after) not in EDGES[kind]:
                yield f"{kind} {key}: event {event.id} goes from {before} to {after}, which no table has"
            at = after
        if at != end:
            yield f"{kind} {key}: the events end at {at}, the table says {end}"


def _about_questions(asked: Sequence[Confirmation], assignments: list[Assignment], chains: Chains) -> Iterator[str]:
    """The questions of a stratum come one after the other; nobody is asked about itself, or asked for more than is allowed."""
    known = {one.device for one in assignments}
    for stratum in {one.stratum for one in asked} | {key for kind, key in chains if kind == "confirmation"}:
        mine = [one for one in asked if one.stratum == stratum]
        ended: list[str] = []
        for event in chains.get(("confirmation", stratum), []):
            before, after = event.detail["from"], event.detail["to"]
            at = ended[-1] if ended else ""
            if before == "":
                ended.append(after)
                if at == Verdict.OPEN.value:
                    yield f"{stratum}: event {event.id} asks while a question is open"
                continue
            if before != at or at not in {one.value for one in ALIVE}:
                yield f"{stratum}: event {event.id} answers {before} → {after}, but the question was {at or 'not asked'}"
            ended[-1:] = [after]
        if ended != [one.verdict.value for one in mine]:
            yield f"{stratum}: the events end at {ended}, the table says {[one.verdict.value for one in mine]}"
    for one in asked:
        drawn = [draw.device for draw in one.draws]
        if len(set(drawn)) < len(drawn) or one.words[0] in drawn or not set(drawn) <= known:
            yield f"question {one.number} of {one.stratum} about {one.words} drew {drawn}"
        if sum(draw.is_new for draw in one.draws) > 1 or len(drawn) - one.count(Answer.GONE) > one.most:
            yield f"question {one.number} of {one.stratum} drew too many: {one.draws}"


def _about_order(
    names: list[str], cells: list[StageRun], assignments: list[Assignment], chains: Chains
) -> Iterator[str]:
    """No stage opens before its predecessor passed, no device is offered anything before its stage is open."""
    opened: dict[tuple[str, int], int] = {}
    passed: dict[tuple[str, int], int] = {}
    for (kind, key), events in chains.items():
        if kind != "stage":
            continue
        for event in events:
            if event.detail["to"] == StageState.EXPOSING.value:
                opened.setdefault(key, event.id or 0)
            if event.detail["to"] in (StageState.PASSED.value, StageState.SKIPPED.value):
                passed[key] = event.id or 0
    for (stratum, stage), at in opened.items():
        if stage and not passed.get((stratum, stage - 1), at) < at:
            yield f"stage {stage} of {stratum} opened before stage {stage - 1} had passed"
    for cell in cells:
        is_begun = cell.state not in (StageState.PENDING, StageState.SKIPPED)
        if is_begun and (cell.stratum, cell.stage) not in opened:
            yield f"stage {cell.stage} of {cell.stratum} is {cell.state} and never opened"
    for one in assignments:
        offers = [e for e in chains.get(("assignment", one.device), []) if e.detail["to"] == "offered"]
        here = [e for e in offers if e.detail["stage"] == names[one.stage]]  # it may have run beside in an earlier one
        if here and not opened.get((one.stratum, one.stage), 1 << 62) < (here[0].id or 0):
            yield f"{one.device} was offered the release before stage {one.stage} opened"
        if len(offers) != one.attempt:
            yield f"{one.device} was offered the release {len(offers)} times, the table says {one.attempt}"


def _about_members(
    session: Session,
    row: Rollout,
    cells: list[StageRun],
    assignments: list[Assignment],
    asked: Sequence[Confirmation],
) -> Iterator[str]:
    """No device is skipped: whoever ranks below a cut belongs to the first such stage, and has an outcome at the end.

    A device that was drawn to confirm a failure may be in the stage of that failure, before its turn.
    """
    drawn = {draw.device: one.stage for one in asked for draw in one.draws if draw.is_new}
    cuts: dict[str, list[int]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: cell.stage):
        cuts[cell.stratum].append(cell.cut)
    known = {one.device: one for one in assignments}
    is_plain = all(stage.match == "" and stage.mode is Mode.ACTIVE for stage in parse_spec(row.spec).stages)
    is_over = RolloutState(row.state) in ROLLOUT_FINAL
    for device in session.execute(select(FleetDevice).where(col(FleetDevice.revoked_at).is_(None))).scalars():
        stage = stage_of(rank(row.salt, device.id), cuts.get(device.profile, []))
        one = known.get(device.id)
        if stage is not None and one is None and row.selector == "" and is_over:
            yield f"{device.id} belongs to stage {stage} of {device.profile} and was skipped"
        if one is None or one.stratum != device.profile or one.state is AssignmentState.INCOMPATIBLE:
            continue
        if one.state is AssignmentState.CANCELLED and one.reason.startswith("pinned: "):
            continue
        if device.suspect_since is not None and one.stage == len(cuts[one.stratum]) - 1:
            continue
        if not is_plain and rank(row.salt, device.id) < cuts[one.stratum][one.stage]:
            continue
        if one.stage == drawn.get(one.device) and (stage is None or one.stage < stage):
            continue
        if one.stage != stage:
            yield f"{device.id} is in stage {one.stage}, its rank says {stage}"
    if is_over:
        yield from (f"{one.device} ended {one.state}: no outcome" for one in assignments if one.state not in OUTCOME)


def _about_gens(session: Session, assignments: list[Assignment]) -> Iterator[str]:
    gens = {one.device_id: one.gen for one in session.execute(select(FleetDesired)).scalars()}
    for one in assignments:
        newest = gens.get(one.device, 1 << 62)
        if one.attempt and not 0 < one.gen <= newest:
            yield f"{one.device} was offered gen {one.gen}, its document has gen {newest}"
        if one.reason.endswith("was withdrawn"):
            continue  # it keeps the release: no document took it back
        if one.back_gen and newest < 1 << 62 and not one.gen < one.back_gen <= newest:
            yield f"{one.device} was taken back by gen {one.back_gen} after gen {one.gen}; its document has {newest}"


def _about_decisions(session: Session, row: Rollout, cells: list[StageRun]) -> Iterator[str]:
    made = rollouts.decisions(session, row.id, before=None, limit=100_000)
    for one in made:
        again = replay.outcome_of(replay.recompute(one.evidence))
        told = (one.verdict, one.code, one.reason, one.figures)
        if (again.verdict.value, again.code, again.reason, again.figures) != told:
            yield f"decision {one.id} comes out otherwise from its evidence: {again}"
        twice = replay.outcome_of(replay.recompute(msgspec.json.encode(one.evidence)))
        if twice != again:
            yield f"decision {one.id} comes out otherwise after JSON"
        if one.verdict == "roll_back" and one.code in BY_FAILURES and _rests_on_one(one.evidence):
            yield f"decision {one.id} takes a release back from others because of one device: {one.reason}"
    advances = {(one.stratum, one.stage) for one in made if one.verdict == "advance"}
    for cell in cells:
        is_passed = cell.state is StageState.PASSED and cell.strength is not Strength.OVERRIDE
        if is_passed and (cell.stratum, cell.stage) not in advances:
            yield f"stage {cell.stage} of {cell.stratum} passed without a decision"


def _rests_on_one(evidence: Mapping[str, Any]) -> bool:
    """Return whether the failure of one device alone moved others, although the spec does not say that it may."""
    words = evidence["words"]
    if words is None or words["acts_alone"] or words["verdict"] == Verdict.PROVED or evidence["population"] <= 1:
        return False
    drawn = words["failed"] if words["verdict"] == Verdict.CONFIRMED else 0  # a check may have failed, not an install
    failed = int(max(evidence["counts"]["failed"], evidence["pooled_failed"], 1 + drawn))
    return failed <= 1

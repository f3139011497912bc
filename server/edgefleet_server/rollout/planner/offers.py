"""Which devices are offered the release in a pass, and which leases of downloads end. Pure.

- Lowest bucket first, in each stratum, and no more than a pass may sign documents for.
- Nothing is offered in a stratum whose first outcomes are too bad (`analysis.doubt`), or where a failure waits to be
  confirmed (`confirmations`): then only a device that was drawn is.
- `admission` says of each device whether its turn has come.
- Before a rollout with limits or windows ends, each device that is still away gets its document: when it comes back, the limits are over.
- A lease ends when the device cannot be downloading any more, also in a rollout that has ended.
Source: ADR 0036, ADR 0051, ADR 0064.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout import admission
from edgefleet_server.rollout.admission import spread_offers
from edgefleet_server.rollout.analysis.decide import WORD_OPEN
from edgefleet_server.rollout.analysis.doubt import DOUBT, doubt
from edgefleet_server.rollout.analysis.facts import facts_of_lots
from edgefleet_server.rollout.effects import (
    AssignmentTransitioned,
    Blocked,
    LeaseEnded,
    Offer,
    RampWindowUpdated,
    StepReport,
)
from edgefleet_server.rollout.model import Assignment, Lot, RolloutState, StageRun, Wait
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner import confirmations, document_state, intake, stages
from edgefleet_server.rollout.planner.blockers import PERSON, TURN
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.completion import batch_of, is_rolled_back
from edgefleet_server.rollout.planner.stages import how_to_answer
from edgefleet_server.rollout.state_machines import CELL_OPEN, ROLLOUT_WALKS, AssignmentEvent, moved, stands_failed

# ---- codes of what holds devices: stable

STAGE_CLOSED: Final = "stage_closed"
PAUSED: Final = "paused"

_UNCONFIRMED: Final = (
    "a failure is not confirmed yet: nobody else is offered it until other devices have shown whether it is true"
)
_STAGE_CLOSED: Final = Wait(STAGE_CLOSED, "its stage is not open", "a person: see the stage")
_S: Final = AssignmentState
_E: Final = AssignmentEvent


def count_failures(plan: PlanBuilder) -> None:
    """Count devices that failed in this pass in the ramps: a minute in which one failed does not go faster."""
    failed = sum(_is_failure(effect) for effect in plan.effects)
    if failed and plan.admission.minutes:
        plan.admission.count_failures(failed)
        plan.emit(*(RampWindowUpdated(one) for one in plan.admission.minutes.values()))


def _is_failure(effect: object) -> bool:
    if not isinstance(effect, AssignmentTransitioned):
        return False
    return stands_failed(effect.assignment) or effect.assignment.state is _S.ELIGIBLE  # waits for its next try


def make(plan: PlanBuilder) -> StepReport | None:
    """Offer the release in every stratum; only after all were judged: a verdict of this pass stops offers of this pass."""
    left = document_state.batch_for(max(len(plan.snapshot.members), len(plan.snapshot.assignments)))
    offered, blocked = 0, list[Blocked]()
    for stratum in [track.stratum for track in plan.tracks()]:
        run = plan.track(stratum).offering
        if plan.state in ROLLOUT_WALKS and run is not None:
            some, held = _offer(plan, run, left - offered)
            offered += some
            blocked += held
    did = f"{offered} devices offered" if offered else ""
    return StepReport("offers.make", did, tuple(blocked)) if did or blocked else None


def _offer(plan: PlanBuilder, run: StageRun, most: int) -> tuple[int, list[Blocked]]:
    """Offer the release to at most so many devices of a stage run; return to how many, and what held the others."""
    intake.drop(plan, intake.devices_of(plan, run))
    waiting = [a for a in intake.devices_of(plan, run) if a.state is _S.ELIGIBLE]
    drawn = confirmations.drawn_new(plan, run.stratum)
    rest = [] if (wait := _resting(plan, run)) is None else [a for a in waiting if a.device not in drawn]
    offered, held = 0, [(wait, len(rest))] if wait is not None and rest else list[tuple[Wait, int]]()
    waiting = [a for a in waiting if a.device in drawn] if wait is not None else waiting
    for place, a in enumerate(_queue(plan, waiting)):
        if plan.admission.is_spent(run.stage) and (wait := plan.admission.blocked_by(a, run.stage)):
            held.append((wait, len(waiting) - place))  # it holds all behind this one, too
            break
        if offered == most:
            plan.is_cut_short = True
            held.append((_turn(plan, ": this one signs no more documents"), len(waiting) - place))
            break
        if wait := _admit(plan, a, run):
            held.append((wait, 1))
            continue
        offered += 1
        _offer_to(plan, a)
    return offered, _by_code(run, held)


def _queue(plan: PlanBuilder, waiting: Iterable[Assignment]) -> list[Assignment]:
    """Return devices that wait in the order of their turn: lowest bucket first."""
    buckets = [(rank(plan.snapshot.salt, a.device), a) for a in waiting]
    return [a for _, a in sorted(buckets, key=itemgetter(0))]


def _resting(plan: PlanBuilder, run: StageRun) -> Wait | None:
    """Return why a stratum is offered nothing just now, but for a device that was drawn."""
    if confirmations.is_open(plan, run.stratum):
        moves = f"drawn devices answer; or time: see `edgectl rollout explain {plan.snapshot.id}`"
        return Wait(WORD_OPEN, _UNCONFIRMED, moves)
    message = plan.failing_early.get(run.stratum)
    return Wait(DOUBT, message, "devices under way turn out well; or they stop the stratum") if message else None


def _admit(plan: PlanBuilder, a: Assignment, run: StageRun) -> Wait | None:
    """Return what holds a device; None: it can be offered the release, and what that takes is taken."""
    wait = plan.admission.blocked_by(a, run.stage)
    if wait is None:
        plan.emit(*plan.admission.admit(a, run.stage))
    return wait


def _turn(plan: PlanBuilder, late: str) -> Wait:
    reason = f"is offered the release at the next check{late}"
    return Wait(TURN, reason, "time: the engine checks every 2 s", plan.now)


def _by_code(run: StageRun, held: Iterable[tuple[Wait, int]]) -> list[Blocked]:
    """Return what held devices of a stage run, once for each code, in the words of the first."""
    found: dict[str, Blocked] = {}
    for wait, devices in held:
        known = found.get(wait.code, Blocked(wait, run.stratum, run.stage, 0))
        found[wait.code] = replace(known, count=known.count + devices)
    return list(found.values())


def _offer_to(plan: PlanBuilder, a: Assignment) -> None:
    stages.run_again(plan)
    after = moved(
        a,
        _E.OFFER,
        plan.now,
        attempt=a.attempt + 1,
        offered_at=plan.now,
        deadline=plan.now + document_state.time_to_answer(plan.snapshot, a),
        reason="",
        error_class="",
        retry_at=None,
    )
    plan.move_assignment(a, after)
    plan.emit(Offer(a.device))


def explain(plan: PlanBuilder, lots: Sequence[Lot]) -> dict[DeviceId, Wait]:
    """Offer nothing, but say of each device that waits for an offer what holds it: the same asks as in `make`, of the stored devices.

    lots: all devices of the rollout, counted. The queue is one of all strata, the device whose turn is next comes first.
    """
    waiting = [a for a in plan.assignments.values() if a.state is _S.ELIGIBLE]
    if plan.state is not RolloutState.RUNNING:
        return dict.fromkeys((a.device for a in waiting), _why_none_is_offered(plan))
    offering = {track.stratum: track.offering for track in plan.tracks()}
    for stratum, run in offering.items():
        if run is not None and run.state in CELL_OPEN:
            plan.failing_early[stratum] = doubt(facts_of_lots(plan.snapshot, run, lots, plan.now))
    most, offered = document_state.batch_for(sum(n for _, n in lots)), 0
    found: dict[DeviceId, Wait] = {}
    for a in _queue(plan, waiting):
        run = offering.get(a.stratum)
        wait = _STAGE_CLOSED if run is None else _resting(plan, run) or _admit(plan, a, run)
        if wait is None:
            offered += 1
            wait = _turn(plan, f"; one check offers {most} at most" if offered > most else "")
        found[a.device] = wait
    ahead = next((device for device, wait in found.items() if wait.code == TURN), None)
    return {one: found[one] for one in sorted(found, key=lambda one: (one != ahead, one))}


def _why_none_is_offered(plan: PlanBuilder) -> Wait:
    """Return what holds all devices of a rollout that does not run."""
    if plan.state is RolloutState.AWAITING_APPROVAL:
        moves = how_to_answer(plan.snapshot.id)
        return Wait(PERSON, "its next stage waits for an approval", moves)
    return Wait(PAUSED, f"the rollout is {plan.state}", f"`edgectl rollout resume {plan.snapshot.id}`")


def make_to_absent(plan: PlanBuilder) -> StepReport | None:
    """Write the documents of devices that are away although every stratum has ended: they join when they come back."""
    if not plan.snapshot.spec.recalls or not all(track.has_ended for track in plan.tracks()):
        return None
    reverted = {track.stratum for track in plan.tracks() if is_rolled_back(plan, track)}
    away = [a for a in plan.assignments.values() if a.state is _S.UNREACHABLE and a.stratum not in reverted]
    todo = [a for a in away if not a.back_gen and document_state.is_untouched(plan.snapshot, a)]
    batch = batch_of(plan)
    plan.is_cut_short |= len(todo) > batch
    for a in todo[:batch]:
        reason = "is away; its document waits for it"
        back = moved(a, _E.RETURN, plan.now, reason="the rollout ends, so its limits do", error_class="")
        out = moved(back, _E.OFFER, plan.now, attempt=a.attempt + 1, offered_at=plan.now, reason=reason)
        plan.move_assignment(a, back)
        plan.move_assignment(back, out)
        plan.move_assignment(out, moved(out, _E.MISS, plan.now, error_class=a.error_class, ended_at=plan.now))
        plan.emit(Offer(a.device))
    return StepReport("offers.make_to_absent", f"{len(todo[:batch])} documents for devices away") if todo else None


def end_leases(plan: PlanBuilder) -> StepReport | None:
    """End the leases of devices that download no more."""
    taken = {effect.device for effect in plan.effects if isinstance(effect, Offer)}
    ended = []
    for lease in plan.snapshot.pace.leases:
        a = plan.assignments.get(lease.device)
        digest = document_state.digest_of(plan.snapshot, a.stratum) if a is not None else ""
        report = plan.snapshot.reports.get(lease.device)
        if lease.device not in taken and not admission.holds(a, report, digest, plan.now):
            ended.append(LeaseEnded(lease.device))
    plan.emit(*ended)
    return StepReport("offers.end_leases", f"{len(ended)} leases ended") if ended else None


def has_leases(plan: PlanBuilder) -> bool:
    """Return whether a device still holds a lease: then there is a next pass, also when the rollout has ended."""
    ended = sum(isinstance(effect, LeaseEnded) for effect in plan.effects)
    return len(plan.snapshot.pace.leases) > ended


def add_jitter(plan: PlanBuilder) -> None:
    """Say in each offer over how many seconds the devices of its stage begin."""
    plan.effects = list(spread_offers(plan.effects, plan.assignments, plan.snapshot.spec, plan.now))

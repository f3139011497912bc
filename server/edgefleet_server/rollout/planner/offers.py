"""Which devices are offered the release in a pass, and which leases of downloads end. Pure.

- Lowest bucket first, in each stratum, and no more than a pass may sign documents for.
- Nothing is offered in a stratum whose first outcomes are too bad (`analysis/early_failure`).
- `throttle` says of each device whether its turn has come.
- Before a rollout with limits or windows ends, each device that is still away gets its document: when it comes back, the limits are over.
- A lease ends when the device cannot be downloading any more, also in a rollout that has ended.
Source: ADR 0036, ADR 0051, ADR 0064.
"""

from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.early_failure import DOUBT
from edgefleet_server.rollout.assignments import stands_failed
from edgefleet_server.rollout.bucketing import rank
from edgefleet_server.rollout.effects import (
    AssignmentTransitioned,
    Blocked,
    LeaseEnded,
    Offer,
    RampWindowUpdated,
    StepReport,
)
from edgefleet_server.rollout.model import Assignment, StageRun, Wait
from edgefleet_server.rollout.planner import documents, intake, transitions
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.rollback import batch_of, is_rolled_back
from edgefleet_server.rollout.state_machines import ROLLOUT_WALKS, AssignmentEvent, moved
from edgefleet_server.rollout.throttle import leases
from edgefleet_server.rollout.throttle.jitter import spread_offers

_MAKE: Final = "offers.make"
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
    before = len(plan.effects)
    left = documents.batch_for(max(len(plan.snapshot.members), len(plan.snapshot.assignments)))
    blocked: list[Blocked] = []
    for stratum in [track.stratum for track in plan.tracks()]:
        run = plan.track(stratum).offering
        if plan.state in ROLLOUT_WALKS and run is not None:
            left -= _offer(plan, run, left, blocked)
    offered = sum(isinstance(effect, Offer) for effect in plan.effects[before:])
    return StepReport(_MAKE, f"{offered} devices offered", tuple(blocked)) if offered or blocked else None


def _offer(plan: PlanBuilder, run: StageRun, left: int, blocked: list[Blocked]) -> int:
    """Offer the release to devices of a stage run whose turn it is, lowest bucket first; return to how many."""
    intake.drop(plan, intake.devices_of(plan, run))
    waiting = [a for a in intake.devices_of(plan, run) if a.state is _S.ELIGIBLE]
    if message := plan.failing_early.get(run.stratum):
        wait = Wait(DOUBT, message, "devices under way turn out well; or they stop the stratum")
        blocked.append(Blocked(wait, run.stratum, run.stage, len(waiting)))
        return 0
    buckets = {a.device: rank(plan.snapshot.salt, a.device) for a in waiting}
    offered = 0
    for a in sorted(waiting, key=lambda a: buckets[a.device]):
        if plan.admission.is_spent(run.stage):
            break
        if offered == left:
            plan.is_cut_short = True
            break
        if plan.admission.blocked_by(a, run.stage) is None:
            plan.emit(*plan.admission.admit(a, run.stage))
            offered += 1
            _offer_to(plan, a)
    return offered


def _offer_to(plan: PlanBuilder, a: Assignment) -> None:
    transitions.run_again(plan)
    after = moved(
        a,
        _E.OFFER,
        plan.now,
        attempt=a.attempt + 1,
        offered_at=plan.now,
        deadline=plan.now + documents.time_to_answer(plan.snapshot, a),
        reason="",
        error_class="",
        retry_at=None,
    )
    plan.move_assignment(a, after)
    plan.emit(Offer(a.device))


def make_to_absent(plan: PlanBuilder) -> StepReport | None:
    """Write the documents of devices that are away although every stratum has ended: they join when they come back."""
    if not plan.snapshot.spec.pacing.recalls or not all(track.has_ended for track in plan.tracks()):
        return None
    reverted = {track.stratum for track in plan.tracks() if is_rolled_back(plan, track)}
    away = [a for a in plan.assignments.values() if a.state is _S.UNREACHABLE and a.stratum not in reverted]
    todo = [a for a in away if not a.back_gen and documents.is_untouched(plan.snapshot, a)]
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
        digest = documents.digest_of(plan.snapshot, a.stratum) if a is not None else ""
        report = plan.snapshot.reports.get(lease.device)
        if lease.device not in taken and not leases.holds(a, report, digest, plan.now):
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

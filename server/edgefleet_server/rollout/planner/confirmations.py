"""Asks other devices whether a failure is confirmed that a plain rule would act on: opens questions, draws, hears, closes. Pure.

- A stratum has one question at a time, about all failures so far that nobody was asked about. While it is open no device of the stratum is
  offered the release but one that was drawn.
- Also after the end of a rollout, and while it is paused; then nobody new is drawn.
- Failures of suspects open none: they are counted like any other.
The rules are in `analysis.confirmation`. Source: ADR 0087.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import msgspec

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import confirmation
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.analysis.model import SMALL_STRATUM
from edgefleet_server.rollout.analysis.plain_rules import MAX_LOST, plain_rule
from edgefleet_server.rollout.effects import CheckAsked, ConfirmationUpdated, StepReport
from edgefleet_server.rollout.model import (
    GUARD_CLASSES,
    LOST,
    Assignment,
    Confirmation,
    OnFail,
    RolloutState,
    StageRun,
    StageState,
    Verdict,
)
from edgefleet_server.rollout.planner import completion, document_state, intake
from edgefleet_server.rollout.planner.builder import PlanBuilder, StratumTrack
from edgefleet_server.rollout.state_machines import (
    EXPOSED_STATES,
    FAILED_STATES,
    ROLLOUT_ACTIVE,
    ROLLOUT_WALKS,
    UNSWITCHED,
    class_of,
    is_failure,
    stands_failed,
)

_S: Final = AssignmentState
_GUARDS: Final = frozenset(kind.value for kind in GUARD_CLASSES)
_SERVES: Final = frozenset({_S.VERIFYING, _S.HEALTHY})
_INSTALLS: Final = UNSWITCHED | {_S.ELIGIBLE, _S.APPLYING}
_MAY_HAVE_FAILED: Final = FAILED_STATES | {_S.UNREACHABLE}


def ask(plan: PlanBuilder) -> StepReport | None:
    """Take every question as far as it goes, and open those that failures of this pass ask for."""
    is_over = plan.state not in ROLLOUT_ACTIVE
    if is_over and not completion.is_watched(plan):
        return None
    if plan.snapshot.spec.on_unconfirmed is OnFail.ROLLBACK and not is_over:
        return None
    failing = _failing(plan)
    alive = {one.stratum for one in plan.snapshot.confirmations if one.verdict in confirmation.ALIVE}
    changed = list[ProfileName]()
    ours: dict[DeviceId, Assignment] | None = None
    for track in plan.tracks():
        run, mine = judged_run(track), failing.get(track.stratum, [])
        if run is None or not (track.stratum in alive or _may_act(run, mine)):
            continue
        ours = _ours(plan) if ours is None else ours
        if _close(plan, track) or _follow(plan, run, ours) or (not track.has_failed and _open(plan, run, mine, ours)):
            changed.append(track.stratum)
    changed += _spread(plan)
    return StepReport("confirmations.ask", f"asked about failures in {', '.join(changed)}") if changed else None


def close(plan: PlanBuilder) -> StepReport | None:
    """Close the questions of a rollout that has ended, or of strata in which it goes back: nobody acts on their answers."""
    goes_back = {track.stratum for track in plan.tracks() if completion.is_rolled_back(plan, track)}
    is_all = plan.state is not RolloutState.ROLLING_BACK
    alive = [one for one in plan.snapshot.confirmations if one.verdict in confirmation.ALIVE]
    over = [one for one in alive if is_all or one.stratum in goes_back]
    for one in over:
        _keep(plan, msgspec.structs.replace(one, verdict=Verdict.OVER, closed_at=plan.now))
    strata = ", ".join(sorted({one.stratum for one in over}))
    return StepReport("confirmations.close", f"closed questions in {strata}") if over else None


def judged_run(track: StratumTrack) -> StageRun | None:
    """Return the stage run whose devices are the evidence of a stratum now, None when nothing was offered there yet."""
    run = track.current
    if run is None:
        passed = [one for one in track.runs if one.state is StageState.PASSED]
        return passed[-1] if passed else None
    if run.state is StageState.PENDING:
        return track.runs[run.stage - 1] if run.stage else None
    return run


def is_open(plan: PlanBuilder, stratum: ProfileName) -> bool:
    """Return whether the offers of a stratum rest for a question."""
    return any(one.stratum == stratum and one.verdict is Verdict.OPEN for one in plan.snapshot.confirmations)


def drawn_new(plan: PlanBuilder, stratum: ProfileName) -> frozenset[DeviceId]:
    """Return the devices that are offered the release because they were drawn."""
    return frozenset(
        draw.device
        for one in plan.snapshot.confirmations
        if one.stratum == stratum and one.verdict is Verdict.OPEN
        for draw in one.draws
        if draw.is_new
    )


def _failing(plan: PlanBuilder) -> dict[ProfileName, list[Assignment]]:
    """Return the devices that failed and that nobody was asked about, by stratum."""
    some = [a for a in plan.assignments.values() if a.state in _MAY_HAVE_FAILED or a.failed_before]
    known = confirmation.asked_about(plan.snapshot) if some else frozenset[DeviceId]()
    found: dict[ProfileName, list[Assignment]] = {}
    for a in some:
        if is_failure(a) and not a.is_accepted and a.device not in known:
            found.setdefault(a.stratum, []).append(a)
    return found


def _may_act(run: StageRun, failing: Sequence[Assignment]) -> bool:
    """Return whether a plain rule may act on failures: a look that costs little, since a large rollout has some in every pass."""
    classes = [class_of(a) for a in failing]
    is_serious = not _GUARDS.isdisjoint(classes) or classes.count(LOST) > MAX_LOST
    return bool(classes) and (is_serious or run.population < SMALL_STRATUM)


def _ours(plan: PlanBuilder) -> dict[DeviceId, Assignment]:
    """Return the devices whose documents are the rollout's own: no others show anything."""
    return {d: a for d, a in plan.assignments.items() if not document_state.is_overwritten(plan.snapshot, a)}


def _close(plan: PlanBuilder, track: StratumTrack) -> bool:
    """Close a question that nobody waits for any more: its stratum failed, or a person let pass what it is about."""
    asked = confirmation.sequence(plan.snapshot.confirmations, track.stratum)
    one = asked[-1] if asked else None
    if one is None or one.verdict not in confirmation.ALIVE:
        return False
    words = [a for device in one.words if (a := plan.assignments.get(device)) is not None]
    if not track.has_failed and not all(a.is_accepted for a in words):
        return False
    _keep(plan, msgspec.structs.replace(one, verdict=Verdict.OVER, closed_at=plan.now))
    return True


def _follow(plan: PlanBuilder, run: StageRun, ours: dict[DeviceId, Assignment]) -> bool:
    """Hear drawn devices, draw others for those that are gone, and close what is answered; return whether that changed anything."""
    asked = confirmation.sequence(plan.snapshot.confirmations, run.stratum)
    before = asked[-1] if asked else None
    if before is None or before.verdict not in confirmation.ALIVE:
        return False
    one = confirmation.heard(before, plan.snapshot, ours, plan.now)
    one = confirmation.judged(one, plan.now, can_draw=True)
    if one.verdict is Verdict.OPEN:
        known = len(one.draws)
        one = _draw(plan, run, one, ours)
        if any(draw.is_new for draw in one.draws[known:]):  # there is one of these at most, so this ends
            one = msgspec.structs.replace(one, deadline=_deadline(plan, run, one))
        one = confirmation.judged(one, plan.now, can_draw=False)
    if one == before:
        return False
    _keep(plan, one)
    return True


def _open(plan: PlanBuilder, run: StageRun, failing: list[Assignment], ours: dict[DeviceId, Assignment]) -> bool:
    """Ask about failures that a plain rule would act on, unless a question is open or answered by taking back."""
    newest = confirmation.sequence(plan.snapshot.confirmations, run.stratum)[-1:]
    is_busy = any(one.verdict is Verdict.OPEN or one.verdict in confirmation.STANDING for one in newest)
    if is_busy or not failing or run.population <= 1:
        return False
    counted = plan.assignments.values() if plan.state in ROLLOUT_ACTIVE else ours.values()
    facts = facts_of(plan.snapshot, run, counted, plan.now)
    rule = None if facts.words is None else plain_rule(facts.words.fresh, facts.counts, facts.population)
    if rule is None:
        return False
    acting = _acting(rule[1], failing)
    first = min(acting, key=lambda a: (a.ended_at or plan.now, a.device))
    which = class_of(first)
    how = confirmation.how_to_confirm(which, document_state.mode_of(plan.snapshot, run.stage))
    one = Confirmation(
        number=newest[0].number + 1 if newest else 0,
        stratum=run.stratum,
        stage=run.stage,
        how=how,
        code=rule[0],
        error_class=which,
        sha256=document_state.digest_of(plan.snapshot, run.stratum),
        words=[first.device, *sorted(a.device for a in acting if a is not first)],
        seed=plan.snapshot.seed,
        most=confirmation.most_drawn(run.population),
        opened_at=plan.now,
        deadline=plan.now,
    )
    one = _draw(plan, run, one, ours)
    one = msgspec.structs.replace(one, deadline=_deadline(plan, run, one))
    _keep(plan, confirmation.judged(one, plan.now, can_draw=False))
    return True


def _acting(named: Mapping[str, object], failing: list[Assignment]) -> list[Assignment]:
    """Return the failures that a plain rule acts on, of those that it may: who reported another one is neither asked about nor suspect."""
    which = str(named.get("which", LOST if "lost" in named else ""))
    return [a for a in failing if which in ("", class_of(a))]


def _deadline(plan: PlanBuilder, run: StageRun, one: Confirmation) -> datetime:
    """Return until when devices that were drawn now have to answer."""
    installs = any(plan.assignments[draw.device].state in _INSTALLS for draw in one.draws)
    return plan.now + confirmation.time_to_confirm(plan.snapshot, run.stage, one.how, installs=installs)


def _spread(plan: PlanBuilder) -> list[ProfileName]:
    """Confirm what is open in other strata about the same class of failure; return these strata."""
    confirmed = {one.error_class for one in plan.snapshot.confirmations if one.verdict is Verdict.CONFIRMED}
    found = [x for x in plan.snapshot.confirmations if x.verdict is Verdict.OPEN and x.error_class in confirmed]
    for one in found:
        _keep(plan, msgspec.structs.replace(one, verdict=Verdict.CONFIRMED, closed_at=plan.now))
    return [one.stratum for one in found]


def _draw(plan: PlanBuilder, run: StageRun, one: Confirmation, ours: dict[DeviceId, Assignment]) -> Confirmation:
    """Return the question with the devices that it is to have, which are asked. ours: gets those that the rollout had not yet."""
    there = [a for a in ours.values() if _may_be_asked(plan, run, a)]
    own = {a.device for a in there if a.stratum == run.stratum}
    answering = {a.device for a in there if stands_failed(a) or _is_online(plan, a)}
    pool = confirmation.Pool(
        own=own & answering,
        elsewhere=set() if one.needs_proof else answering - own,  # another bundle has other signatures and vectors
        new=list(_may_be_new(plan, run)),
        away=own - answering,
        serving={a.device for a in there if a.state in _SERVES},
    )
    after, fresh = confirmation.drawn(one, pool, plan.now)
    for draw in fresh:
        if draw.is_new and draw.device not in plan.assignments:
            plan.create_assignment(
                Assignment(
                    device=draw.device,
                    stage=run.stage,
                    stratum=run.stratum,
                    state=_S.ELIGIBLE,
                    is_joiner=True,
                    entered_at=plan.now,
                    due_at=plan.now,
                )
            )
        ours[draw.device] = plan.assignments[draw.device]
        if draw.task:
            plan.emit(CheckAsked(draw.device, draw.task, one.sha256))
    return confirmation.heard(after, plan.snapshot, ours, plan.now)


def _may_be_asked(plan: PlanBuilder, run: StageRun, a: Assignment) -> bool:
    """Return whether a device took the release up in the mode of the stage: what it shows, or showed already, is as good as any."""
    is_there = a.state in EXPOSED_STATES and not a.back_gen and not a.is_accepted and not a.failed_before
    mode = document_state.mode_of(plan.snapshot, run.stage)
    is_alike = document_state.mode_of(plan.snapshot, a.stage) is mode and (
        a.stratum != run.stratum or a.stage <= run.stage
    )
    return is_there and is_alike and a.device not in plan.snapshot.suspects


def _is_online(plan: PlanBuilder, a: Assignment) -> bool:
    report = plan.snapshot.reports.get(a.device)
    return report is not None and report.is_online


def _may_be_new(plan: PlanBuilder, run: StageRun) -> Iterator[DeviceId]:
    """Yield devices that may be offered the release to confirm a failure; in a stratum of two that would be all of it."""
    if plan.state not in ROLLOUT_WALKS or run.population <= 2 or run.state in (StageState.HELD, StageState.PASSED):
        return
    for device in intake.reach_of(plan, run):
        a = plan.assignments.get(device)
        is_free = a is None and device not in plan.members.pinned
        if (is_free or (a is not None and a.state is _S.ELIGIBLE)) and device not in plan.snapshot.suspects:
            yield device


def _keep(plan: PlanBuilder, one: Confirmation) -> None:
    others = [x for x in plan.snapshot.confirmations if (x.stratum, x.number) != (one.stratum, one.number)]
    plan.snapshot = replace(plan.snapshot, confirmations=(*others, one))
    same = (one.stratum, one.number)
    plan.effects[:] = [  # one change of each question a pass: it is compared with what is stored
        x
        for x in plan.effects
        if not (isinstance(x, ConfirmationUpdated) and (x.confirmation.stratum, x.confirmation.number) == same)
    ]
    plan.emit(ConfirmationUpdated(one))

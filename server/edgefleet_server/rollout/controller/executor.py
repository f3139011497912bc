"""Carries a plan out: rows, documents, brake and events, all in the caller's one transaction.

The controller and a person's commands use it alike. Rules:
- Each transition leaves exactly one event row, in the same transaction as the change itself.
- The brake is signed before documents, and every document at most once: where a plan changes one several times, the last change counts.
- Nothing is sent from here: listeners hear after the commit, and what a crash swallowed is found by the outbound's look.
- How much was written is counted for `/metrics` once it is committed; a transaction that is rolled back, a dry run for one, never is.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy.event import listen
from sqlmodel import Session

from edgefleet_protocol.desired import Deadlines, Ref, TelemetryRequest
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.desired.candidate import salt_of
from edgefleet_server.fleet.desired.model import CandidateOrder, ModelChange, TaskOrder
from edgefleet_server.fleet.desired.tasks import CHECK
from edgefleet_server.fleet.protection.model import RolloutWarrant
from edgefleet_server.rollout.analysis import replay
from edgefleet_server.rollout.analysis.model import Advance, Decision, KeepWaiting, Pause, RollBack
from edgefleet_server.rollout.analysis.phrases import asked_in_words
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    BandwidthBooked,
    CheckAsked,
    ConfirmationUpdated,
    DecisionMade,
    Effect,
    LeaseEnded,
    LeaseTaken,
    Offer,
    PaceEffect,
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
    Bundle,
    Confirmation,
    RolloutState,
    Snapshot,
    StageRun,
    Verdict,
    VerdictKind,
)
from edgefleet_server.rollout.planner.first_approval import approvers
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.preparation.loader import SnapshotLoader
from edgefleet_server.rollout.spec.model import Mode, StageSpec
from edgefleet_server.rollout.state_machines import EXPOSED_STATES
from edgefleet_server.rollout.store import assignments as store_assignments
from edgefleet_server.rollout.store import confirmation_rows, rollouts, throttle, webhook_gates
from edgefleet_server.rollout.store.tables import Rollout, RolloutDecision
from edgefleet_terms.rollout_states import is_final

CHECK_LIFE: Final = timedelta(hours=1)
"""How long a drawn device may begin its check."""
_BRAKED_BY: Final = (RolloutTransitioned, StageRunTransitioned, AssignmentCreated)
_MOST_NAMED: Final = 20
_REFUTED: Final = "it reported a {one.error_class} failure in rollout {rollout}; {proof}, and drawn devices found nothing wrong either"
_log = logging.getLogger(__name__)


class Document(StrEnum):
    """What a signed document does for a rollout: asks for its release, ends that, or takes a device back."""

    OFFER = "offer"
    WITHDRAWAL = "withdrawal"
    ROLLBACK = "rollback"


TransitionListener = Callable[[str, str, int], None]
"""Called with what moved (`rollout`, `stage`, `assignment`), where to, and how many did."""
DocumentListener = Callable[[str, int], None]


class CommittedCounts:
    """Counts what transactions write, and tells it after each commit."""

    def __init__(self) -> None:
        self._transitions: list[TransitionListener] = []
        self._documents: list[DocumentListener] = []

    def subscribe(self, transitions: TransitionListener, documents: DocumentListener) -> None:
        """Call these, in the committing thread."""
        self._transitions.append(transitions)
        self._documents.append(documents)

    def note(self, session: Session, events: Iterable[NewEvent], documents: Iterable[Document] = ()) -> None:
        """Take down what this transaction writes."""
        moved = Counter((event.kind, str(event.detail["to"])) for event in events)
        signed = Counter(documents)
        if moved or signed:
            listen(session, "after_commit", lambda _session: self._tell(moved, signed), once=True)

    def _tell(self, moved: Counter[tuple[str, str]], signed: Counter[Document]) -> None:
        for (kind, to), n in moved.items():
            for transitions in self._transitions:
                transitions(kind, to, n)
        for what, n in signed.items():
            for documents in self._documents:
                documents(what.value, n)


BRAKE_LIFE: Final = timedelta(days=7)
"""How long a stopped rollout stays named by the brake: as long as a document that offered it may live."""
LIVE_AT_MOST: Final = timedelta(days=7)
BRAKED: Final = frozenset(
    {
        RolloutState.PAUSED,
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLED_BACK,
        RolloutState.ROLLBACK_INCOMPLETE,
        RolloutState.CANCELLED,
        RolloutState.SUPERSEDED,
    }
)


@dataclass(slots=True)
class _Outcome:
    """A plan sorted by what has to be written."""

    cells: dict[tuple[int, str], StageRun] = field(default_factory=dict)
    assignments: dict[DeviceId, Assignment] = field(default_factory=dict)
    new: set[DeviceId] = field(default_factory=set)
    made: list[StageRun] = field(default_factory=list)
    documents: dict[DeviceId, Offer | Revert] = field(default_factory=dict)
    events: list[NewEvent] = field(default_factory=list)
    pace: list[PaceEffect] = field(default_factory=list)


class Executor:
    """Carries out plans."""

    def __init__(self, fleet: RolloutFleet, loader: SnapshotLoader) -> None:
        self._fleet = fleet
        self._loader = loader
        self.counted = CommittedCounts()

    def carry(
        self, session: Session, row: Rollout, snapshot: Snapshot, plan: Plan, *, actor: str, now: datetime
    ) -> tuple[Assignment, ...]:
        """Write what a plan asks for; return the assignments after it. The row is locked by the caller; its lease ends with this."""
        known = {one.device: one for one in snapshot.assignments}
        self.carry_part(session, row, snapshot, plan.effects, known, actor=actor, now=now)
        row.next_eval_at = plan.next_at
        row.lease_until = None
        return tuple(known[device] for device in sorted(known))

    def carry_part(
        self,
        session: Session,
        row: Rollout,
        snapshot: Snapshot,
        effects: Sequence[Effect],
        known: dict[DeviceId, Assignment],
        *,
        actor: str,
        now: datetime,
    ) -> None:
        """Write some effects of a plan. known: the assignments as the effects before left them; they are brought up to date."""
        outcome = _Outcome()
        for effect in effects:
            match effect:
                case RolloutTransitioned():
                    outcome.events.append(_move_rollout(row, effect, actor, now))
                case StageRunCreated() | StageRunUpdated():
                    outcome.made += [effect.cell] if isinstance(effect, StageRunCreated) else []
                    outcome.cells[effect.cell.stage, effect.cell.stratum] = effect.cell
                case StageRunTransitioned():
                    outcome.cells[effect.cell.stage, effect.cell.stratum] = effect.cell
                    outcome.events.append(_cell_event(row, snapshot, effect, actor))
                case AssignmentCreated():
                    outcome.new.add(effect.assignment.device)
                    outcome.assignments[effect.assignment.device] = effect.assignment
                case AssignmentUpdated():
                    outcome.assignments[effect.assignment.device] = effect.assignment
                case AssignmentTransitioned():
                    outcome.assignments[effect.assignment.device] = effect.assignment
                    outcome.events.append(_assignment_event(row, snapshot, effect, actor))
                case Offer() | Revert():
                    outcome.documents[effect.device] = effect
                case ConfirmationUpdated() | CheckAsked():
                    outcome.events += self._ask(session, row, snapshot, effect, actor)
                case DecisionMade():
                    rollouts.add_decision(session, _decision(row, effect, now))
                case RampWindowUpdated() | LeaseTaken() | LeaseEnded() | BandwidthBooked():
                    outcome.pace.append(effect)
        fresh = {(one.stage, one.stratum) for one in outcome.made}
        rollouts.save_cells(
            session,
            row.id,
            [one for place, one in outcome.cells.items() if place in fresh],
            [one for place, one in outcome.cells.items() if place not in fresh],
        )
        if any(stage.gates for stage in snapshot.spec.stages):
            webhook_gates.prepare(session, row.id, snapshot.spec, outcome.made, now)
        if any(isinstance(effect, _BRAKED_BY) for effect in effects):
            session.flush()  # the brake is read from the rows
            self.set_brake(session, now)
        signed = self._sign(row, snapshot, outcome, known, now)
        new = [outcome.assignments[device] for device in sorted(outcome.new)]
        changed = [one for device, one in sorted(outcome.assignments.items()) if device not in outcome.new]
        store_assignments.save_assignments(session, row.id, new, changed)
        throttle.save(session, row.id, outcome.pace)
        self._fleet.feed.add(outcome.events)
        self.counted.note(session, outcome.events, signed)
        known.update(outcome.assignments)

    def _ask(
        self, session: Session, row: Rollout, snapshot: Snapshot, effect: ConfirmationUpdated | CheckAsked, actor: str
    ) -> list[NewEvent]:
        """Write a question, or ask a drawn device to prove again what it runs; return the events of it."""
        if isinstance(effect, CheckAsked):
            self._ask_check(row, effect)
            return []
        one = effect.confirmation
        confirmation_rows.save(session, row.id, one)
        if one.verdict is Verdict.REFUTED:
            proof = one.proof.what if one.proof is not None else ""
            for device in one.words:
                self._fleet.suspicion.mark(device, _REFUTED.format(one=one, rollout=row.id, proof=proof))
        return _confirmation_events(row, snapshot, effect.confirmation, actor)

    def _ask_check(self, row: Rollout, asked: CheckAsked) -> None:
        """Ask a device for a check. Of one that cannot be asked there is no task: the next pass draws another."""
        order = TaskOrder(CHECK, {"model": row.model, "sha256": asked.sha256}, CHECK_LIFE)
        try:
            self._fleet.tasks.create(asked.device, order, f"rollout {row.id}", task_id=asked.task)
        except EdgefleetError as error:
            _log.warning("device not asked to check", extra={"device_id": asked.device, "reason": error.message})

    def set_brake(self, session: Session, now: datetime) -> bool:
        """Make the brake name every stopped rollout, and the bundles of stopped strata; return whether it was signed."""
        return self._fleet.hold.set(rollouts.braked(session, now - BRAKE_LIFE), rollouts.failed_digests(session))

    def _sign(
        self,
        row: Rollout,
        snapshot: Snapshot,
        outcome: _Outcome,
        known: Mapping[DeviceId, Assignment],
        now: datetime,
    ) -> list[Document]:
        """Write documents, and the gens that they got into the assignments; return what the documents do."""
        previous = self._previous(row, snapshot, outcome)
        for device in previous.keys() - outcome.documents.keys():
            outcome.assignments[device] = outcome.assignments[device].but(previous=previous[device])
        ones = {device: outcome.assignments.get(device) or known[device] for device in outcome.documents}
        offers: dict[tuple[str, int, int, int], Callable[[DeviceId], ModelChange]] = {}
        cells = {(one.stage, one.stratum): one for one in snapshot.cells} | outcome.cells
        approved = approvers(snapshot.spec, cells.values())
        changes = []
        for device, order in outcome.documents.items():
            one = ones[device]
            if isinstance(order, Offer):  # the same for all of a stratum and stage that are at the same attempt
                place = one.stratum, one.stage, one.attempt, order.start_within_s
                if place not in offers:
                    warrant = RolloutWarrant(row.id, approved.get(one.stratum, ""))
                    offers[place] = _offering(row, snapshot, one, order, now, warrant)
                changes.append(offers[place](device))
            else:
                changes.append(_giving_back(row, snapshot, one, order, approved.get(one.stratum, "")))
        gens = {signed.device: signed.gen for signed in self._fleet.desired.set_models(changes)} if changes else {}
        for device, order in outcome.documents.items():
            one, gen = ones[device], gens.get(device)
            if isinstance(order, Offer):
                ran = previous.get(device, one.previous)
                outcome.assignments[device] = one.but(gen=gen or one.gen, previous=ran)
            elif order.is_rollback:
                # who gets no document was taken out of the fleet, or given another release just now: nothing to wait for
                done_at = one.back_done_at if gen is not None else now
                outcome.assignments[device] = one.but(back_gen=gen or one.gen + 1, back_done_at=done_at)
        return [_document(outcome.documents[device]) for device in gens]

    def _previous(self, row: Rollout, snapshot: Snapshot, outcome: _Outcome) -> dict[DeviceId, Bundle]:
        """Return what the devices run that are offered the release, for the first time or again: what they would be rolled back to.

        Where an offer may be recalled also of those that are new: a device that stays away may keep what its document asks for.
        """
        offered = {device for device, order in outcome.documents.items() if isinstance(order, Offer)}
        # who is new and has the release already was adopted by an undo, which knows where it goes back to
        adopted = {device for device in outcome.new if outcome.assignments[device].state in EXPOSED_STATES}
        new = outcome.new - adopted if snapshot.spec.recalls else set()
        asked = sorted(new | offered)
        if not asked:
            return {}
        bad = {
            device: bundle.sha256
            for device in asked
            if (bundle := snapshot.bundles.get(outcome.assignments[device].stratum)) is not None
        }
        running = self._loader.running(asked, ModelName(row.model), bad)
        # where an earlier offer brought the release already, what ran before that is still the version to roll back to
        first = {device for device in asked if device in outcome.new or outcome.assignments[device].attempt <= 1}
        return {
            device: bundle for device, bundle in running.items() if device in first or bundle.sha256 != bad.get(device)
        }


def _giving_back(row: Rollout, snapshot: Snapshot, one: Assignment, order: Revert, approved_by: str) -> ModelChange:
    model, mine = ModelName(row.model), snapshot.bundles[one.stratum]
    if order.is_candidate:
        return ModelChange(one.device, model, _ref(mine), TelemetryRequest(), order=CandidateOrder("end"))
    bundle = order.to or one.previous
    before = None if bundle is None else _ref(bundle)
    ran = "" if one.previous is None else one.previous.sha256
    warrant = RolloutWarrant(row.id, approved_by, is_rollback=True, before=ran)
    return ModelChange(one.device, model, before, TelemetryRequest(), over=mine.sha256, warrant=warrant)


def _document(order: Offer | Revert) -> Document:
    if isinstance(order, Offer):
        return Document.OFFER
    return Document.ROLLBACK if order.is_rollback else Document.WITHDRAWAL


def _offering(
    row: Rollout, snapshot: Snapshot, one: Assignment, offer: Offer, now: datetime, warrant: RolloutWarrant
) -> Callable[[DeviceId], ModelChange]:
    """Return what makes the change of each device that is offered the release as this one is."""
    spec = snapshot.spec
    stage = spec.stages[one.stage]
    limits = spec.device
    deadlines = Deadlines(
        download_s=int(limits.download.total_seconds()),
        apply_s=int(limits.apply.total_seconds()),
        verify_s=int(limits.verify.total_seconds()),
    )
    ref = _ref(snapshot.bundles[one.stratum], rollout=row.id, attempt=one.attempt, deadlines=deadlines)
    if offer.start_within_s:
        ref = msgspec.structs.replace(ref, start_within_s=offer.start_within_s)
    watched = limits.download + limits.apply + limits.verify + stage.soak
    until = (now + min(watched, LIVE_AT_MOST)).replace(microsecond=0)
    telemetry, order = TelemetryRequest(profile="live", until=until), _order(row, stage)
    return partial(
        ModelChange, model=ModelName(row.model), active=ref, telemetry=telemetry, order=order, warrant=warrant
    )


def _order(row: Rollout, stage: StageSpec) -> CandidateOrder | None:
    """Return how a stage's devices run the release as a candidate, None where it becomes the active version."""
    match stage.mode:
        case Mode.ACTIVE:
            return None
        case Mode.SHADOW:
            return CandidateOrder("shadow")
        case Mode.SPLIT:
            return CandidateOrder("split", stage.share_pct, salt_of(f"{row.model}@{row.version}"))


def _ref(bundle: Bundle, *, rollout: str | None = None, attempt: int = 1, deadlines: Deadlines | None = None) -> Ref:
    return Ref(
        target=bundle.target,
        sha256=bundle.sha256,
        length=bundle.length,
        rollout=rollout,
        attempt=attempt,
        deadlines=deadlines or Deadlines(),
    )


def _move_rollout(row: Rollout, effect: RolloutTransitioned, actor: str, now: datetime) -> NewEvent:
    row.state, row.code, row.reason = effect.after.value, effect.code, effect.reason
    row.is_braked = effect.after in BRAKED
    row.ended_at = now if is_final(effect.after) else None  # one that is reopened is held by the brake again
    return event_of(
        row, "rollout", effect.before.value, effect.after.value, actor, code=effect.code, reason=effect.reason
    )


def _cell_event(row: Rollout, snapshot: Snapshot, effect: StageRunTransitioned, actor: str) -> NewEvent:
    cell = effect.cell
    more: dict[str, Any] = {
        "stage": snapshot.spec.stages[cell.stage].name,
        "stage_idx": cell.stage,
        "stratum": cell.stratum,
        "code": cell.code,
        "reason": cell.reason,
        "strength": None if cell.strength is None else cell.strength.value,
    }
    return event_of(row, "stage", effect.before.value, cell.state.value, actor, **more)


def _assignment_event(row: Rollout, snapshot: Snapshot, effect: AssignmentTransitioned, actor: str) -> NewEvent:
    one = effect.assignment
    more: dict[str, Any] = {
        "stage": snapshot.spec.stages[one.stage].name,
        "stratum": one.stratum,
        "attempt": one.attempt,
        "error_class": one.error_class,
        "reason": one.reason,
    }
    return event_of(row, "assignment", effect.before.value, one.state.value, actor, device=one.device, **more)


def _confirmation_events(row: Rollout, snapshot: Snapshot, one: Confirmation, actor: str) -> list[NewEvent]:
    """Return the event of a question that was opened or answered; nothing while answers come in."""
    before = next((x for x in snapshot.confirmations if (x.stratum, x.number) == (one.stratum, one.number)), None)
    if before is not None and before.verdict is one.verdict:
        return []
    more: dict[str, Any] = {
        "stage": snapshot.spec.stages[one.stage].name,
        "stratum": one.stratum,
        "error_class": one.error_class,
        "reason": one.proof.what if one.verdict is Verdict.PROVED and one.proof is not None else asked_in_words(one),
        "words": one.words[:_MOST_NAMED],
        "drawn": [draw.device for draw in one.draws],
        "proof": "" if one.proof is None else one.proof.what,
    }
    was = "" if before is None else before.verdict.value
    return [event_of(row, "confirmation", was, one.verdict.value, actor, **more)]


def event_of(
    row: Rollout, kind: str, before: str, after: str, actor: str, *, device: str = "", **more: Any
) -> NewEvent:
    """Return the event of one transition; what is empty in `more` is left out."""
    listed = {name: value for name, value in more.items() if value not in ("", None)}
    detail = {"from": before, "to": after, "actor": actor, "release": f"{row.model}@{row.version}", **listed}
    return NewEvent(kind, device, row.model, row.id, detail)


def kind_of(decision: Decision) -> VerdictKind:
    """Return a decision's public word."""
    match decision:
        case Advance():
            return VerdictKind.ADVANCE
        case KeepWaiting():
            return VerdictKind.HOLD
        case Pause():
            return VerdictKind.PAUSE
        case RollBack():
            return VerdictKind.ROLL_BACK


def _decision(row: Rollout, effect: DecisionMade, now: datetime) -> RolloutDecision:
    facts, decision = effect.facts, effect.decision
    return RolloutDecision(
        rollout_id=row.id,
        at=now,
        stage=facts.stage,
        stratum=facts.stratum,
        verdict=kind_of(decision).value,
        code=decision.code,
        reason=decision.reason,
        rule=facts.rule.value,
        rule_version=replay.RULE_VERSION,
        figures=dict(decision.figures),
        evidence=msgspec.to_builtins(facts),
        fence=row.fence,
    )
